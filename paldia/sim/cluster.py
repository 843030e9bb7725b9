"""The machines: they do as the plan says, in the time that it takes.

A machine is activated when a model is planned on it, and released once it holds nothing more. A
model's process loads once its machine is active, serves, and when the plan wants it no more it
ends with the last of its batches. Each machine here stands for its agent, too: what it reports
is what the planner sees, and a machine that has failed reports nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from paldia.core.device import Device, Tenant
from paldia.core.dispatch.lanes import Lane
from paldia.core.observation import Assignment, DeploymentState, DeploymentView, ModelPlan, NodeView
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, NodeState
from paldia.sim.bill import Bill
from paldia.sim.events import Agenda

NODE_LIFETIME_S = 10.0
"""A node that has been silent for longer is lost, as in the controller."""

Key = tuple[str, str]
"""A model and its artifact."""


class Process:
    """A model on a machine.

    Attributes:
        lane_id: its name among all processes of the run.
        running: batches of its that run.
        places: how many may, while requests are sent to it; else 0.
        lane: how dispatch knows it, once it does.
        watts: what the machine draws at full work beyond what it draws idle; 0 if unknown.
    """

    def __init__(
        self, lane_id: str, machine: Machine, key: Key, wanted: Assignment, profile: Profile
    ) -> None:
        self.lane_id = lane_id
        self.machine = machine
        self.model, self.digest = key
        self.sm_percent = wanted.sm_percent
        self.profile = profile
        self.tenant = Tenant(profile)
        self.state = DeploymentState.LOADING
        self.running = 0
        self.places = 0
        self.lane: Lane | None = None
        hardware = machine.hardware
        self.watts = max(0.0, (profile.watts or hardware.rated_watts) - hardware.idle_watts)
        self._works: list[tuple[float, float]] = []

    def work(self, rows: int) -> tuple[float, float]:
        """Give the seconds a batch of `rows` takes alone, and the share of the device meanwhile."""
        while len(self._works) < rows:
            size = len(self._works) + 1
            latency_s = self.profile.latency_s(size, self.sm_percent)
            self._works.append((latency_s, self.profile.demand_fraction(size, self.sm_percent)))
        return self._works[rows - 1]


@dataclass(slots=True, eq=False)
class Machine:
    """A node.

    Attributes:
        index: its place in the order of events at one time.
        wanted: what the plan wants on it, with the profile.
        processes: those that serve or are to; `leaving` are the ones that only end their batches.
        incarnation: grows whenever what was started before counts no more.
        faults: how many mishaps keep it down at present.
        slowed: factors of the mishaps that slow it at present.
        charged: whether it is paid for.
        due_s: the completion that the serving side has down for it.
    """

    index: int
    node_id: str
    hardware: Hardware
    device: Device = field(default_factory=Device)
    state: NodeState = NodeState.PARKED
    active_at_s: float = 0.0
    wanted: dict[Key, tuple[Assignment, Profile]] = field(default_factory=dict)
    processes: dict[Key, Process] = field(default_factory=dict)
    leaving: dict[str, Process] = field(default_factory=dict)
    incarnation: int = 0
    faults: int = 0
    slowed: list[float] = field(default_factory=list)
    charged: bool = False
    due_s: float = math.inf
    view: NodeView | None = None

    @property
    def is_down(self) -> bool:
        """Whether it has failed and isn't back."""
        return self.faults > 0


@dataclass(frozen=True, slots=True)
class Change:
    """A model's plan before and after a step, and its profiles by hardware."""

    before: ModelPlan | None
    after: ModelPlan
    profiles: Mapping[str, Profile]


