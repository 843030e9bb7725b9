"""The controller's part: observe, let the engine decide, act on it.

Mirrors the live planner and the routes that follow from its plans. Steps are made each second,
and at once when a request waits for a model that is planned nowhere or a process has changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from paldia.core import engine
from paldia.core.baselines import Policy
from paldia.core.dispatch.lanes import Lane
from paldia.core.dispatch.types import ModelPlan as Route
from paldia.core.observation import (
    Assignment,
    DemandView,
    Memory,
    ModelMemory,
    ModelPlan,
    ModelView,
    Observation,
)
from paldia.core.profiles import Profile
from paldia.core.sharing.prediction import SharingRule
from paldia.core.step.memory import taught
from paldia.sim.arrivals import History, LookAhead, mean_rate
from paldia.sim.cluster import Change, Cluster, Process
from paldia.sim.events import Agenda
from paldia.sim.scenario import Arrivals, Scenario, SimModel
from paldia.sim.serving import Serving

SHORTEST_STEP_S = 0.05
"""Least time between steps, however much changes."""
SHORTEST_SAMPLE_S = 0.5
"""Arrivals counted over less time than this say little about a rate."""
FIRST_DEMAND_S = 60.0
"""The part of the trace whose mean rate is what was seen before it began."""
AHEAD_TICKS = 3


@dataclass(slots=True, eq=False)
class _Model:
    """A model and what has been seen of it.

    Attributes:
        profiles: by every kind of hardware there is; None where it can't run.
        first_rate: requests per second before the trace.
        mean_rate: over the whole trace, where the policy is told.
        served_from: the places of its latest target that wasn't empty.
    """

    spec: SimModel
    profiles: Mapping[str, Profile | None]
    first_rate: float
    mean_rate: float | None
    ahead: LookAhead | None
    history: History | None
    offered: int = 0
    route: Route | None = None
    processes: tuple[Process, ...] = ()
    served_from: frozenset[tuple[str, str]] = frozenset()


class Planning:
    """Steps of the planner in virtual time.

    Attributes:
        switches: changes of the places that a model should serve from, after its first and
            from time 0 on.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy,
        cluster: Cluster,
        serving: Serving,
        agenda: Agenda,
    ) -> None:
        self.switches = 0
        self._scenario = scenario
        self._policy = policy
        self._cluster = cluster
        self._serving = serving
        self._agenda = agenda
        # The engine's clock starts well above 0, so that no time it sees is negative.
        before_s = max((h.duration_s for h in _histories(scenario)), default=0.0)
        self._epoch_s = math.ceil(max(before_s, scenario.warmup_s)) + scenario.tick_s
        self._horizon_s = _horizon_s(scenario, policy)
        self._models = {spec.model.name: self._taken_on(spec) for spec in scenario.models}
        self._plan: Mapping[str, ModelPlan] = {}
        self._memory: Memory = {name: self._learned(model) for name, model in self._models.items()}
        self._sampled_s = -scenario.warmup_s - scenario.tick_s
        self._stepped_s = self._sampled_s
        self._hurried_s: float | None = None
        for name in self._models:
            self._route(name, -scenario.warmup_s)

    def _taken_on(self, spec: SimModel) -> _Model:
        kinds = {hardware.name: None for hardware in self._scenario.nodes.values()}
        duration_s = self._scenario.duration_s
        arrivals = spec.arrivals
        fixed = self._policy.sharing is SharingRule.FIXED
        return _Model(
            spec=spec,
            profiles={kind: spec.profiles.get(kind) for kind in kinds},
            first_rate=mean_rate(arrivals, min(FIRST_DEMAND_S, duration_s)),
            mean_rate=mean_rate(arrivals, duration_s) if fixed else None,
            ahead=LookAhead(arrivals, duration_s) if self._policy.foresight else None,
            history=History(spec.history) if spec.history is not None else None,
        )

    def tick(self, now_s: float) -> None:
        """Make the step that is due each second."""
        self._step(now_s)
        for name, plan in self._plan.items():
            self._serving.await_request(name, is_awaited=not plan.target)

    def react(self, now_s: float) -> None:
        """Follow up what has happened: new routes at once, and a step soon."""
        changed = tuple(self._cluster.changed)
        self._cluster.changed.clear()
        for name in changed:
            self._route(name, now_s)
        if changed or self._serving.missed:
            self._serving.missed = False
            self._hurry(now_s)

    def _hurry(self, now_s: float) -> None:
        at_s = max(now_s, self._stepped_s + SHORTEST_STEP_S)
        if self._hurried_s is None:
            self._hurried_s = at_s
            self._agenda.enter(at_s, self._hurried)

    def _hurried(self, now_s: float) -> None:
        if self._hurried_s is not None:
            self._step(now_s)

    def _step(self, now_s: float) -> None:
        observation = Observation(
            self._epoch_s + now_s, self._views(now_s), self._cluster.views(), self._plan
        )
        step = engine.step(observation, self._memory, self._scenario.config, self._policy)
        changes = [
            Change(self._plan.get(name), plan, self._models[name].spec.profiles)
            for name, plan in step.plan.items()
            if plan != self._plan.get(name)
        ]
        self._plan, self._memory = step.plan, step.memory
        self._stepped_s, self._hurried_s = now_s, None
        self._cluster.apply(changes, now_s)
        for change in changes:
            self._count_switch(change.after, now_s)
            self._route(change.after.model, now_s)

    def _count_switch(self, plan: ModelPlan, now_s: float) -> None:
        places = frozenset(assignment.place for assignment in plan.target)
        model = self._models[plan.model]
        if not places:
            return
        if model.served_from and places != model.served_from and now_s >= 0:
            self.switches += 1
        model.served_from = places

    # What is seen.

    def _views(self, now_s: float) -> tuple[ModelView, ...]:
        interval_s = now_s - self._sampled_s
        if interval_s < SHORTEST_SAMPLE_S:
            interval_s = 0.0
        else:
            self._sampled_s = now_s
        return tuple(
            ModelView(model.spec.model, self._demand(model, interval_s, now_s), model.profiles)
            for model in self._models.values()
        )

    def _demand(self, model: _Model, interval_s: float, now_s: float) -> DemandView:
        counters = self._serving.counters(model.spec.model.name)
        arrivals = 0.0
        if interval_s > 0:
            arrivals = counters.offered - model.offered
            model.offered = counters.offered
            if now_s <= 0:
                arrivals = interval_s * self._earlier_rate(model, interval_s, now_s)
        return DemandView(
            arrivals=arrivals,
            interval_s=interval_s,
            backlog=counters.backlog,
            in_flight=counters.in_flight,
            future_requests_per_second=self._future(model, now_s),
            mean_requests_per_second=model.mean_rate,
        )

    def _learned(self, model: _Model) -> ModelMemory:
        """Give what the planner has learned before the first step."""
        memory = ModelMemory(last_used_s=self._epoch_s - self._scenario.warmup_s)
        if model.history is not None:
            for at_s, count in model.history.before(-self._scenario.warmup_s):
                memory = taught(memory, count, 1.0, self._epoch_s + at_s, self._scenario.config)
        return memory

    @staticmethod
    def _earlier_rate(model: _Model, interval_s: float, now_s: float) -> float:
        if model.history is None:
            return model.first_rate
        return model.history.rate(now_s - interval_s, now_s)

    def _future(self, model: _Model, now_s: float) -> float | None:
        if model.ahead is None:
            return None
        from_s = max(0.0, now_s)
        return model.ahead.peak_per_second(from_s, from_s + self._horizon_s)

    # Where requests go.

    def _route(self, name: str, now_s: float) -> None:
        """Send a model's requests to what is ready of its target, and to what it is about to
        leave while any of the target is not."""
        model = self._models[name]
        plan = self._plan.get(name) or ModelPlan(name, model.spec.model.generation)
        serving = self._ready(name, plan.target)
        if len(serving) < len(plan.target):
            serving += self._ready(name, plan.retiring)
        spec = model.spec.model
        route = Route(
            lanes=tuple(self._lane(assignment, process) for assignment, process in serving),
            slo=spec.slo,
            on_overload=spec.on_overload,
            slo_unreachable=plan.slo_unreachable,
            late_yields=self._policy.late_yields,
            learns=self._policy.sees_interference,
            linger_s=self._policy.linger_s(spec.slo.latency_s),
        )
        processes = tuple(process for _, process in serving)
        if route != model.route or processes != model.processes:
            model.route, model.processes = route, processes
            self._serving.route(name, route, processes, now_s)

    def _ready(
        self, name: str, assignments: tuple[Assignment, ...]
    ) -> list[tuple[Assignment, Process]]:
        return [
            (assignment, process)
            for assignment in assignments
            if (process := self._cluster.ready(assignment, name)) is not None
        ]

    def _lane(self, assignment: Assignment, process: Process) -> Lane:
        lane, profile = process.lane, process.profile
        if lane and (lane.count, lane.batch_limit) == (assignment.lanes, assignment.batch):
            return lane
        demand = profile.demand_fraction(assignment.batch, assignment.sm_percent)
        process.lane = Lane(
            lane_id=process.lane_id,
            node_id=assignment.node_id,
            count=assignment.lanes,
            batch_limit=assignment.batch,
            points=tuple(
                (size, profile.latency_s(size, assignment.sm_percent)) for size, _ in profile.points
            ),
            slowdowns=self._policy.slowdowns(profile, demand, assignment.lanes),
        )
        return process.lane


def _histories(scenario: Scenario) -> list[Arrivals]:
    return [spec.history for spec in scenario.models if spec.history is not None]


def _horizon_s(scenario: Scenario, policy: Policy) -> float:
    """Seconds that a change of hardware takes at most, and some ticks."""
    ticks_s = AHEAD_TICKS * scenario.tick_s
    if policy.instant:
        return ticks_s
    kinds = {hardware.name: hardware for hardware in scenario.nodes.values()}
    starts_s = [
        kinds[kind].activation_s + profile.load_s
        for spec in scenario.models
        for kind, profile in spec.profiles.items()
        if kind in kinds
    ]
    return max(starts_s, default=0.0) + ticks_s
