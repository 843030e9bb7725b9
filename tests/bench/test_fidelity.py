"""The comparison of simulator and live cluster: the parts of it that need no cluster."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest

from bench.fidelity.cases import LEAD_S, RPS_LIMIT, Case, arrivals, cases
from bench.fidelity.played import Played, delta
from bench.fidelity.report import WANTED, off, text
from bench.fidelity.simulated import Found, Ways, simulate
from paldia.core.baselines import live_policy_named
from paldia.core.profiles import Profile
from paldia.core.types import Hardware

CASES = {case.name: case for case in cases()}
PLAYED_S = 60.0
LIVE = {"slo_compliance": 0.98, "p50_ms": 50.0, "p99_ms": 200.0, "cost_usd": 0.01}
# One batch at a time, and no gain from batches: who comes second waits for the first.
PROFILE = Profile(((1, 0.5), (2, 1.0)), 1.0, 1 << 20)


def test_cases_are_what_can_be_played() -> None:
    assert all(live_policy_named(case.policy) for case in CASES.values())
    assert sum(all(node.device == "auto" for node in case.nodes) for case in CASES.values()) >= 2
    shared = [key for key, _ in groupby(CASES.values(), lambda case: (case.model, case.nodes))]
    assert len(shared) == len(set(shared)), "each model is measured once"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_requests_come_in_order_and_as_fast_as_is_wanted(case: Case) -> None:
    times = arrivals(case, 50.0, PLAYED_S)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < LEAD_S + PLAYED_S
    minutes = [((times >= at_s) & (times < at_s + 60)).sum() / 60 for at_s in range(0, 60, 10)]
    assert max(minutes) == pytest.approx(case.load * 50.0, rel=0.25)
    assert np.array_equal(times, arrivals(case, 50.0, PLAYED_S)), "the same each time"


def test_no_more_requests_come_than_can_be_sent() -> None:
    times = arrivals(CASES["bert-code"], 1e6, PLAYED_S)
    assert 0 < len(times) <= 1.25 * RPS_LIMIT * (LEAD_S + PLAYED_S)


def test_whoever_got_no_answer_was_not_in_time() -> None:
    figures = Played(np.array([0.1, 0.2, 0.3, np.nan]), ["a", "b", "b", ""], 1.0).figures(0.2)
    assert (figures["requests"], figures["unanswered"]) == (4, 1)
    assert figures["slo_compliance"] == 0.5
    assert figures["p50_ms"] == pytest.approx(200.0)
    assert figures["ran_on"] == {"a": 0.25, "b": 0.5}


def test_where_nothing_was_answered_nothing_is_said_of_latencies() -> None:
    nothing = Played(np.array([np.nan]), [""], 0.0).figures(0.2)
    said = delta(nothing, LIVE)
    assert said == {"slo_points": 98.0, "p50_pct": None, "p99_pct": None, "cost_pct": None}
    assert off(said) == ["slo +98.0 points", "p50 unknown", "p99 unknown", "cost unknown"]


def test_a_difference_is_in_points_and_in_per_cent_of_what_was_seen() -> None:
    sim = {"slo_compliance": 0.97, "p50_ms": 55.0, "p99_ms": 150.0, "cost_usd": 0.0101}
    assert delta(LIVE, sim) == pytest.approx(
        {"slo_points": -1.0, "p50_pct": 10.0, "p99_pct": -25.0, "cost_pct": 1.0}
    )


@pytest.mark.parametrize("key", WANTED)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_off_by_more_than_is_wanted_is_named_either_way(key: str, sign: int) -> None:
    just = dict.fromkeys(WANTED, 0.0) | {key: sign * WANTED[key]}
    assert off(just) == []
    (named,) = off(just | {key: sign * (WANTED[key] + 0.1)})
    assert named.startswith(key.partition("_")[0])


def played(*times: float, ways: Ways = Ways(0.0, 0.0)) -> Played:  # noqa: B008 - frozen
    """Simulate requests at these times after the lead, after three in it."""
    case = replace(CASES["magika-cpu"], slo_s=2.0)
    nodes = {"cpu": Hardware("cpu", 3600.0, 8 << 30, cores=1)}
    found = Found({"cpu": PROFILE}, nodes, 20.0, ways)
    every = np.array([1.0, 2.0, 3.0, *(LEAD_S + at_s for at_s in times)])
    return simulate(case, every, 10.0, found)


def test_what_is_simulated_is_what_comes_after_the_lead() -> None:
    alone = played(1.0, 3.0)
    assert alone.latency_s == pytest.approx([0.5, 0.5])
    assert alone.node_ids == ["cpu", "cpu"]
    assert alone.cost_usd == pytest.approx(10.0), "ten seconds at a dollar each"


def test_who_comes_together_waits_and_all_take_the_way_there_and_back() -> None:
    assert max(played(1.0, 1.0).latency_s) == pytest.approx(1.0, rel=0.1)
    assert played(1.0, ways=Ways(0.0, 0.1)).latency_s == pytest.approx([0.6])
    # Whoever comes next waits for the lane, but not for the answer to have reached its caller.
    apart = played(1.0, 1.1, ways=Ways(0.0, 0.2)).latency_s
    behind = played(1.0, 1.1, ways=Ways(0.2, 0.0)).latency_s
    assert max(apart) == pytest.approx(0.9 + 0.2, rel=0.01)
    assert max(behind) == pytest.approx(1.3, rel=0.01)


def test_the_report_shows_both_sides_of_a_case() -> None:
    sides = {
        "live": Played(np.array([0.1, 0.3]), ["a", "a"], 1.0).figures(0.2),
        "sim": Played(np.array([0.1, 0.1]), ["a", "b"], 1.0).figures(0.2),
    }
    row = {"name": "it", **sides, "delta": delta(sides["live"], sides["sim"])}
    live, sim = text([row]).splitlines()[-2:]
    assert "50.00%" in live
    assert "a 50%, b 50%" in sim
    assert "slo +50.0 points" in sim
