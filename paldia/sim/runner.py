"""A run: one policy over one scenario, in virtual time.

Requests, batches and devices go on between the events of the agenda (`serving`); the agenda
holds the planner's steps, machines and models that become ready, and mishaps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from paldia.core.baselines import Policy
from paldia.core.dispatch.types import Limits
from paldia.core.errors import InvalidArgumentError
from paldia.sim.arrivals import Feed
from paldia.sim.bill import Bill
from paldia.sim.cluster import Cluster, Machine
from paldia.sim.events import Agenda
from paldia.sim.measure import ModelMeter
from paldia.sim.outcome import Outcome, Timeline
from paldia.sim.planning import Planning
from paldia.sim.scenario import Fault, FaultKind, RequestSink, Scenario
from paldia.sim.serving import Serving
from paldia.sim.stream import Stream
from paldia.sim.witness import Witness

DRAIN_LIMIT_S = 300.0
"""Time after the scenario's end for which answers are waited for; what has none then has failed."""
INTERVALS_MOST = 1000
"""Rows of the timeline."""
REPORTS_MOST = 200

Progress = Callable[[float], None]


def run(
    scenario: Scenario,
    policy: Policy,
    progress: Progress | None = None,
    sink: RequestSink | None = None,
) -> Outcome:
    """Simulate a policy.

    Args:
        progress: gets the share of virtual time that is done, at most some 200 times.
        sink: is told what became of every request.

    Raises:
        InvalidArgumentError: the scenario makes no sense; the message says where.
    """
    began_s = time.process_time()
    _check(scenario)
    simulation = _Simulation(scenario, policy, sink)
    simulation.run(progress)
    return simulation.outcome(time.process_time() - began_s)


def _check(scenario: Scenario) -> None:
    names = [spec.model.name for spec in scenario.models]
    if len(set(names)) < len(names):
        raise InvalidArgumentError(f"models need names of their own, not {names}")
    for name, value in (("duration", scenario.duration_s), ("tick", scenario.tick_s)):
        if not 0 < value < math.inf:
            raise InvalidArgumentError(f"the {name} must lie above 0 s, not at {value:g} s")
    if not 0 <= scenario.warmup_s < math.inf:
        raise InvalidArgumentError(f"the warm-up lasts 0 s or more, not {scenario.warmup_s:g} s")
    for fault in scenario.faults:
        if fault.node_id not in scenario.nodes:
            raise InvalidArgumentError(
                f"a fault befalls {fault.node_id!r}; the nodes are {', '.join(scenario.nodes)}"
            )
        if fault.at_s < 0 or fault.duration_s <= 0 or fault.factor <= 0:
            raise InvalidArgumentError(
                f"a fault starts at 0 s or later and has a duration and a factor above 0: {fault}"
            )


class _Simulation:
    def __init__(self, scenario: Scenario, policy: Policy, sink: RequestSink | None) -> None:
        self._scenario = scenario
        self._policy = policy
        duration_s = scenario.duration_s
        self._interval_s = max(scenario.tick_s, math.ceil(duration_s / INTERVALS_MOST))
        intervals = math.ceil(duration_s / self._interval_s)
        self._agenda = Agenda()
        self._bill = Bill(scenario.nodes, duration_s, self._interval_s)
        self._cluster = Cluster(scenario.nodes, self._agenda, self._bill, instant=policy.instant)
        self._streams = []
        for index, spec in enumerate(scenario.models, start=len(scenario.nodes)):
            meter = ModelMeter(spec.model.slo.latency_s, intervals, self._interval_s)
            feed = Feed(spec.arrivals, duration_s, meter)
            self._streams.append(Stream(spec.model.name, index, feed, meter))
        self._witness = None if sink is None else Witness(sink)
        self._serving = Serving(self._streams, self._cluster, Limits(), self._witness)
        self._planning = Planning(scenario, policy, self._cluster, self._serving, self._agenda)
        self._ticks = 0
        self._is_over = False

    def run(self, progress: Progress | None) -> None:
        """Go through the warm-up, the trace and what it leaves behind."""
        scenario, agenda = self._scenario, self._agenda
        agenda.enter(-scenario.warmup_s, self._tick)
        for fault in scenario.faults:
            agenda.enter(fault.at_s, partial(self._befall, fault))
        whole_s = scenario.warmup_s + scenario.duration_s
        reported = 0
        while not self._is_over:
            next_s = agenda.next_s
            reached_s = self._serving.run(next_s)
            if reached_s == next_s:
                agenda.do_next()
            self._planning.react(reached_s)
            done = min(1.0, (reached_s + scenario.warmup_s) / whole_s)
            if progress is not None and done * REPORTS_MOST >= reported + 1:
                reported = math.floor(done * REPORTS_MOST)
                progress(done)

    def _tick(self, now_s: float) -> None:
        scenario = self._scenario
        end_s = scenario.duration_s
        if now_s >= end_s and (self._serving.is_idle or now_s >= end_s + DRAIN_LIMIT_S):
            self._is_over = True
            return
        self._planning.tick(now_s)
        self._ticks += 1
        self._agenda.enter(self._ticks * scenario.tick_s - scenario.warmup_s, self._tick)

    # Mishaps.

    def _befall(self, fault: Fault, now_s: float) -> None:
        machine = self._cluster.machines[fault.node_id]
        if fault.kind is FaultKind.FAIL:
            self._cluster.fail(machine, now_s)
            self._serving.fail(machine, now_s)
        else:
            machine.slowed.append(fault.factor)
            self._set_speed(machine, now_s)
        self._agenda.enter(now_s + fault.duration_s, partial(self._pass, fault))

    def _pass(self, fault: Fault, now_s: float) -> None:
        machine = self._cluster.machines[fault.node_id]
        if fault.kind is FaultKind.FAIL:
            self._cluster.recover(machine, now_s)
        else:
            machine.slowed.remove(fault.factor)
            self._set_speed(machine, now_s)

    def _set_speed(self, machine: Machine, now_s: float) -> None:
        self._serving.set_speed(machine, 1 / math.prod(machine.slowed), now_s)

    # Figures.

    def outcome(self, cpu_s: float) -> Outcome:
        """Give the figures of the run."""
        self._bill.close()
        if self._witness is not None:
            self._witness.close(self._scenario.duration_s + DRAIN_LIMIT_S)
        for stream in self._streams:
            counters = self._serving.counters(stream.name)
            # Whoever still waits has waited for longer than anybody would.
            unanswered = counters.backlog + counters.in_flight
            stream.meter.refused = counters.refused
            stream.meter.failed = counters.failed + unanswered
        models = tuple(stream.meter.outcome(stream.name) for stream in self._streams)
        timeline = Timeline(
            interval_s=self._interval_s,
            offered=np.sum([stream.meter.offered for stream in self._streams], axis=0),
            in_slo=np.sum([stream.meter.in_slo for stream in self._streams], axis=0),
            nodes=self._bill.nodes(),
            usd_per_hour=self._bill.usd_per_hour(),
        )
        return Outcome(
            policy=self._policy.name,
            duration_s=self._scenario.duration_s,
            models=models,
            timeline=timeline,
            cost_usd=self._bill.cost_usd,
            node_hours=self._bill.node_hours,
            switches=self._planning.switches,
            energy_joules=self._bill.idle_joules + self._serving.joules,
            cpu_s=cpu_s,
        )
