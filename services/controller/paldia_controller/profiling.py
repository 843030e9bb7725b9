"""Who measures what: at most one task a kind of hardware and artifact, one a node.

Tasks live in memory. Their ids follow from what is measured, so after a restart the
same tasks are asked for again and an agent that has finished one answers at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from paldia.api import convert
from paldia.api.v1 import agent_pb2, control_pb2, types_pb2
from paldia.core.observation import NodeView
from paldia.core.types import NodeState
from paldia_controller.outcomes import failed
from paldia_controller.rollout import Wanted
from paldia_controller.state import profile_key

BUDGET_S = 4.0
"""Time an agent spends on measuring in haste, besides loading."""
FULL_BUDGET_S = 24.0
"""The same in full."""
PATIENCE_S = 5.0
"""Time a measurement in haste may wait for a moment in which its node serves nobody."""
FULL_PATIENCE_S = 60.0
"""The same in full."""
IDLE_S = 60.0
AGAIN_S = 600.0
"""Time before a measurement for which there was no quiet is tried again in idle time."""
LARGEST_BATCH = 32
OUTCOMES_KEPT = 256
TASK_LIMIT_S = 150.0
"""A task without a result for so long has failed."""


@dataclass(frozen=True, slots=True)
class Task:
    """A measurement under way on a node."""

    wanted: Wanted
    node_id: str
    task_id: str
    started_s: float
    """Monotonic, for a clock that is set must not make it overdue."""

    @property
    def key(self) -> str:
        """Name of the profile it yields."""
        return profile_key(self.wanted.digest, self.wanted.hardware)

    @property
    def unmeasured(self) -> types_pb2.Profile:
        """The profile, without figures."""
        return types_pb2.Profile(
            artifact_digest=self.wanted.digest,
            hardware=self.wanted.hardware,
            node_id=self.node_id,
        )


class Profiling:
    """The measurements under way."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self.idle_s = idle_s
        """Time without requests after which a node may measure what is only worth having."""
        self.tasks: dict[str, Task] = {}
        self.repeating: dict[str, bool] = {}
        """Profiles that are measured although they are known; whether in full."""
        self._refining = ""
        """The profile that is refined in idle time, if one is."""
        self._not_before_s: dict[str, float] = {}
        """When refining a profile may be tried again."""
        self.outcomes: dict[str, types_pb2.Profile] = {}
        """What the last repeated measurements gave, failures included."""
        self._round = 0
        """Part of new tasks' ids, raised whenever an earlier result must not count for them."""

    @property
    def under_way(self) -> frozenset[tuple[str, str]]:
        """The ids of all tasks, each with its node."""
        return frozenset((task.task_id, task.node_id) for task in self.tasks.values())

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that measure something."""
        return frozenset(task.node_id for task in self.tasks.values())

    def assign(self, missing: Iterable[Wanted], nodes: tuple[NodeView, ...], now_s: float) -> None:
        """Give each missing measurement to a free node; drop those no longer missing."""
        wanted = {profile_key(want.digest, want.hardware): want for want in missing}
        usable = {node.node_id: node for node in nodes if node.usable}
        self.tasks = {
            key: _begun(task, usable[task.node_id], now_s)
            for key, task in self.tasks.items()
            if key in wanted and task.node_id in usable
        }
        for key, want in wanted.items():
            if key not in self.tasks:
                self._begin(key, want, nodes, now_s)

    def refine(
        self,
        missing: Iterable[Wanted],
        wanted: Iterable[Wanted],
        idle: Collection[str],
        nodes: tuple[NodeView, ...],
        now_s: float,
    ) -> None:
        """Give out what is missing, and in idle time one measurement that is only worth having.

        Args:
            missing: what has to be measured; nothing else is while there is any of it.
            wanted: what is worth measuring, in order.
            idle: ids of nodes that serve nobody.
            nodes: all nodes.
            now_s: monotonic time.
        """
        due = [*missing]
        later = (
            {}
            if due
            else {
                key: want
                for want in wanted
                if (key := profile_key(want.digest, want.hardware)) not in self._not_before_s
                or now_s >= self._not_before_s[key]
            }
        )
        # One that is under way goes on as long as it is wanted; its agent gives way to traffic.
        if self._refining not in self.tasks or self._refining not in later:
            self._refining = ""
        self.assign([*due, *([later[self._refining]] if self._refining else [])], nodes, now_s)
        if self._refining:
            return
        free = tuple(node for node in nodes if node.node_id in idle)
        for key, want in later.items():
            if self._begin(key, want, free, now_s):
                self._refining = key
                return

    def _begin(self, key: str, want: Wanted, nodes: tuple[NodeView, ...], now_s: float) -> bool:
        """Give a measurement to a free node, if there is one."""
        free = [
            node
            for node in nodes
            if node.usable
            and node.hardware.name == want.hardware
            and node.node_id not in self.nodes
        ]
        if not free:
            return False
        # A machine that has to be asked for costs more than a measurement that is a little
        # disturbed; among others an idle node is neither, and disturbs nobody.
        node = min(free, key=lambda n: (_wait_s(n), len(n.deployments), n.node_id))
        depth = "-full" if want.full else ""
        task_id = f"{want.digest[:16]}-{want.hardware}-{self._round}{depth}"
        self.tasks[key] = Task(want, node.node_id, task_id, now_s)
        return True

    def repeat(self, keys: Iterable[str], wall_s: float, *, full: bool) -> None:
        """Have profiles measured anew, known or not; in haste, or in full."""
        # An id that a controller before this one has not used either.
        self._round = max(self._round + 1, round(wall_s * 1e3))
        for key in keys:
            self.repeating[key] = full
            self.tasks.pop(key, None)
            self.outcomes.pop(key, None)

    def asked_in_full(self, want: Wanted) -> bool:
        """Whether somebody asked for a full measurement."""
        return self.repeating.get(profile_key(want.digest, want.hardware), False)

    def forget(self, keys: Iterable[str]) -> None:
        """No longer wait for repeated measurements."""
        for key in keys:
            self.repeating.pop(key, None)

    def finished(self, task: Task, profile: types_pb2.Profile, now_s: float) -> None:
        """Note the outcome of a task, unless another has taken its place meanwhile."""
        if self.tasks.get(task.key) != task:
            return
        del self.tasks[task.key]
        if profile.failure or task.key == self._refining:
            # The agent repeats this result until it is told otherwise; the next try must
            # not take it for its own.
            self._round += 1
        if task.key == self._refining and not profile.full:
            self._not_before_s[task.key] = now_s + AGAIN_S
            while len(self._not_before_s) > OUTCOMES_KEPT:
                del self._not_before_s[next(iter(self._not_before_s))]
        if task.key in self.repeating:
            del self.repeating[task.key]
            self.outcomes[task.key] = profile
            while len(self.outcomes) > OUTCOMES_KEPT:
                del self.outcomes[next(iter(self.outcomes))]

    def results(
        self, reports: Mapping[str, agent_pb2.NodeReport], now_s: float
    ) -> list[tuple[Task, agent_pb2.ProfileResult]]:
        """Give the results of tasks under way, among them the failure of overdue ones.

        `reports` are the nodes' own, by id; `now_s` is of the clock that `assign` was given.
        """
        ended = []
        for task in self.tasks.values():
            report = reports.get(task.node_id)
            found = (
                [r for r in report.profile_results if r.task_id == task.task_id] if report else []
            )
            if found:
                ended.append((task, found[0]))
            elif now_s - task.started_s > TASK_LIMIT_S:
                stage = next(iter(_stages(task, report)), None)
                last = f"; it was {stage.stage}" if stage else ""
                reason = f"node {task.node_id} gave no result within {TASK_LIMIT_S:g} s{last}"
                ended.append((task, failed(task.task_id, task.unmeasured, reason)))
        return ended

    def progress(
        self, keys: Iterable[str], reports: Mapping[str, agent_pb2.NodeReport]
    ) -> list[control_pb2.MeasureProgress]:
        """Say how far the measurements of these profiles are, as far as they aren't over."""
        found = []
        for key in sorted(keys):
            progress = control_pb2.MeasureProgress(
                hardware=key.partition("/")[2], stage="waiting for a free node"
            )
            task = self.tasks.get(key)
            if task is not None:
                progress.node_id, progress.stage = task.node_id, "starting"
                for told in _stages(task, reports.get(task.node_id)):
                    progress.stage, progress.fraction = told.stage, told.fraction
            found.append(progress)
        return found

    def task_messages(self, node_id: str) -> list[agent_pb2.ProfileTask]:
        """Give the tasks of a node."""
        return [
            agent_pb2.ProfileTask(
                task_id=task.task_id,
                model=task.wanted.model,
                artifact_digest=task.wanted.digest,
                max_batch_size=LARGEST_BATCH,
                budget=convert.duration(FULL_BUDGET_S if task.wanted.full else BUDGET_S),
                patience=convert.duration(FULL_PATIENCE_S if task.wanted.full else PATIENCE_S),
                full=task.wanted.full,
                latency_cap=convert.duration(task.wanted.latency_cap_s),
            )
            for _, task in sorted(self.tasks.items())
            if task.node_id == node_id
        ]


def _stages(task: Task, report: agent_pb2.NodeReport | None) -> list[agent_pb2.ProfileProgress]:
    return [it for it in report.profile_progress if it.task_id == task.task_id] if report else []


def _wait_s(node: NodeView) -> float:
    """How long it takes until a node can measure."""
    return 0.0 if node.state is NodeState.ACTIVE else node.hardware.activation_s


def _begun(task: Task, node: NodeView, now_s: float) -> Task:
    """Give the task; it begins only once its node is there, which others see to."""
    return replace(task, started_s=now_s) if node.state is NodeState.ACTIVATING else task
