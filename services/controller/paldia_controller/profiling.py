"""Who measures what: at most one task a kind of hardware and artifact, one a node.

Tasks live in memory. Their ids follow from what is measured, so after a restart the
same tasks are asked for again and an agent that has finished one answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paldia.api import convert
from paldia.api.v1 import agent_pb2, types_pb2
from paldia.core.observation import NodeView
from paldia_controller.rollout import Wanted
from paldia_controller.state import profile_key

BUDGET_S = 4.0
"""Time an agent spends on measuring, besides loading."""
TASK_LIMIT_S = 150.0
"""A task without a result for so long has failed."""


@dataclass(frozen=True, slots=True)
class Task:
    """A measurement under way on a node."""

    wanted: Wanted
    node_id: str
    task_id: str
    started_s: float

    @property
    def key(self) -> str:
        """Name of the profile it yields."""
        return profile_key(self.wanted.digest, self.wanted.hardware)


class Profiling:
    """The measurements under way."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.repeating: set[str] = set()
        """Profiles that are measured although they are known."""
        self.outcomes: dict[str, types_pb2.Profile] = {}
        """What the last repeated measurements gave, failures included."""
        self._rounds: dict[str, int] = {}

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that measure something."""
        return frozenset(task.node_id for task in self.tasks.values())

    def assign(self, missing: Iterable[Wanted], nodes: tuple[NodeView, ...], now_s: float) -> None:
        """Give each missing measurement to a free node; drop those no longer missing."""
        wanted = {profile_key(want.digest, want.hardware): want for want in missing}
        usable = {node.node_id for node in nodes if node.usable}
        self.tasks = {
            key: task
            for key, task in self.tasks.items()
            if key in wanted and task.node_id in usable
        }
        for key, want in wanted.items():
            if key in self.tasks:
                continue
            free = [
                node
                for node in nodes
                if node.usable
                and node.hardware.name == want.hardware
                and node.node_id not in self.nodes
            ]
            if free:
                # An idle node measures undisturbed, and disturbs nobody.
                node = min(free, key=lambda n: (len(n.deployments), n.node_id))
                task_id = f"{want.digest[:16]}-{want.hardware}-{self._rounds.get(key, 0)}"
                self.tasks[key] = Task(want, node.node_id, task_id, now_s)

    def repeat(self, keys: Iterable[str], now_s: float) -> None:
        """Have profiles measured anew, known or not."""
        for key in keys:
            self.repeating.add(key)
            # Another id, or the agent would answer with what it measured before.
            self._rounds[key] = round(now_s * 1e3)
            self.tasks.pop(key, None)

    def finished(self, key: str, profile: types_pb2.Profile) -> None:
        """Note the outcome of a task."""
        self.tasks.pop(key, None)
        if key in self.repeating:
            self.repeating.discard(key)
            self.outcomes[key] = profile

    def results(
        self, reports: Iterable[agent_pb2.NodeReport], now_s: float
    ) -> list[tuple[Task, agent_pb2.ProfileResult]]:
        """Give the results of tasks under way, among them the failure of overdue ones."""
        results = {r.task_id: r for report in reports for r in report.profile_results}
        ended = []
        for task in self.tasks.values():
            if task.task_id in results:
                ended.append((task, results[task.task_id]))
            elif now_s - task.started_s > TASK_LIMIT_S:
                ended.append((task, _overdue(task, now_s)))
        return ended

    def task_messages(self, node_id: str) -> list[agent_pb2.ProfileTask]:
        """Give the tasks of a node."""
        return [
            agent_pb2.ProfileTask(
                task_id=task.task_id,
                model=task.wanted.model,
                artifact_digest=task.wanted.digest,
                max_batch_size=task.wanted.max_batch,
                budget=convert.duration(BUDGET_S),
                latency_cap=convert.duration(task.wanted.latency_cap_s),
            )
            for _, task in sorted(self.tasks.items())
            if task.node_id == node_id
        ]


def _overdue(task: Task, now_s: float) -> agent_pb2.ProfileResult:
    return agent_pb2.ProfileResult(
        task_id=task.task_id,
        profile=types_pb2.Profile(
            artifact_digest=task.wanted.digest,
            hardware=task.wanted.hardware,
            node_id=task.node_id,
            measured_at=convert.timestamp(now_s),
            failure=f"node {task.node_id} gave no result within {TASK_LIMIT_S:g} s",
        ),
    )
