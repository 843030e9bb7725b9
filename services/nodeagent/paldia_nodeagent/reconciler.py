"""Makes the node hold what the controller wants: the difference, then its steps.

Level-triggered: each message is all that is wanted, so a lost one costs nothing. Until
the first has come, and while the controller is away, everything stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paldia.api.v1 import agent_pb2
from paldia.kit.observability import logger
from paldia_nodeagent.allotment import NOTHING, Allotment, Key
from paldia_nodeagent.artifacts import ArtifactCache
from paldia_nodeagent.deployment import Deployment
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.triton import STOP_GRACE_S, TritonProcess

_COMING_UP_MOST = 4


@dataclass(frozen=True, slots=True)
class Start:
    """Bring up a deployment that isn't there."""

    key: Key
    wanted: Allotment


@dataclass(frozen=True, slots=True)
class Adjust:
    """Change what one that is there has; if it drains, call it back while that works."""

    key: Key
    wanted: Allotment


@dataclass(frozen=True, slots=True)
class Drain:
    """End one that is there."""

    key: Key


Step = Start | Adjust | Drain


def difference(desired: Mapping[Key, Allotment], actual: Mapping[Key, Allotment]) -> list[Step]:
    """Give the steps from `actual` to `desired`, both what is wanted by deployment.

    In `actual`, no lanes is one that is on its way out.
    """
    steps: list[Step] = []
    for key in sorted(desired):
        if key not in actual:
            steps.append(Start(key, desired[key]))
        elif actual[key] != desired[key]:
            steps.append(Adjust(key, desired[key]))
    steps.extend(Drain(key) for key in sorted(actual) if actual[key].lanes and key not in desired)
    return steps


class Reconciler:
    """The deployments on this node."""

    def __init__(
        self,
        launcher: Launcher,
        artifacts: ArtifactCache,
        *,
        drain_s: float,
        on_change: Callable[[], None],
    ) -> None:
        """Hold nothing yet; `on_change` is called when there is something new to report."""
        self._launcher = launcher
        self._artifacts = artifacts
        self._drain_s = drain_s
        self._on_change = on_change
        self._slots = asyncio.Semaphore(_COMING_UP_MOST)
        self._desired: dict[Key, Allotment] | None = None
        self._actual: dict[Key, Deployment] = {}
        self._closing = False

    def adopt(self, tritons: list[TritonProcess]) -> None:
        """Take up what an earlier agent left running."""
        for triton in tritons:
            key = Key(triton.record.model, triton.record.digest)
            self._start(key, Allotment(triton.lanes, triton.record.sm_percent), triton)

    def want(self, desired: dict[Key, Allotment]) -> None:
        """Work towards `desired` from now on."""
        if not self._closing:
            self._desired = desired
            self._reconcile()

    def _reconcile(self) -> None:
        if self._desired is None:
            return
        actual = {key: deployment.wanted for key, deployment in self._actual.items()}
        for step in difference(self._desired, actual):
            logger().info("reconcile.step", step=type(step).__name__, **_fields(step))
            match step:
                case Start(key, wanted):
                    self._start(key, wanted)
                case Adjust(key, wanted):
                    self._actual[key].want(wanted)
                case Drain(key):
                    self._actual[key].want(NOTHING)

    def _start(self, key: Key, wanted: Allotment, adopted: TritonProcess | None = None) -> None:
        deployment = Deployment(
            key,
            wanted,
            self._launcher,
            self._artifacts,
            self._slots,
            drain_s=self._drain_s,
            on_change=self._on_change,
            adopted=adopted,
        )
        self._actual[key] = deployment
        deployment.task.add_done_callback(lambda task: self._ended(key, task))
        self._on_change()

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        del self._actual[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger().error("deployment.broke", model=key.model, exc_info=error)
        self._on_change()
        # It may have been wanted again when it was too late to call it back.
        self._reconcile()

    def statuses(self) -> list[agent_pb2.DeploymentStatus]:
        """Say how each deployment is, by key."""
        return [self._actual[key].status() for key in sorted(self._actual)]

    async def busy_s(self) -> float:
        """Give the seconds that all models here have computed so far."""
        return sum(await asyncio.gather(*(it.busy_s() for it in self._actual.values())))

    def digests(self) -> set[str]:
        """Give the artifacts in use or wanted."""
        return {key.digest for key in [*self._actual, *(self._desired or {})]}

    async def shut_down(self) -> None:
        """Drain and end every deployment; bounded in time."""
        self._closing = True
        self._desired = {}
        self._reconcile()
        tasks = [deployment.task for deployment in self._actual.values()]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=self._drain_s + 2 * STOP_GRACE_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


def _fields(step: Step) -> dict[str, object]:
    wanted = NOTHING if isinstance(step, Drain) else step.wanted
    return {
        "model": step.key.model,
        "digest": step.key.digest,
        "lanes": wanted.lanes,
        "sm_percent": wanted.sm_percent,
    }
