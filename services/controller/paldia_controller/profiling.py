"""Who measures what: at most one task a kind of hardware and artifact, one a node.

Tasks live in memory. Their ids follow from what is measured, so after a restart the
same tasks are asked for again and an agent that has finished one answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2

from paldia.api import convert
from paldia.api.v1 import agent_pb2, types_pb2
from paldia.core.errors import InvalidArgumentError
from paldia.core.observation import NodeView
from paldia.core.types import NodeState
from paldia_controller.rollout import Wanted
from paldia_controller.state import profile_key

BUDGET_S = 4.0
"""Time an agent spends on measuring, besides loading."""
CONFIG_LIMIT_BYTES = 512 << 10
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


class Profiling:
    """The measurements under way."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.repeating: set[str] = set()
        """Profiles that are measured although they are known."""
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
                # A machine that has to be asked for costs more than a measurement that is a
                # little disturbed; among others an idle node is neither, and disturbs nobody.
                node = min(free, key=lambda n: (_wait_s(n), len(n.deployments), n.node_id))
                task_id = f"{want.digest[:16]}-{want.hardware}-{self._round}"
                self.tasks[key] = Task(want, node.node_id, task_id, now_s)

    def repeat(self, keys: Iterable[str], wall_s: float) -> None:
        """Have profiles measured anew, known or not."""
        # An id that a controller before this one has not used either.
        self._round = max(self._round + 1, round(wall_s * 1e3))
        for key in keys:
            self.repeating.add(key)
            self.tasks.pop(key, None)

    def forget(self, keys: Iterable[str]) -> None:
        """No longer wait for repeated measurements."""
        self.repeating -= set(keys)

    def finished(self, task: Task, profile: types_pb2.Profile) -> None:
        """Note the outcome of a task, unless another has taken its place meanwhile."""
        if self.tasks.get(task.key) != task:
            return
        del self.tasks[task.key]
        if profile.failure:
            # The agent repeats this result until it is told otherwise; the next try must
            # not take it for its own.
            self._round += 1
        if task.key in self.repeating:
            self.repeating.discard(task.key)
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
                reason = f"node {task.node_id} gave no result within {TASK_LIMIT_S:g} s"
                ended.append((task, _failed(task, reason)))
        return ended

    def task_messages(self, node_id: str) -> list[agent_pb2.ProfileTask]:
        """Give the tasks of a node."""
        return [
            agent_pb2.ProfileTask(
                task_id=task.task_id,
                model=task.wanted.model,
                artifact_digest=task.wanted.digest,
                max_batch_size=LARGEST_BATCH,
                budget=convert.duration(BUDGET_S),
                latency_cap=convert.duration(task.wanted.latency_cap_s),
            )
            for _, task in sorted(self.tasks.items())
            if task.node_id == node_id
        ]


def _wait_s(node: NodeView) -> float:
    """How long it takes until a node can measure."""
    return 0.0 if node.state is NodeState.ACTIVE else node.hardware.activation_s


def _begun(task: Task, node: NodeView, now_s: float) -> Task:
    """Give the task; it begins only once its node is there, which others see to."""
    return replace(task, started_s=now_s) if node.state is NodeState.ACTIVATING else task


def checked(task: Task, result: agent_pb2.ProfileResult) -> agent_pb2.ProfileResult:
    """Give the result, or the failure that it is if its figures make no sense."""
    if result.profile.failure:
        return result
    try:
        convert.profile_from_proto(result.profile)
    except InvalidArgumentError as error:
        return _failed(task, f"node {task.node_id} measured what makes no sense: {error}")
    try:
        model_config_pb2.ModelConfig.FromString(result.model_config)
    except DecodeError as error:
        return _failed(task, f"node {task.node_id} sent no model config: {error}")
    if len(result.model_config) > CONFIG_LIMIT_BYTES:
        return _failed(task, f"the model's config has over {CONFIG_LIMIT_BYTES} bytes")
    return result


def _failed(task: Task, reason: str) -> agent_pb2.ProfileResult:
    return agent_pb2.ProfileResult(
        task_id=task.task_id,
        profile=types_pb2.Profile(
            artifact_digest=task.wanted.digest,
            hardware=task.wanted.hardware,
            node_id=task.node_id,
            failure=reason,
        ),
    )
