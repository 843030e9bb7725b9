"""Node-seconds to dollars."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.ledger import FORMER_NODES, NODES_KEPT, Ledger


def test_a_node_is_charged_from_when_it_runs_until_it_does_not() -> None:
    ledger = Ledger(1000.0).settle(1000.0, {"a": 3.6}).settle(1010.0, {"a": 3.6, "b": 36.0})
    ledger = ledger.settle(1020.0, {"b": 36.0}).settle(1030.0, {})
    assert ledger.cost_usd == pytest.approx({"a": 0.02, "b": 0.2})
    assert ledger.usd_per_hour == 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_settling_more_often_costs_the_same(gaps_s: list[float]) -> None:
    often, now_s = Ledger(0.0, {}, {"a": 2.0}), 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        often = often.settle(now_s, {"a": 2.0})
    once = Ledger(0.0, {}, {"a": 2.0}).settle(now_s, {"a": 2.0})
    assert often.total_usd == pytest.approx(once.total_usd)


def test_a_clock_set_back_charges_nothing_twice() -> None:
    ledger = Ledger(0.0, {}, {"a": 3600.0}).settle(10.0, {"a": 3600.0})
    ledger = ledger.settle(5.0, {"a": 3600.0}).settle(11.0, {})
    assert ledger.total_usd == pytest.approx(11.0)


def test_nodes_that_come_and_go_leave_their_cost_but_not_all_their_names() -> None:
    ledger = Ledger(0.0)
    for number in range(NODES_KEPT + 300):
        ledger = ledger.settle(10.0 * number, {f"n{number}": 3600.0})
    ledger = ledger.settle(10.0 * (NODES_KEPT + 300), {})
    assert len(ledger.cost_usd) <= NODES_KEPT + 1
    assert ledger.cost_usd[FORMER_NODES] > 0
    assert ledger.total_usd == pytest.approx(10.0 * (NODES_KEPT + 300))
