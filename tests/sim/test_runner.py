"""Whole runs: against queueing theory, against arithmetic, and against themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from paldia.core.baselines import POLICIES, Policy, policy_named
from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile
from paldia.core.sharing.prediction import SharingRule
from paldia.core.types import OverloadPolicy
from paldia.sim import measure
from paldia.sim.outcome import ModelOutcome, Outcome
from paldia.sim.runner import DRAIN_LIMIT_S, run
from paldia.sim.scenario import Fate, Fault, FaultKind
from tests.sim.worlds import FAST, SLOW, At, Poisson, World

PALDIA = policy_named("paldia")
ONLY_SLOW = {"s0": SLOW}
TWINS = {"s0": SLOW, "s1": SLOW}


def simulate(world: World, policy: Policy = PALDIA) -> Outcome:
    outcome = run(world.scenario(), policy)
    for model in outcome.models:
        assert model.requests == model.answered + model.refused + model.failed
        assert model.in_slo <= model.answered == model.latency_counts.sum()
    assert outcome.timeline.offered.sum() == sum(model.requests for model in outcome.models)
    assert outcome.timeline.in_slo.sum() == sum(model.in_slo for model in outcome.models)
    hours = outcome.timeline.interval_s / 3600
    if outcome.duration_s % outcome.timeline.interval_s == 0:
        assert outcome.timeline.usd_per_hour.sum() * hours == pytest.approx(outcome.cost_usd)
    return outcome


def only(outcome: Outcome) -> ModelOutcome:
    assert len(outcome.models) == 1
    return outcome.models[0]


def mean_latency_s(model: ModelOutcome) -> float:
    return model.queue_s + model.interference_s + model.execution_s + model.cold_s


def test_one_request_on_an_idle_machine_takes_what_its_batch_takes() -> None:
    outcome = simulate(World({"m": At((1.0, 3.0, 7.5))}, 10.0, ONLY_SLOW))
    model = only(outcome)
    assert (model.requests, model.answered, model.in_slo) == (3, 3, 3)
    assert model.execution_s == pytest.approx(0.05)
    assert mean_latency_s(model) == pytest.approx(0.05)
    assert 0.05 / 1.01 <= model.latency_s(1.0) <= 0.05 * 1.01**2
    # All of the scenario is paid for, and nothing of the warm-up.
    assert outcome.cost_usd == pytest.approx(10 * SLOW.price_usd_per_hour / 3600)
    assert outcome.node_hours == pytest.approx(10 / 3600)
    assert outcome.energy_joules == pytest.approx(10 * 50 + 3 * 0.05 * 100)
    assert outcome.switches == 0


def test_waiting_is_what_theory_says_of_one_server_with_even_service() -> None:
    """M/D/1: the mean wait is rho s / (2 (1 - rho))."""
    service_s, rate, duration_s = 0.01, 70.0, 800.0
    profile = Profile(((1, service_s),), 1.0, 1)
    world = World(
        {"m": Poisson(rate, duration_s)},
        duration_s,
        ONLY_SLOW,
        {"slow": profile},
        slo_s=1.0,
        max_batch=1,
    )
    model = only(simulate(world))
    rho = rate * service_s
    assert model.requests == pytest.approx(rate * duration_s, rel=0.01)
    assert model.queue_s == pytest.approx(rho * service_s / (2 * (1 - rho)), rel=0.05)
    assert model.execution_s == pytest.approx(service_s)
    assert model.interference_s == pytest.approx(0.0, abs=1e-12)
    assert model.cold_s == 0


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_policy_serves_a_light_load_and_loses_no_request(policy: Policy) -> None:
    world = World({"m": Poisson(5.0, 60.0), "n": Poisson(3.0, 60.0, seed=2)}, 60.0)
    outcome = simulate(world, policy)
    for model in outcome.models:
        assert model.answered == model.requests > 100
        assert model.slo_compliance >= 0.98
    assert 0 < outcome.cost_usd <= 60 * (FAST.price_usd_per_hour + SLOW.price_usd_per_hour) / 3600


def test_no_request_is_no_cost_beyond_the_machine() -> None:
    model = only(simulate(World({"m": At(())}, 5.0, ONLY_SLOW)))
    assert (model.requests, model.slo_compliance, model.latency_s(0.99)) == (0, 1.0, 0.0)


def test_overload_is_refused_at_the_queues_limit_and_counted_as_missed() -> None:
    model = only(simulate(World({"m": Poisson(400.0, 30.0)}, 30.0, ONLY_SLOW)))
    assert model.refused > 1000
    assert model.answered + model.refused == model.requests
    assert model.slo_compliance < 0.2
    assert model.in_slo / model.requests == model.slo_compliance


def test_what_has_no_answer_long_after_the_end_has_failed() -> None:
    fates: dict[Fate, int] = {}

    def sink(model: str, fate: Fate, arrivals_s: Sequence[float], *_: object, **__: object) -> None:
        fates[fate] = fates.get(fate, 0) + len(arrivals_s)

    profiles = {"slow": Profile(((1, 0.2),), 2.0, 1 << 30)}
    world = World({"m": At(tuple(0.001 * i for i in range(4000)))}, 10.0, ONLY_SLOW, profiles)
    model = only(run(world.scenario(), PALDIA, sink=sink))
    assert model.answered == pytest.approx((10 + DRAIN_LIMIT_S) / 0.2, rel=0.01)
    assert model.answered + model.failed == model.requests == 4000
    assert fates == {Fate.ANSWERED: model.answered, Fate.FAILED: model.failed}


def test_shedding_answers_more_of_a_burst_in_time_than_queueing_does() -> None:
    burst = At(tuple(5.1 + 0.005 * number for number in range(100)))
    shed = only(simulate(World({"m": burst}, 9.0, ONLY_SLOW, on_overload=OverloadPolicy.SHED)))
    assert shed.refused > 50
    assert shed.answered + shed.refused == 100
    assert shed.in_slo == shed.answered, "who is let in is in time"
    in_line = Policy("in line", SharingRule.TIME)
    queued = only(simulate(World({"m": burst}, 9.0, ONLY_SLOW), in_line))
    assert (queued.answered, queued.refused) == (100, 0)
    assert queued.in_slo < shed.in_slo
    # Where those who are late let others pass, a burst costs only those who come too many.
    yielding = only(simulate(World({"m": burst}, 9.0, ONLY_SLOW)))
    assert yielding.answered == 100
    assert yielding.in_slo >= shed.in_slo


def test_a_cold_model_wakes_with_its_first_request_and_the_wait_counts_as_cold() -> None:
    """It is unloaded after 30 s unused; the machine then takes 20 s and the model 2 s to start."""
    world = World(
        {"m": At((1.0, 100.0, 100.5))}, 200.0, ONLY_SLOW, min_replicas=0, keep_alive_s=30.0
    )
    outcome = simulate(world)
    model = only(outcome)
    assert (model.requests, model.answered, model.in_slo) == (3, 3, 1)
    # The two that wait 22 and 21.5 s run together or one after the other.
    assert model.cold_s * 3 == pytest.approx(22.0 + 21.5, abs=1e-6)
    assert model.queue_s * 3 <= 0.05 + 1e-9
    # On until about 31 s, then from 100 s until 30 s after the last request is answered.
    assert outcome.node_hours * 3600 == pytest.approx(31 + 22 + 31, abs=3)
    instant = only(simulate(world, Policy("instant", instant=True)))
    assert (instant.in_slo, instant.cold_s) == (3, 0.0)


def test_more_load_moves_it_without_a_gap_and_less_load_moves_it_back() -> None:
    # Long enough a calm before and after that one rush is not taken for a habit.
    rush = Poisson(4.0, 3000.0, rush_s=(1500.0, 1700.0))
    world = World({"m": rush}, 3000.0, slo_s=0.3)
    world.profiles["slow"] = Profile(((1, 0.045), (4, 0.16)), 2.0, 1 << 30)
    outcome = simulate(world)
    model = only(outcome)
    assert outcome.switches >= 2
    assert model.answered == model.requests
    assert model.cold_s == 0
    fast = outcome.timeline.nodes["fast"]
    assert fast.min() == 0
    assert fast.max() == 1
    cheapest, dearest = (kind.price_usd_per_hour * 3000 / 3600 for kind in (SLOW, FAST))
    assert cheapest < outcome.cost_usd < dearest + cheapest


def test_what_ran_on_a_failed_machine_is_answered_elsewhere() -> None:
    fault = Fault(FaultKind.FAIL, "s0", 20.0, 30.0)
    world = World({"m": Poisson(20.0, 60.0)}, 60.0, TWINS, min_replicas=2, faults=(fault,))
    model = only(simulate(world))
    assert model.answered == model.requests
    assert model.failed == model.refused == 0
    calm = only(simulate(World({"m": Poisson(20.0, 60.0)}, 60.0, TWINS, min_replicas=2)))
    assert model.slo_compliance < calm.slo_compliance


def test_requests_fail_when_the_only_machine_does_and_are_served_again_when_it_is_back() -> None:
    fault = Fault(FaultKind.FAIL, "s0", 10.0, 20.0)
    times_s = (5.0, 9.99, 12.0, 80.0)
    model = only(simulate(World({"m": At(times_s)}, 90.0, ONLY_SLOW, faults=(fault,))))
    assert (model.requests, model.answered, model.failed) == (4, 2, 2)
    assert model.in_slo == 2


def test_a_slow_machine_is_slow_for_as_long_as_was_said() -> None:
    fault = Fault(FaultKind.SLOW, "s0", 10.0, 10.0, factor=4.0)
    model = only(simulate(World({"m": At((5.0, 12.0, 25.0))}, 30.0, ONLY_SLOW, faults=(fault,))))
    assert model.execution_s == pytest.approx(0.05)
    assert model.interference_s == pytest.approx(0.15 / 3)


def test_space_sharing_lets_batches_gather_and_ours_starts_at_once() -> None:
    world = World({"m": At((1.0, 1.01, 1.02))}, 10.0, {"f0": FAST})
    gathered = only(simulate(world, policy_named("infless-llama-cost")))
    at_once = only(simulate(world))
    assert (gathered.in_slo, at_once.in_slo) == (3, 3), "nobody waits for too long"
    assert mean_latency_s(gathered) > 10 * mean_latency_s(at_once)


def test_models_on_one_machine_slow_each_other() -> None:
    profile = Profile(((1, 0.1),), 1.0, 1, colocation_penalty=0.2)
    world = World({"m": At((5.0,)), "n": At((5.0,))}, 10.0, ONLY_SLOW, {"slow": profile}, slo_s=2.0)
    for model in simulate(world).models:
        # Both need the whole device: twice as long, and a fifth for being two.
        assert model.interference_s == pytest.approx(0.1 * 2 * 1.2 - 0.1)


def test_it_makes_no_difference_how_arrivals_are_cut_into_chunks() -> None:
    times_s = tuple(np.concatenate(list(Poisson(40.0, 20.0).chunks())).tolist())
    outcomes = [
        only(simulate(World({"m": At(times_s, chunk=chunk)}, 20.0))) for chunk in (1, 7, 100_000)
    ]
    for outcome in outcomes[1:]:
        assert (outcome.latency_counts == outcomes[0].latency_counts).all()
        assert outcome.queue_s == pytest.approx(outcomes[0].queue_s)


def test_the_tail_is_broken_down_into_parts_that_add_up() -> None:
    model = only(simulate(World({"m": Poisson(30.0, 200.0)}, 200.0)))
    tail_s = (
        model.tail_queue_s + model.tail_interference_s + model.tail_execution_s + model.tail_cold_s
    )
    assert tail_s >= model.latency_s(0.99) / 1.01**2
    assert tail_s <= model.latency_s(1.0)
    assert mean_latency_s(model) < tail_s


def test_progress_is_told_in_order_and_not_too_often() -> None:
    told: list[float] = []
    run(World({"m": Poisson(5.0, 500.0)}, 500.0).scenario(), PALDIA, told.append)
    assert told == sorted(told)
    assert 100 < len(told) <= 201
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (World({"m": At(())}, 0.0), "duration must lie above 0 s"),
        (World({"m": At((2.0, 1.0))}, 9.0), "must come in order of time"),
        (World({"m": At((-1.0,))}, 9.0), "must come in order of time"),
        (World({"m": At(())}, 9.0, faults=(Fault(FaultKind.FAIL, "x", 1, 1),)), "befalls 'x'"),
        (World({"m": At(())}, 9.0, faults=(Fault(FaultKind.SLOW, "s0", 1, 0),)), "above 0"),
    ],
)
def test_what_makes_no_sense_is_said_so(world: World, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        run(world.scenario(), PALDIA)


DIGEST = """
import hashlib
from paldia.core.baselines import policy_named
from paldia.sim.runner import run
from tests.sim.worlds import Poisson, World
arrivals = {name: Poisson(30.0, 40.0, seed) for seed, name in enumerate(("m", "n", "o"))}
outcome = run(World(arrivals, 40.0).scenario(), policy_named("paldia"))
facts = [(m.latency_counts.tolist(), m.queue_s, m.tail_interference_s) for m in outcome.models]
facts += [outcome.cost_usd, outcome.switches, outcome.timeline.in_slo.tolist()]
print(hashlib.sha256(repr(facts).encode()).hexdigest())
"""


def test_the_same_seed_gives_the_same_run_whatever_the_hash_seed() -> None:
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65


def test_a_longer_trace_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BUFFERED_REQUESTS", 500)

    def peak_bytes(duration_s: float) -> int:
        world = World({"m": Poisson(300.0, duration_s)}, duration_s, warmup_s=10.0)
        tracemalloc.start()
        try:
            run(world.scenario(), PALDIA)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(10.0)
    assert peak_bytes(120.0) < 1.25 * peak_bytes(40.0)
