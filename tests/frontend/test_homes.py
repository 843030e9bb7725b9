"""Which worker has which model's queue, and what all workers saw, added up."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from paldia_frontend.supervisor.homes import settle
from paldia_frontend.supervisor.tally import Tally

from paldia.api.v1.routing_pb2 import BatchCheck, ModelDemand

NAMES = st.sets(st.text("abcdef", min_size=1, max_size=2), max_size=12)
SLOTS = st.sets(st.integers(1, 6), max_size=5)


@given(NAMES, SLOTS, NAMES, SLOTS)
def test_models_are_spread_and_stay(
    before: set[str], slots_before: set[int], models: set[str], slots: set[int]
) -> None:
    homes = settle({}, before, sorted(slots_before))
    settled = settle(homes, models, sorted(slots))
    assert set(settled) == (models if slots else set())
    assert set(settled.values()) <= slots
    if slots:
        count = Counter(dict.fromkeys(slots, 0))
        count.update(settled.values())
        assert max(count.values()) - min(count.values()) <= 1
    # Once settled nothing moves.
    assert settle(settled, models, sorted(slots)) == settled


@given(NAMES, st.integers(1, 5))
def test_only_what_must_moves_when_a_worker_leaves(models: set[str], workers: int) -> None:
    slots = list(range(1, workers + 1))
    homes = settle({}, models, slots)
    after = settle(homes, models, slots[1:])
    if workers > 1:
        assert {m for m in models if after[m] != homes[m]} == {m for m in models if homes[m] == 1}


def demand(model: str, **figures: int) -> ModelDemand:
    return ModelDemand(model=model, **figures)


def test_counts_of_workers_add_up_and_outlive_them() -> None:
    tally = Tally()
    tally.report(1, [demand("m", offered=5, answered_in_slo=4, backlog=2), demand("n", refused=1)])
    tally.report(2, [demand("m", offered=3, backlog=1, in_flight=2)])
    tally.report(1, [demand("m", offered=7, answered_in_slo=6, backlog=1), demand("n", refused=1)])
    assert tally.demands() == [
        demand("m", offered=10, answered_in_slo=6, backlog=2, in_flight=2),
        demand("n", refused=1),
    ]
    tally.left(1)
    assert tally.demands() == [
        # What waited with it is gone, what it had counted isn't.
        demand("m", offered=10, answered_in_slo=6, backlog=1, in_flight=2),
        demand("n", refused=1),
    ]
    tally.left(1)
    tally.forget(["n"])
    assert [it.model for it in tally.demands()] == ["m"]


def test_checks_say_whose_they_are() -> None:
    tally = Tally()
    check = BatchCheck(node_id="a", artifact_digest="d", batches=3, ratios=3.3)
    for worker in (4, 7):
        report = demand("m", offered=1)
        report.checks.add().CopyFrom(check)
        tally.report(worker, [report])
    (total,) = tally.demands()
    assert [(it.worker, it.batches) for it in total.checks] == [(4, 3), (7, 3)]
    tally.left(4)
    (total,) = tally.demands()
    assert total.offered == 2
    assert [it.worker for it in total.checks] == [7]
