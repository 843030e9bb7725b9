"""Measures models on this node when asked, one at a time, each in a Triton of its own.

Level-triggered like deployments: a task listed is done once and its result repeated
until it is no longer listed; one withdrawn is stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tritonclient.grpc import model_config_pb2

from paldia.api import convert
from paldia.api.v1 import agent_pb2
from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import PaldiaError, UnavailableError
from paldia.core.profiles import Profile
from paldia.kit.observability import logger
from paldia_nodeagent import causes
from paldia_nodeagent.artifacts import ArtifactCache
from paldia_nodeagent.emulator.folder import is_emulated
from paldia_nodeagent.inputs import batch_sizes, make_request, sample_item
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.measure import answer, measure
from paldia_nodeagent.repository import ModelConfig
from paldia_nodeagent.triton import TritonProcess

TASKS_LIMIT = 64
_BUDGET_S = 10.0
"""Where the task names none."""
_COLOCATION_PENALTY = 0.05
"""Until it is measured."""
_RETRY_FIRST_S = 1.0
_RETRY_MOST_S = 30.0
_END_LIMIT_S = 10.0


class Profiler:
    """Does the profile tasks of this node."""

    def __init__(
        self,
        launcher: Launcher,
        artifacts: ArtifactCache,
        *,
        node_id: str,
        hardware: str,
        cores: int,
        slowdown: float,
        on_change: Callable[[], None],
    ) -> None:
        """Prepare to measure for `node_id`, of kind `hardware`, with `cores` cores.

        Its Tritons run `slowdown` times slower than they could.
        """
        self._launcher = launcher
        self._artifacts = artifacts
        self._node_id = node_id
        self._hardware = hardware
        self._cores = cores
        self._slowdown = slowdown
        self._on_change = on_change
        self._tasks: dict[str, agent_pb2.ProfileTask] = {}
        self._results: dict[str, agent_pb2.ProfileResult] = {}
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
        began_s = time.monotonic()
        triton = await self._launcher.launch(task.model, task.artifact_digest, artifact, "profile")
        try:
            return await self._measure_loaded(task, triton, artifact, began_s)
        finally:
            await triton.kill()

    async def _measure_loaded(
        self, task: agent_pb2.ProfileTask, triton: TritonProcess, artifact: Path, began_s: float
    ) -> agent_pb2.ProfileResult:
        config = triton.config
        item = sample_item(config, artifact, np.random.default_rng(0))
        await answer(triton.admin, make_request(task.model, config, item, 1))
        load_s = time.monotonic() - began_s
        cpu_before_s = triton.demanded_cpu_s()
        measuring_s = time.monotonic()
        points = await measure(
            triton.admin,
            lambda size: make_request(task.model, config, item, size),
            batch_sizes(config.max_batch_size, task.max_batch_size),
            budget_s=convert.seconds(task.budget) or _BUDGET_S,
            latency_cap_s=convert.seconds(task.latency_cap),
        )
        cpu_s = triton.demanded_cpu_s() - cpu_before_s
        # A slowed node's Tritons get only part of the time that passes.
        running_s = (time.monotonic() - measuring_s) / self._slowdown
        measured = Profile(
            points=tuple((point.batch_size, point.latency_s) for point in points),
            load_s=load_s,
            memory_bytes=triton.device_memory_bytes(),
            # One figure for all sizes: processor time isn't counted apart for each.
            demand=((1, demand_fraction(config, cpu_s / running_s, self._cores)),),
            colocation_penalty=_COLOCATION_PENALTY,
        )
        profile = self._profile(task)
        profile.MergeFrom(convert.profile_to_proto(measured))
        for told, point in zip(profile.points, points, strict=True):
            told.samples = point.samples
        return agent_pb2.ProfileResult(
            task_id=task.task_id, profile=profile, model_config=config.SerializeToString()
        )


def demand_fraction(config: ModelConfig, threads_used: float, cores: int) -> float:
    """Give the share of the device that a batch takes, above 0 and at most 1.

    On a CPU that is threads used / cores. On a GPU, real or emulated, it is 1, an upper
    bound: what one kernel after another leaves free can't be seen from utilisation.
    """
    kinds = {group.kind for group in config.instance_group}
    if model_config_pb2.ModelInstanceGroup.KIND_GPU in kinds or is_emulated(config):
        return 1.0
    return min(max(threads_used / cores, 0.01), 1.0)
