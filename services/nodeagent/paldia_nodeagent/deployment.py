"""The life of one model's artifact on this node: one Triton, brought up, watched, drained.

Level-triggered: it is told what is allotted to it, no lanes for none, and works towards
that until it is reached. What fails is tried again, ever more slowly, while it is wanted.
What can't change while a process runs is changed by another one: it is brought up beside
the first, takes over, and the first is drained.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from paldia.api import convert
from paldia.api.v1 import agent_pb2
from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import NotServableError, PaldiaError, UnavailableError
from paldia.kit.lifecycle import sleep_unless
from paldia.kit.observability import logger
from paldia_nodeagent import causes
from paldia_nodeagent.allotment import Allotment, Key
from paldia_nodeagent.artifacts import ArtifactCache
from paldia_nodeagent.health import HungError
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.loading import LoadHungError, LoadStalledError
from paldia_nodeagent.memory import Verdict
from paldia_nodeagent.succession import Succession
from paldia_nodeagent.triton import TritonProcess

_CHECK_EVERY_S = 1.0
_BACKOFF_FIRST_S = 1.0
_BACKOFF_MOST_S = 30.0
# Up for so long, it has recovered: the next failure is the first again.
_STABLE_S = 60.0
_FAILURES_COUNTED = 10
# What hung may only have been slow, so it is given twice as long the next time.
_PATIENCE_MOST = 32
# It hasn't hung for so long, so that what is slow would have come up again.
_PATIENCE_KEPT_S = 600.0
_LOOK_AGAIN_S = 0.25
# From one replacement for its memory to the next: what grows faster isn't helped by more.
_RECYCLE_PAUSE_S = 60.0


class Deployment:
    """One (model, artifact) pair on this node."""

    def __init__(
        self,
        key: Key,
        wanted: Allotment,
        launcher: Launcher,
        artifacts: ArtifactCache,
        slots: asyncio.Semaphore,
        *,
        drain_s: float,
        on_change: Callable[[], None],
        adopted: TritonProcess | None = None,
    ) -> None:
        """Start working towards `wanted`; `adopted` serves already.

        `slots` bounds how many deployments come up at once; `on_change` is called when
        there is something new to report.
        """
        self.key = key
        self._wanted = wanted
        self._launcher = launcher
        self._artifacts = artifacts
        self._slots = slots
        self._drain_s = drain_s
        self._on_change = on_change
        self._triton = adopted
        self._state = pb.PLACEMENT_STATE_READY if adopted else pb.PLACEMENT_STATE_LOADING
        self._reason = ""
        self._memory_bytes = 0
        self._failures = 0
        self._patience = 1
        self._ready_since_s = time.monotonic()
        self._relane_after_s = 0.0
        self._renew_after_s = 0.0
        self._recycle_after_s = 0.0
        self._poke = asyncio.Event()
        self._succession = Succession(drain_s, self._poke.set)
        self.task = asyncio.create_task(self._live(), name=f"deployment {key.model}")

    @property
    def wanted(self) -> Allotment:
        """What is wanted of it; no lanes once it is to go."""
        return self._wanted

    def want(self, wanted: Allotment) -> None:
        """Say what is wanted of it; no lanes end it, in order where it serves."""
        self._wanted = wanted
        self._poke.set()
        if not wanted.lanes and self._state in (
            pb.PLACEMENT_STATE_LOADING,
            pb.PLACEMENT_STATE_FAILED,
        ):
            # Nobody uses it, and a load may take long.
            self.task.cancel()

    def status(self) -> agent_pb2.DeploymentStatus:
        """Say how it is."""
        status = agent_pb2.DeploymentStatus(
            model=self.key.model,
            artifact_digest=self.key.digest,
            state=self._state,
            reason=self._reason,
        )
        if self._triton is not None and self._triton.config is not None:
            status.endpoint = self._triton.record.endpoint
            status.lanes = self._triton.lanes
            status.sm_percent = convert.sm_percent_to_proto(self._triton.record.sm_percent)
            status.load.CopyFrom(convert.duration(self._triton.record.load_s))
            status.memory_bytes = self._memory_bytes
            status.model_config = self._triton.config.SerializeToString()
        return status

    async def busy_s(self) -> float:
        """Give the seconds that its model has computed so far; 0 while it doesn't serve."""
        if self._triton is None or self._state != pb.PLACEMENT_STATE_READY:
            return 0.0
        try:
            return await self._triton.admin.busy_s(self.key.model)
        except UnavailableError:
            return 0.0

    async def _live(self) -> None:
        try:
            while True:
                await self._keep_serving()
                if await self._drain():
                    return
        finally:
            await self._succession.end()
            if self._triton is not None:
                await self._triton.kill()
            logger().info("deployment.ended", model=self.key.model, digest=self.key.digest)

    async def _keep_serving(self) -> None:
        """Bring it up, as often as it takes, and watch it; return when it isn't wanted."""
        while self._wanted.lanes:
            try:
                if self._triton is None:
                    self._triton = await (self._succession.take() or self._bring_up())
                    self._ready_since_s = time.monotonic()
                while self._wanted.lanes:
                    await self._look_after(self._triton)
            except Exception as error:
                # Whatever it is, it must not take the agent and its other models down.
                await self._recover(error)

    async def _bring_up(self) -> TritonProcess:
        async with self._slots:
            artifact = await self._artifacts.obtain(self.key.digest)
            began_s = time.monotonic()
            triton = await self._launcher.launch(
                self.key.model,
                self.key.digest,
                artifact,
                "serve",
                lanes=self._wanted.lanes,
                sm_percent=self._wanted.sm_percent,
                patience=self._patience,
            )
            triton.settle(time.monotonic() - began_s)
        return triton

    async def _look_after(self, triton: TritonProcess) -> None:
        """Make its lanes as wanted and check it, about once a second."""
        self._poke.clear()
        now_s = time.monotonic()
        if triton.lanes != self._wanted.lanes and now_s >= self._relane_after_s:
            await self._relane(triton, self._wanted.lanes)
        if (successor := self._succession.take_done()) is not None:
            triton = self._succeed(triton, successor)
        memory = triton.judge_memory()
        self._memory_bytes = triton.device_memory_bytes()
        if not self._succession.under_way and now_s >= self._renew_after_s:
            self._renew(triton, memory)
        calm = await triton.check_health()
        if self._state is not pb.PLACEMENT_STATE_READY:
            self._set(pb.PLACEMENT_STATE_READY)
        if time.monotonic() - self._ready_since_s > _STABLE_S:
            self._failures = 0
        if time.monotonic() - self._ready_since_s > _PATIENCE_KEPT_S:
            self._patience = 1
        await sleep_unless(self._poke, _CHECK_EVERY_S if calm else _LOOK_AGAIN_S)

    async def _relane(self, triton: TritonProcess, lanes: int) -> None:
        """Change the number of lanes; failing that, what is there goes on serving."""
        try:
            await triton.load(lanes)
            logger().info("deployment.relaned", model=self.key.model, lanes=triton.lanes)
            self._set(self._state)
        except LoadHungError:
            raise
        except NotServableError as error:
            self._relane_after_s = time.monotonic() + _BACKOFF_MOST_S
            self._set(self._state, f"can't have {lanes} lanes: {error}")

    def _renew(self, triton: TritonProcess, memory: Verdict) -> None:
        """Bring up another process if it has to take this one's place, or say why it can't."""
        now_s = time.monotonic()
        recycle = memory.replace and now_s >= self._recycle_after_s
        if recycle:
            self._recycle_after_s = now_s + _RECYCLE_PAUSE_S
            logger().info(
                "deployment.outgrown", model=self.key.model, memory_bytes=memory.held_bytes
            )
        if recycle or self._launcher.outdated(triton, self._wanted.sm_percent):
            self._succession.begin(self._bring_up())
        elif memory.obstacle:
            self._renew_after_s = now_s + _BACKOFF_MOST_S
            logger().warning("deployment.outgrown", model=self.key.model, obstacle=memory.obstacle)
            self._set(self._state, memory.obstacle)

    def _succeed(
        self, triton: TritonProcess, successor: asyncio.Task[TritonProcess]
    ) -> TritonProcess:
        """Let the process brought up take over and the one before leave; give who serves now."""
        if (error := successor.exception()) is not None:
            self._learn(error)
            self._renew_after_s = time.monotonic() + _BACKOFF_MOST_S
            self._set(self._state, f"can't be replaced on this node: {_told(error)}")
            return triton
        self._succession.dismiss(triton)
        self._triton = successor.result()
        self._ready_since_s = time.monotonic()
        self._set(self._state)
        logger().info("deployment.renewed", model=self.key.model, digest=self.key.digest)
        return self._triton

    async def _recover(self, error: Exception) -> None:
        """End what is left of it, say why, and wait before the next try."""
        self._learn(error)
        # What may well work the next time isn't the model's fault.
        transient = isinstance(error, UnavailableError)
        state = pb.PLACEMENT_STATE_LOADING if transient else pb.PLACEMENT_STATE_FAILED
        reason = _told(error)
        self._set(state, reason)
        logger().warning(
            "deployment.failed",
            model=self.key.model,
            digest=self.key.digest,
            reason=reason,
            failures=self._failures,
            exc_info=not isinstance(error, PaldiaError | OSError),
        )
        served = self._triton is not None
        if self._triton is not None:
            await self._triton.kill()
            self._triton = None
        # What has served restarts at once the first time.
        if self._failures or not served:
            await self._wait_wanted(min(_BACKOFF_FIRST_S * 2**self._failures, _BACKOFF_MOST_S))
        self._failures = min(self._failures + 1, _FAILURES_COUNTED)

    def _learn(self, error: BaseException) -> None:
        # What died or was refused wouldn't be helped by more time.
        if isinstance(error, HungError | LoadStalledError):
            self._patience = min(2 * self._patience, _PATIENCE_MOST)

    async def _wait_wanted(self, wait_s: float) -> None:
        end_s = time.monotonic() + wait_s
        while self._wanted.lanes and (left_s := end_s - time.monotonic()) > 0:
            self._poke.clear()
            await sleep_unless(self._poke, left_s)

    async def _drain(self) -> bool:
        """Let callers leave, then end Triton; False if it was wanted again in time."""
        if self._triton is None:
            return True
        self._set(pb.PLACEMENT_STATE_DRAINING)
        end_s = time.monotonic() + self._drain_s
        while not self._wanted.lanes and (left_s := end_s - time.monotonic()) > 0:
            self._poke.clear()
            await sleep_unless(self._poke, left_s)
        if self._wanted.lanes:
            self._set(pb.PLACEMENT_STATE_READY)
            return False
        await self._triton.end()
        self._triton = None
        return True

    def _set(self, state: pb.PlacementState.ValueType, reason: str = "") -> None:
        self._state, self._reason = state, reason
        self._on_change()


def _told(error: BaseException) -> str:
    """Give a failure's reason as it is reported; what isn't foreseen says what it is."""
    foreseen = isinstance(error, PaldiaError | OSError)
    return causes.fit_to_tell(str(error) if foreseen else f"{type(error).__name__}: {error}")