class Cluster:
    """All machines, by id.

    Attributes:
        changed: models of which a process has become ready or gone since it was last emptied.
    """

    def __init__(
        self, nodes: Mapping[str, Hardware], agenda: Agenda, bill: Bill, *, instant: bool
    ) -> None:
        """`instant` machines and processes start in no time."""
        self.machines = {
            node_id: Machine(index, node_id, hardware)
            for index, (node_id, hardware) in enumerate(sorted(nodes.items()))
        }
        self.changed: dict[str, None] = {}
        self._agenda = agenda
        self._bill = bill
        self._instant = instant
        self._started = 0

    def apply(self, changes: Iterable[Change], now_s: float) -> None:
        """Bring the machines that plans speak of to what they say.

        All changes are taken in before any machine acts: one that a model leaves and another
        joins in the same step goes on.
        """
        touched: dict[str, None] = {}
        for change in changes:
            model = change.after.model
            for assignment in change.before.assignments if change.before else ():
                del self.machines[assignment.node_id].wanted[_key(model, assignment)]
                touched[assignment.node_id] = None
            for assignment in change.after.assignments:
                wanted = assignment, change.profiles[assignment.hardware]
                self.machines[assignment.node_id].wanted[_key(model, assignment)] = wanted
                touched[assignment.node_id] = None
        for node_id in touched:
            self._reconcile(self.machines[node_id], now_s)

    def ready(self, assignment: Assignment, model: str) -> Process | None:
        """Give the process that serves an assignment, if one is reported to."""
        process = self.machines[assignment.node_id].processes.get(_key(model, assignment))
        return process if process and process.state is DeploymentState.READY else None

    def views(self) -> tuple[NodeView, ...]:
        """Give what all machines report, or last reported."""
        return tuple(_report(machine) for machine in self.machines.values())

    def drained(self, process: Process, now_s: float) -> None:
        """Note that the last batch of a process has ended; one that leaves is gone then."""
        machine = process.machine
        if machine.leaving.pop(process.lane_id, None) is not None:
            machine.view = None
            self._charge(machine, now_s)

    # Mishaps.

    def fail(self, machine: Machine, now_s: float) -> None:
        """Let a machine fall silent with all that it holds; its last report stands."""
        machine.faults += 1
        if machine.faults > 1:
            return
        _report(machine)
        machine.incarnation += 1
        incarnation = machine.incarnation

        def lose(_: float) -> None:
            if machine.is_down and machine.incarnation == incarnation:
                machine.view = replace(_report(machine), state=NodeState.LOST)

        self._agenda.enter(now_s + NODE_LIFETIME_S, lose)

    def recover(self, machine: Machine, now_s: float) -> None:
        """Bring a machine back, parked and empty."""
        machine.faults -= 1
        if machine.is_down:
            return
        for process in machine.processes.values():
            self.changed[process.model] = None
        machine.processes.clear()
        machine.leaving.clear()
        machine.state = NodeState.PARKED
        machine.view = None
        self._reconcile(machine, now_s)

    # From what is there to what is wanted.

    def _reconcile(self, machine: Machine, now_s: float) -> None:
        if machine.is_down:
            # Nobody is there to do anything; it is paid for while it is planned with.
            self._charge(machine, now_s)
            return
        machine.view = None
        for key, process in tuple(machine.processes.items()):
            wanted = machine.wanted.get(key)
            if wanted is None or wanted[0].sm_percent != process.sm_percent:
                self._stop(machine, key)
        if machine.wanted and machine.state is NodeState.PARKED:
            self._activate(machine, now_s)
        for key, (assignment, profile) in machine.wanted.items():
            if key not in machine.processes:
                self._start(machine, key, assignment, profile, now_s)
        self._charge(machine, now_s)

    def _activate(self, machine: Machine, now_s: float) -> None:
        wait_s = 0.0 if self._instant else machine.hardware.activation_s
        machine.active_at_s = now_s + wait_s
        machine.incarnation += 1
        incarnation = machine.incarnation
        machine.state = NodeState.ACTIVATING if wait_s > 0 else NodeState.ACTIVE

        def activated(_: float) -> None:
            if machine.incarnation == incarnation and machine.state is NodeState.ACTIVATING:
                machine.state = NodeState.ACTIVE
                machine.view = None

        if wait_s > 0:
            self._agenda.enter(machine.active_at_s, activated)

    def _start(
        self, machine: Machine, key: Key, assignment: Assignment, profile: Profile, now_s: float
    ) -> None:
        """Load a model, or take back a process that has not ended yet."""
        for process in machine.leaving.values():
            if (process.model, process.digest) == key and (
                process.sm_percent == assignment.sm_percent
            ):
                process.state = DeploymentState.READY
                machine.processes[key] = machine.leaving.pop(process.lane_id)
                self.changed[process.model] = None
                return
        self._started += 1
        lane_id = f"{machine.node_id}/{key[0]}/{self._started}"
        process = machine.processes[key] = Process(lane_id, machine, key, assignment, profile)
        incarnation = machine.incarnation

        def loaded(_: float) -> None:
            if machine.incarnation == incarnation and machine.processes.get(key) is process:
                process.state = DeploymentState.READY
                machine.view = None
                self.changed[process.model] = None

        wait_s = 0.0 if self._instant else profile.load_s
        ready_s = max(now_s, machine.active_at_s) + wait_s
        if ready_s <= now_s:
            loaded(now_s)
        else:
            self._agenda.enter(ready_s, loaded)

    def _stop(self, machine: Machine, key: Key) -> None:
        process = machine.processes.pop(key)
        if process.state is DeploymentState.READY:
            self.changed[process.model] = None
        process.state = DeploymentState.DRAINING
        if process.running:
            machine.leaving[process.lane_id] = process

    def _charge(self, machine: Machine, now_s: float) -> None:
        """See that a machine is paid for as long as it is planned with or holds anything."""
        holds = not machine.is_down and bool(machine.processes or machine.leaving)
        needed = bool(machine.wanted) or holds
        if needed and not machine.charged:
            self._bill.hire(machine.node_id, now_s)
        elif not needed and machine.charged:
            self._bill.release(machine.node_id, now_s)
        machine.charged = needed
        if not needed and not machine.is_down:
            machine.state = NodeState.PARKED
            machine.incarnation += 1


def _key(model: str, assignment: Assignment) -> Key:
    return model, assignment.artifact_digest


def _report(machine: Machine) -> NodeView:
    """Give what a machine reports; it says so until something changes."""
    if machine.view is not None:
        return machine.view
    held = {
        (process.model, process.digest): DeploymentView(process.state)
        for process in (*machine.leaving.values(), *machine.processes.values())
    }
    machine.view = NodeView(machine.node_id, machine.hardware, machine.state, held)
    return machine.view
