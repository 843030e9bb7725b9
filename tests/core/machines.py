"""The machines of a transcript: they do as the plan says, in the time that it takes.

A machine is activated when something is planned on it, loads what that is, and is parked once
it holds nothing more. What failed to load is tried again, and counts as failed until it serves.
What the plan wants no more drains for a second. A machine that fails falls silent: its last
report stands for ten seconds, then it counts as lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from paldia.core.observation import Assignment, DeploymentState, DeploymentView, NodeView, Plan
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, NodeState

LIFETIME_S = 10.0
DRAIN_S = 1.0
RETRY_S = 10.0
"""From a failed load to the end of the next try, besides the time that loading takes."""

Key = tuple[str, str]
"""A model and its artifact."""
Profiles = Mapping[str, Mapping[str, Profile | None]]
"""By model and kind of hardware."""


@dataclass
class Process:
    """A model on a machine, until `changes_s` in that state."""

    state: DeploymentState
    changes_s: float
    profile: Profile
    wanted: Assignment


@dataclass
class Machine:
    """A node.

    Attributes:
        silent_s: since when nothing has been heard of it.
        closed: whether its operator lets nothing new start on it.
        hanging: models that load forever there; `crashing` are those that fail instead.
        report: the last that was heard of it.
    """

    node_id: str
    hardware: Hardware
    state: NodeState = NodeState.PARKED
    active_s: float = 0.0
    silent_s: float | None = None
    closed: bool = False
    hanging: set[str] = field(default_factory=set)
    crashing: set[str] = field(default_factory=set)
    processes: dict[Key, Process] = field(default_factory=dict)
    report: NodeView = field(init=False)

    def __post_init__(self) -> None:
        self.report = NodeView(self.node_id, self.hardware, self.state)

    def advance(self, now_s: float) -> None:
        """Let happen what is due by now."""
        if self.silent_s is not None:
            return
        if self.state is NodeState.ACTIVATING and now_s >= self.active_s:
            self.state = NodeState.ACTIVE
        for key, process in list(self.processes.items()):
            if now_s < process.changes_s:
                continue
            if process.state is DeploymentState.DRAINING:
                del self.processes[key]
            elif key[0] in self.crashing:
                process.state = DeploymentState.FAILED
                process.changes_s = now_s + RETRY_S + process.profile.load_s
            else:
                process.state, process.changes_s = DeploymentState.READY, math.inf
        if not self.processes:
            self.state = NodeState.PARKED

    def obey(
        self, wanted: Mapping[Key, Assignment], profiles: Mapping[str, Profile], now_s: float
    ) -> None:
        """Start what is wanted, and end what isn't; `profiles` are by model."""
        if self.silent_s is not None:
            return
        for key, process in self.processes.items():
            if key not in wanted and process.state is not DeploymentState.DRAINING:
                process.state, process.changes_s = DeploymentState.DRAINING, now_s + DRAIN_S
        if wanted and self.state is NodeState.PARKED:
            self.active_s = now_s + self.hardware.activation_s
            starts = self.hardware.activation_s > 0
            self.state = NodeState.ACTIVATING if starts else NodeState.ACTIVE
        for key, assignment in wanted.items():
            held = self.processes.get(key)
            if held is not None and held.state is not DeploymentState.DRAINING:
                held.wanted = assignment
                continue
            profile = profiles[key[0]]
            loads_s = math.inf if key[0] in self.hanging else profile.load_s
            ready_s = max(now_s, self.active_s) + loads_s
            self.processes[key] = Process(DeploymentState.LOADING, ready_s, profile, assignment)

    def view(self, now_s: float) -> NodeView:
        """Give what the planner sees of it."""
        if self.silent_s is None:
            state = NodeState.DRAINING if self.closed else self.state
            held = {key: DeploymentView(process.state) for key, process in self.processes.items()}
            self.report = NodeView(self.node_id, self.hardware, state, held)
        elif now_s - self.silent_s > LIFETIME_S:
            self.report = replace(self.report, state=NodeState.LOST)
        return self.report

    def serving(self, model: str) -> Iterator[Process]:
        """Give the model's processes that answer requests."""
        if self.silent_s is None:
            for key, process in self.processes.items():
                if key[0] == model and process.state is DeploymentState.READY:
                    yield process

    def fail(self, now_s: float) -> None:
        """Fall silent, with all that it holds."""
        self.silent_s = now_s

    def recover(self) -> None:
        """Come back, parked and empty."""
        self.silent_s = None
        self.processes.clear()
        self.state = NodeState.PARKED


@dataclass
class Machines:
    """All machines, by id, and the requests that wait for each model."""

    by_id: dict[str, Machine] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)

    def advance(self, arrivals: Mapping[str, float], now_s: float) -> None:
        """Let a second pass in which so many requests arrived for each model."""
        for machine in self.by_id.values():
            machine.advance(now_s)
        for model, count in arrivals.items():
            done = sum(
                _requests_per_second(process)
                for machine in self.by_id.values()
                for process in machine.serving(model)
            )
            self.waiting[model] = max(0.0, self.waiting.get(model, 0.0) + count - done)

    def obey(self, plan: Plan, profiles: Profiles, now_s: float) -> None:
        """Bring all machines to what is planned."""
        for node_id, machine in self.by_id.items():
            wanted = {
                (name, assignment.artifact_digest): assignment
                for name, model_plan in plan.items()
                for assignment in model_plan.assignments
                if assignment.node_id == node_id
            }
            here = {
                name: profile
                for name, kinds in profiles.items()
                if (profile := kinds.get(machine.hardware.name)) is not None
            }
            machine.obey(wanted, here, now_s)

    def views(self, now_s: float) -> tuple[NodeView, ...]:
        """Give what the planner sees."""
        return tuple(machine.view(now_s) for machine in self.by_id.values())


def _requests_per_second(process: Process) -> float:
    """What a process gets done with all its lanes full and the device to itself."""
    spot, profile = process.wanted, process.profile
    share = profile.demand_fraction(spot.batch, spot.sm_percent)
    slowdown = float(profile.slowdown(spot.lanes, share))
    return spot.batch * spot.lanes / (profile.latency_s(spot.batch, spot.sm_percent) * slowdown)
