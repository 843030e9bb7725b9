"""Profiles corrected by what frontends see, and estimates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from paldia_controller.checks import ALONE_S, CheckMeter
from paldia_controller.knowledge import Knowledge
from paldia_controller.state import Record, State

from paldia.api import convert
from paldia.api.v1 import routing_pb2, types_pb2
from paldia.core.correction import MEMORY_BATCHES, TRUSTED_BATCHES
from paldia.core.profiles import Provenance
from paldia.core.types import Hardware
from paldia.store.embedded import EmbeddedStore

KINDS = {
    "small": Hardware("small", 0.1, 1 << 30, cores=2),
    "large": Hardware("large", 0.4, 1 << 30, cores=4),
    "card": Hardware("card", 1.0, 1 << 30, gpus=1),
}


def stored(latency_s: float = 0.01, failure: str = "") -> types_pb2.Profile:
    profile = types_pb2.Profile(failure=failure, provenance=types_pb2.PROVENANCE_MEASURED)
    if not failure:
        profile.points.add(batch_size=1, latency=convert.duration(latency_s), samples=3)
        profile.demand.add(batch_size=1, share=0.5)
    return profile


class World:
    """Knowledge of a store's profiles."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.knowledge = Knowledge(state)

    def measure(self, key: str, profile: types_pb2.Profile, revision: int = 1) -> None:
        self.state.profiles.rows[key] = Record(profile, revision)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = EmbeddedStore(tmp_path / "state.db")
    yield World(State(store))
    await store.close()


async def test_what_is_seen_corrects_a_profile_and_a_new_one_begins_anew(world: World) -> None:
    world.measure("d/small", stored())
    assert not world.knowledge.heard("d/small", 2.0, TRUSTED_BATCHES - 1)
    assert world.knowledge.heard("d/small", 2.0, 1)
    corrected = world.knowledge.profile("d/small")
    assert corrected is not None
    assert corrected.latency_s(1) == pytest.approx(0.02)
    assert world.knowledge.applied("d/small") == 2.0
    assert world.knowledge.for_planning([])["d"]["small"] == corrected
    # More of the same changes nothing that others would have to hear of.
    assert not world.knowledge.heard("d/small", 2.02, 100)
    # The same row, read again.
    world.measure("d/small", stored())
    assert world.knowledge.applied("d/small") == 2.0
    world.measure("d/small", stored(0.02), revision=2)
    assert world.knowledge.applied("d/small") == 1.0
    assert world.knowledge.check("d/small") is None


async def test_a_profile_far_off_for_long_is_stale(world: World) -> None:
    world.measure("d/small", stored())
    world.knowledge.heard("d/small", 1.5, MEMORY_BATCHES - 1)
    assert world.knowledge.stale_keys() == []
    world.knowledge.heard("d/small", 1.5, 1)
    assert world.knowledge.stale_keys() == ["d/small"]
    (told,) = world.knowledge.told("d")
    assert told.check.stale
    assert told.check.batches == MEMORY_BATCHES
    assert told.check.ratio == pytest.approx(1.5)
    # What is stored is never changed.
    stored_now = world.state.profiles.get("d/small")
    assert stored_now is not None
    assert not stored_now.HasField("check")


async def test_nothing_is_heard_of_what_isnt_there(world: World) -> None:
    world.measure("d/card", stored(failure="no"))
    assert not world.knowledge.heard("d/card", 2.0, 1000)
    assert not world.knowledge.heard("d/small", 2.0, 1000)
    assert world.knowledge.profile("d/card") is None


async def test_an_estimate_stands_until_there_is_a_measurement(world: World) -> None:
    world.measure("d/small", stored())
    for number, ratio in enumerate((0.5, 0.4, 0.9)):
        world.measure(f"other{number}/small", stored(0.02))
        world.measure(f"other{number}/large", stored(0.02 * ratio))
    known = world.knowledge.for_planning(KINDS.values())["d"]
    guess = known["large"]
    assert guess is not None
    assert guess.provenance is Provenance.ESTIMATED
    # As other models tell, in the median.
    assert guess.latency_s(1) == pytest.approx(0.005)
    assert guess.demand_fraction(1) == pytest.approx(0.25)
    # No model tells of the card.
    card = known["card"]
    assert card is not None
    assert card.latency_s(1) == pytest.approx(0.01)
    world.measure("d/large", stored(0.007))
    measured = world.knowledge.for_planning(KINDS.values())["d"]["large"]
    assert measured is not None
    assert measured.provenance is Provenance.MEASURED


async def test_there_is_no_estimate_of_what_failed_or_ran_nowhere(world: World) -> None:
    world.measure("d/small", stored())
    world.measure("d/card", stored(failure="out of memory"))
    world.measure("broken/small", stored(failure="no"))
    known = world.knowledge.for_planning(KINDS.values())
    assert known["d"]["card"] is None
    assert known["broken"] == {"small": None}


def told(batches: int, ratios: float, node: str = "n") -> list[routing_pb2.ModelDemand]:
    check = routing_pb2.BatchCheck(
        node_id=node, artifact_digest="d", batches=batches, ratios=ratios
    )
    return [routing_pb2.ModelDemand(model="m", checks=[check])]


def test_counters_count_by_what_they_grew() -> None:
    meter = CheckMeter()
    meter.connect("a", told(100, 100.0))
    (seen,) = meter.report("a", told(110, 115.0), now_s=1.0)
    assert (seen.node_id, seen.digest, seen.batches) == ("n", "d", 10)
    assert seen.mean_ratio == pytest.approx(1.5)
    assert meter.report("a", told(110, 115.0), now_s=2.0) == []
    # A frontend that began anew.
    meter.connect("a", told(0, 0.0))
    (seen,) = meter.report("a", told(4, 4.0), now_s=3.0)
    assert seen.batches == 4


@pytest.mark.parametrize("ratios", [-1.0, 0.0, float("nan"), float("inf"), 1e9])
def test_what_makes_no_sense_isnt_heard(ratios: float) -> None:
    meter = CheckMeter()
    meter.connect("a", [])
    assert meter.report("a", told(10, ratios), now_s=1.0) == []


def test_two_frontends_on_one_node_say_nothing_sure() -> None:
    meter = CheckMeter()
    for name in ("a", "b"):
        meter.connect(name, [])
    assert meter.report("a", told(10, 10.0), now_s=1.0)
    assert meter.report("b", told(10, 10.0), now_s=1.5) == []
    assert meter.report("a", told(20, 20.0), now_s=2.0) == []
    assert meter.report("b", told(20, 20.0, node="elsewhere"), now_s=2.0)
    assert meter.report("a", told(30, 30.0), now_s=2.0 + ALONE_S)
    meter.disconnect("b")
