"""Measures models on this node when asked, one at a time, each in a Triton of its own.

Level-triggered like deployments: a task listed is done once and its result repeated
until it is no longer listed; one withdrawn is stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from paldia.api import convert
from paldia.api.v1 import agent_pb2
from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import PaldiaError, UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent import causes
from paldia_nodeagent.artifacts import ArtifactCache
from paldia_nodeagent.quiet import Quiet
from paldia_nodeagent.survey import Bench, Survey

TASKS_LIMIT = 64
_WAITING = "waiting, for the node serves requests"
_RETRY_FIRST_S = 1.0
_RETRY_MOST_S = 30.0
_END_LIMIT_S = 10.0


class Profiler:
    """Does the profile tasks of this node."""

    def __init__(
        self,
        bench: Bench,
        artifacts: ArtifactCache,
        *,
        node_id: str,
        hardware: str,
        busy_s: Callable[[], Awaitable[float]],
        on_change: Callable[[], None],
    ) -> None:
        """Prepare to measure with `bench` for `node_id`, of kind `hardware`.

        `busy_s` gives the seconds that the models which serve here have computed so far.
        """
        self._bench = bench
        self._artifacts = artifacts
        self._node_id = node_id
        self._hardware = hardware
        self._busy_s = busy_s
        self._on_change = on_change
        self._tasks: dict[str, agent_pb2.ProfileTask] = {}
        self._results: dict[str, agent_pb2.ProfileResult] = {}
        self._progress: agent_pb2.ProfileProgress | None = None
        self._working_on = ""
        self._work: asyncio.Task[None] | None = None
        self._more = asyncio.Event()

    def want(self, tasks: Sequence[agent_pb2.ProfileTask]) -> None:
        """Do these tasks, and no others."""
        self._tasks = {task.task_id: task for task in tasks[:TASKS_LIMIT]}
        for task_id in [*self._results]:
            if task_id not in self._tasks:
                del self._results[task_id]
        if self._work is not None and self._working_on not in self._tasks:
            self._work.cancel()
        self._more.set()

    def results(self) -> list[agent_pb2.ProfileResult]:
        """Give the results of the tasks listed, as far as they are done."""
        return [*self._results.values()]

    def progress(self) -> list[agent_pb2.ProfileProgress]:
        """Say how far the task under way is, if there is one."""
        return [self._progress] if self._progress is not None else []

    def digests(self) -> set[str]:
        """Give the artifacts of the tasks listed."""
        return {task.artifact_digest for task in self._tasks.values()}

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._more.clear()
            task = next((t for t in self._tasks.values() if t.task_id not in self._results), None)
            if task is None:
                await self._more.wait()
                continue
            self._working_on = task.task_id
            self._work = asyncio.create_task(self._do(task))
            await asyncio.wait({self._work})
            if not self._work.cancelled():
                self._work.result()

    async def shut_down(self) -> None:
        """Stop what is being measured and end its Triton."""
        self.want([])
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=_END_LIMIT_S)

    async def _do(self, task: agent_pb2.ProfileTask) -> None:
        """Do one task, whatever comes of it; again and again while it can't be begun."""
        log = logger().bind(task_id=task.task_id, model=task.model)
        wait_s = _RETRY_FIRST_S
        while True:
            try:
                result = await self._measure(task)
                break
            except UnavailableError as error:
                # Not the model's fault, so no result.
                log.warning("profile.delayed", reason=str(error), retry_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _RETRY_MOST_S)
            except Exception as error:
                known = isinstance(error, PaldiaError | OSError)
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                log.warning("profile.failed", reason=reason, exc_info=not known)
                result = agent_pb2.ProfileResult(task_id=task.task_id)
                result.profile.CopyFrom(self._profile(task))
                result.profile.failure = causes.fit_to_tell(reason)
                break
        log.info("profile.done", points=len(result.profile.points))
        self._results[task.task_id] = result
        self._on_change()

    def _profile(self, task: agent_pb2.ProfileTask) -> pb.Profile:
        return pb.Profile(
            artifact_digest=task.artifact_digest,
            hardware=self._hardware,
            measured_at=convert.timestamp(time.time()),
            node_id=self._node_id,
        )

    async def _measure(self, task: agent_pb2.ProfileTask) -> agent_pb2.ProfileResult:
        artifact = await self._artifacts.obtain(task.artifact_digest)
        progress = agent_pb2.ProfileProgress(task_id=task.task_id)
        before = ""

        def tell(stage: str, fraction: float) -> None:
            progress.stage, progress.fraction = stage, fraction
            self._progress = progress
            self._on_change()

        def wait(waits: bool) -> None:
            nonlocal before
            if waits:
                before = progress.stage
            tell(_WAITING if waits else before, progress.fraction)

        quiet = Quiet(
            self._busy_s,
            patience_s=convert.seconds(task.patience),
            insists=not task.full,
            on_wait=wait,
        )
        try:
            survey = Survey(self._bench, task, artifact, quiet, tell)
            figures, config = await survey.run()
        finally:
            self._progress = None
        profile = self._profile(task)
        profile.MergeFrom(figures)
        return agent_pb2.ProfileResult(
            task_id=task.task_id, profile=profile, model_config=config.SerializeToString()
        )
