"""Batches against what was measured of them."""

from __future__ import annotations

from typing import Any

import pytest
from paldia_frontend.checks import Checks
from paldia_frontend.routes import Route, route_from_proto
from tritonclient.grpc import model_config_pb2

from paldia.api import convert
from paldia.api.v1 import routing_pb2, types_pb2
from paldia.core.dispatch.types import Dispatch


def route(
    model: str = "m",
    end: str = "n:1",
    correction: float = 1.0,
    latency_s: float = 0.1,
    **fields: Any,
) -> Route:
    lane = routing_pb2.Lane(
        node_id="n",
        endpoint=end,
        count=3,
        batch_size=8,
        # As the controller corrects them.
        points=[
            types_pb2.LatencyPoint(batch_size=1, latency=convert.duration(latency_s * correction))
        ],
        slowdowns=[1.0, 1.5, 2.0],
        artifact_digest="d",
        correction=correction,
    )
    return route_from_proto(
        routing_pb2.ModelRoute(
            model=model,
            state=routing_pb2.ROUTE_STATE_READY,
            slo=types_pb2.Slo(latency=convert.duration(1.0), share=0.99),
            lanes=[lane],
            model_config=model_config_pb2.ModelConfig(max_batch_size=8).SerializeToString(),
            **fields,
        )
    )


class Played:
    """Batches that start and end as a test says, after one that warms the lane."""

    def __init__(self, *routes: Route) -> None:
        self.noted: list[tuple[str, str, float]] = []
        self.checks = Checks(lambda *it: self.noted.append(it))
        for number, each in enumerate(routes, 1000):
            self.checks.take_route(each)
            self.start(number, 0.0, each)
            self.end(number, 0.1)

    def start(self, batch_id: int, now_s: float, at: Route, **how: Any) -> None:
        (lane,) = at.plan.lanes
        batch = Dispatch(batch_id, at.model, lane.lane_id, "n", (batch_id,), 1)
        self.checks.started(batch, now_s, **{"counts": True} | how)

    def end(self, batch_id: int, now_s: float, *, answered: bool = True) -> None:
        self.checks.ended(batch_id, now_s, answered=answered)

    @property
    def ratios(self) -> list[float]:
        return [ratio for _, _, ratio in self.noted]


def test_a_batch_alone_goes_against_what_was_measured() -> None:
    played = Played(route())
    assert played.ratios == [], "the first on a lane may be anything"
    played.start(1, 1.0, route())
    played.end(1, 1.15)
    played.start(2, 2.0, route())
    played.end(2, 2.05)
    assert played.ratios == pytest.approx([1.5, 0.5])
    (check,) = played.checks.counted("m")
    assert (check.node_id, check.artifact_digest, check.batches) == ("n", "d", 2)
    assert check.ratios == pytest.approx(2.0)


def test_batches_beside_it_may_slow_it_as_foretold() -> None:
    played = Played(route())
    played.start(1, 1.0, route())
    played.start(2, 1.05, route())
    # Half of each alone, half at 1 / 1.5.
    played.end(1, 1.125)
    played.end(2, 1.175)
    assert played.ratios == pytest.approx([1.0, 1.0])


def test_a_correction_in_use_changes_nothing_of_what_is_told() -> None:
    played = Played(route(correction=1.5))
    played.start(1, 1.0, route())
    played.end(1, 1.15)
    played.checks.take_route(route(correction=0.7))
    played.start(2, 2.0, route())
    played.end(2, 2.15)
    assert played.ratios == pytest.approx([1.5, 1.5])


def test_what_ran_beside_another_model_isnt_counted() -> None:
    other = route("other", "n:2")
    played = Played(route(), other)
    played.start(1, 1.0, route())
    played.start(2, 1.05, other)
    played.end(1, 1.4)
    played.start(3, 1.45, route())
    played.end(2, 1.5)
    played.end(3, 1.6)
    assert played.ratios == []
    played.start(4, 2.0, route())
    played.end(4, 2.1)
    assert played.ratios == pytest.approx([1.0])


def test_what_failed_or_streams_isnt_counted_but_slows_others() -> None:
    played = Played(route())
    played.start(1, 1.0, route(), counts=False)
    played.start(2, 1.0, route())
    played.end(2, 1.15)
    played.end(1, 3.0)
    played.start(3, 4.0, route())
    played.end(3, 4.5, answered=False)
    played.end(3, 4.6)
    assert played.ratios == pytest.approx([1.0])


def test_what_is_gone_is_forgotten() -> None:
    played = Played(route())
    played.start(1, 1.0, route())
    played.checks.drop("m")
    played.end(1, 1.1)
    assert played.checks.counted("other") == []
    moved = route(end="n:9")
    played.checks.take_route(moved)
    played.start(2, 2.0, route())
    played.end(2, 2.1)
    played.checks.ended(99, 3.0, answered=True)
    assert played.ratios == pytest.approx([1.0])


def test_a_route_without_an_artifact_tells_nothing() -> None:
    bare = route()
    bare.sources.clear()
    played = Played(bare)
    played.start(1, 1.0, bare)
    played.end(1, 1.1)
    assert played.ratios == []


def test_where_nothing_is_to_be_learned_nothing_is_counted() -> None:
    stubborn = route(unteachable=True)
    played = Played(stubborn)
    played.start(1, 1.0, stubborn)
    played.end(1, 1.15)
    assert played.ratios == []
    assert [*played.checks.counted("m")] == []
