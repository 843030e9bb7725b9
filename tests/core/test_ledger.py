"""Node-seconds to dollars, by node and by model, and to joules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.ledger import (
    FORMER_MODELS,
    FORMER_NODES,
    MODELS_KEPT,
    NODES_KEPT,
    Draw,
    Energy,
    Ledger,
    estimated_draw,
)
from paldia.core.types import Hardware

NODES = ("n1", "n2", "n3")
MODELS = ("a", "b", "c")
BUSY = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Span:
    """What happens from one settling to the next."""

    seconds: float
    running: dict[str, float]
    busy: BUSY
    draw: dict[str, Draw]


spans = st.builds(
    Span,
    seconds=st.floats(0, 1e5),
    running=st.dictionaries(st.sampled_from(NODES), st.floats(0, 50)),
    busy=st.dictionaries(
        st.sampled_from(NODES), st.dictionaries(st.sampled_from(MODELS), st.floats(0, 3))
    ),
    draw=st.dictionaries(
        st.sampled_from(NODES), st.builds(Draw, watts=st.floats(0, 1000), estimated=st.booleans())
    ),
)


def settled(history: list[Span], pieces: int = 1) -> Ledger:
    """Settle each span in so many equal pieces."""
    ledger, now_s = Ledger(0.0), 0.0
    for span in history:
        ledger = ledger.settle(now_s, span.running)
        for piece in range(pieces):
            until_s = now_s + span.seconds * ((piece + 1) / pieces)
            ledger = ledger.settle(until_s, span.running, span.busy, span.draw)
        now_s = until_s
    return ledger


def split_usd(ledger: Ledger) -> float:
    return math.fsum([*ledger.model_usd.values(), ledger.idle_usd])


def test_a_node_is_charged_from_when_it_runs_until_it_does_not() -> None:
    ledger = Ledger(1000.0).settle(1000.0, {"a": 3.6}).settle(1010.0, {"a": 3.6, "b": 36.0})
    ledger = ledger.settle(1020.0, {"b": 36.0}).settle(1030.0, {})
    assert ledger.cost_usd == pytest.approx({"a": 0.02, "b": 0.2})
    assert ledger.usd_per_hour == 0


@pytest.mark.parametrize(
    ("busy", "models", "idle"),
    [
        ({}, {}, 10.0),
        ({"n": {}}, {}, 10.0),
        ({"n": {"a": 0.5, "b": 0.2}}, {"a": 5.0, "b": 2.0}, 3.0),
        ({"n": {"a": 0.8, "b": 0.8}}, {"a": 5.0, "b": 5.0}, 0.0),
        ({"n": {"a": 7.0}}, {"a": 10.0}, 0.0),
        ({"n": {"a": 0.0}}, {"a": 0.0}, 10.0),
        ({"n": {"a": -1.0, "b": math.nan}}, {"a": 0.0, "b": 0.0}, 10.0),
        ({"elsewhere": {"a": 1.0}}, {}, 10.0),
    ],
)
def test_a_nodes_cost_goes_to_the_models_by_what_they_used(
    busy: BUSY, models: dict[str, float], idle: float
) -> None:
    ledger = Ledger(0.0, {}, {"n": 3600.0}).settle(10.0, {}, busy)
    assert ledger.model_usd == pytest.approx(models)
    assert ledger.idle_usd == pytest.approx(idle)


def test_a_model_pays_on_each_node_by_that_nodes_price() -> None:
    ledger = Ledger(0.0, {}, {"cheap": 3600.0, "dear": 36000.0})
    ledger = ledger.settle(1.0, {}, {"cheap": {"a": 0.5}, "dear": {"a": 0.1, "b": 0.9}})
    assert ledger.model_usd == pytest.approx({"a": 1.5, "b": 9.0})
    assert ledger.idle_usd == pytest.approx(0.5)


@given(st.lists(spans, max_size=8))
def test_the_split_reconciles_with_price_times_time(history: list[Span]) -> None:
    ledger = settled(history)
    owed = math.fsum(span.seconds / 3600 * sum(span.running.values()) for span in history)
    assert ledger.total_usd == pytest.approx(owed, rel=1e-9, abs=1e-12)
    assert split_usd(ledger) == pytest.approx(owed, rel=1e-9, abs=1e-12)
    assert min([*ledger.model_usd.values(), ledger.idle_usd]) >= 0


@given(st.lists(spans, max_size=5), st.integers(2, 5))
def test_settling_more_often_charges_the_same(history: list[Span], pieces: int) -> None:
    once, often = settled(history), settled(history, pieces)
    assert often.accounted_until_s == once.accounted_until_s
    assert often.running == once.running
    assert often.cost_usd == pytest.approx(once.cost_usd, rel=1e-6, abs=1e-9)
    assert often.model_usd == pytest.approx(once.model_usd, rel=1e-6, abs=1e-9)
    assert often.idle_usd == pytest.approx(once.idle_usd, rel=1e-6, abs=1e-9)
    assert often.energy.keys() == once.energy.keys()
    for node, energy in once.energy.items():
        assert often.energy[node].measured_j == pytest.approx(energy.measured_j, rel=1e-6, abs=1e-6)
        assert often.energy[node].estimated_j == pytest.approx(
            energy.estimated_j, rel=1e-6, abs=1e-6
        )


def test_a_clock_set_back_charges_nothing_twice() -> None:
    ledger = Ledger(0.0, {}, {"a": 3600.0}).settle(10.0, {"a": 3600.0}, {"a": {"m": 0.5}})
    draw = {"a": Draw(100.0)}
    ledger = ledger.settle(5.0, {"a": 3600.0}, {"a": {"m": 1.0}}, draw)
    assert ledger.accounted_until_s == 10.0
    ledger = ledger.settle(11.0, {}, {}, draw)
    assert ledger.total_usd == pytest.approx(11.0)
    assert ledger.model_usd == pytest.approx({"m": 5.0})
    assert ledger.total_energy == Energy(measured_j=100.0)


def test_energy_is_kept_by_node_and_what_was_estimated_apart() -> None:
    running = {"a": 1.0, "b": 1.0, "unknown": 1.0}
    ledger = Ledger(0.0, {}, running)
    ledger = ledger.settle(10.0, running, {}, {"a": Draw(200.0), "b": Draw(50.0, estimated=True)})
    draw = {"a": Draw(30.0, estimated=True), "b": Draw(5.0, estimated=True), "gone": Draw(1e6)}
    ledger = ledger.settle(12.0, running, {}, draw)
    assert ledger.energy == {"a": Energy(2000.0, 60.0), "b": Energy(estimated_j=510.0)}
    assert ledger.total_energy == Energy(2000.0, 570.0)
    assert ledger.total_energy.total_j == 2570.0


@pytest.mark.parametrize(
    ("idle", "rated", "utilisation", "watts"),
    [
        (20.0, 120.0, 0.0, 20.0),
        (20.0, 120.0, 0.25, 45.0),
        (20.0, 120.0, 1.0, 120.0),
        (20.0, 120.0, 3.0, 120.0),
        (20.0, 120.0, -1.0, 20.0),
        (0.0, 70.0, 0.5, 35.0),
        (20.0, 0.0, 1.0, 20.0),
    ],
)
def test_power_is_estimated_between_idle_and_rated(
    idle: float, rated: float, utilisation: float, watts: float
) -> None:
    hardware = Hardware("h", 1.0, 1, idle_watts=idle, rated_watts=rated)
    assert estimated_draw(hardware, utilisation) == Draw(pytest.approx(watts), estimated=True)


def test_the_power_of_unknown_hardware_is_unknown() -> None:
    assert estimated_draw(Hardware("h", 1.0, 1), 1.0) is None


def test_nodes_that_come_and_go_leave_their_cost_but_not_all_their_names() -> None:
    ledger = Ledger(0.0)
    for number in range(NODES_KEPT + 300):
        draw = {f"n{number - 1}": Draw(1.0)}
        ledger = ledger.settle(10.0 * number, {f"n{number}": 3600.0}, {}, draw)
    last = {f"n{NODES_KEPT + 299}": Draw(1.0)}
    ledger = ledger.settle(10.0 * (NODES_KEPT + 300), {}, {}, last)
    assert len(ledger.cost_usd) <= NODES_KEPT + 1
    assert ledger.energy.keys() == ledger.cost_usd.keys()
    assert ledger.cost_usd[FORMER_NODES] > 0
    assert ledger.total_usd == pytest.approx(10.0 * (NODES_KEPT + 300))
    assert ledger.total_energy.total_j == pytest.approx(10.0 * (NODES_KEPT + 300))


def test_models_that_come_and_go_leave_their_cost_but_not_all_their_names() -> None:
    ledger, running = Ledger(0.0), {"n": 3600.0}
    ledger = ledger.settle(0.0, running)
    count = MODELS_KEPT + 300
    for number in range(1, count + 1):
        busy = {"n": {"always": 0.25, f"m{number}": 0.5}}
        ledger = ledger.settle(float(number), running, busy)
    # One comes in and one goes out of the names; those in use keep theirs.
    assert len(ledger.model_usd) <= MODELS_KEPT + 2
    assert ledger.model_usd["always"] == pytest.approx(0.25 * count)
    assert ledger.model_usd[FORMER_MODELS] > 100
    assert split_usd(ledger) == pytest.approx(float(count))
