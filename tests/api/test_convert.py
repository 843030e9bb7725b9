"""Nouns survive the way over the wire."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.api import convert, machines
from paldia.api.v1 import types_pb2 as pb
from paldia.core import observation as obs
from paldia.core import types
from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile, Provenance

YEAR_S = 366 * 86_400.0
# A float of some years' seconds resolves to better than a microsecond.
RESOLUTION_S = 1e-6

spans_s = st.floats(0, 10 * YEAR_S)
names = st.text(max_size=20)
counts = st.integers(0, 2**31 - 1)
slos = st.builds(
    types.Slo,
    latency_s=st.floats(1e-6, types.SLO_LIMIT_S),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
models = st.builds(
    types.Model,
    name=names,
    artifact_digest=names,
    slo=slos,
    generation=st.integers(0, 2**63 - 1),
    max_batch=st.integers(0, types.COUNT_LIMIT),
    min_replicas=st.integers(0, types.COUNT_LIMIT),
    keep_alive_s=st.floats(0, types.KEEP_ALIVE_LIMIT_S),
    on_overload=st.sampled_from(types.OverloadPolicy),
)
assignments = st.builds(
    obs.Assignment,
    node_id=names,
    hardware=names,
    artifact_digest=names,
    lanes=counts,
    batch=counts,
    sm_percent=st.integers(1, 100),
)
shares = st.floats(0, 1, exclude_min=True)
by_batch = st.dictionaries(st.integers(1, 512), shares, max_size=5).map(
    lambda points: tuple(sorted(points.items()))
)
profiles = st.builds(
    Profile,
    points=st.dictionaries(st.integers(1, 512), st.floats(1e-6, 100), min_size=1, max_size=5).map(
        lambda points: tuple(sorted(points.items()))
    ),
    load_s=st.floats(0, 1000),
    memory_bytes=st.integers(0, 1 << 40),
    demand=by_batch.filter(bool),
    sm_share=by_batch,
    colocation_penalty=st.floats(0, 1),
    interference=st.lists(st.floats(1, 9), max_size=4).map(tuple),
    watts=st.floats(0, 1000),
    provenance=st.sampled_from(Provenance),
)


def wire(message):
    """Send a message and read it."""
    return type(message).FromString(message.SerializeToString())


@given(spans_s)
def test_a_duration_keeps_its_seconds(span_s):
    span = wire(convert.duration(span_s))
    assert 0 <= span.nanos < 1_000_000_000
    assert convert.seconds(span) == pytest.approx(span_s, abs=RESOLUTION_S)


@given(st.floats(-10 * YEAR_S, 0))
def test_a_duration_may_be_negative(span_s):
    assert convert.seconds(convert.duration(span_s)) == pytest.approx(span_s, abs=RESOLUTION_S)


@given(st.integers(0, 86_400_000))
def test_whole_milliseconds_are_exact(milliseconds):
    assert convert.seconds(convert.duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.floats(0, 200 * YEAR_S))
def test_a_timestamp_keeps_its_time(wall_s):
    time = wire(convert.timestamp(wall_s))
    assert 0 <= time.nanos < 1_000_000_000
    assert convert.wall_s(time) == pytest.approx(wall_s, abs=RESOLUTION_S)


@given(models)
def test_a_model_survives(model):
    back = convert.model_from_proto(wire(convert.model_to_proto(model)), model.generation)
    assert back.slo.latency_s == pytest.approx(model.slo.latency_s, abs=1e-9)
    assert back.keep_alive_s == pytest.approx(model.keep_alive_s, abs=RESOLUTION_S)
    slo = types.Slo(back.slo.latency_s, model.slo.share)
    assert back == types.Model(
        name=model.name,
        artifact_digest=model.artifact_digest,
        slo=slo,
        generation=model.generation,
        max_batch=model.max_batch,
        min_replicas=model.min_replicas,
        keep_alive_s=back.keep_alive_s,
        on_overload=model.on_overload,
    )


@given(assignments)
def test_an_assignment_survives(assignment):
    back = convert.assignment_from_proto(wire(convert.assignment_to_proto(assignment)))
    assert back == assignment


@pytest.mark.parametrize(
    "spec",
    [
        pb.ModelSpec(),
        pb.ModelSpec(slo=pb.Slo(latency=convert.duration(0.1))),
        pb.ModelSpec(slo=pb.Slo(latency=convert.duration(0.1), share=1.0)),
        pb.ModelSpec(slo=pb.Slo(latency=convert.duration(0.1), share=float("nan"))),
        pb.ModelSpec(slo=pb.Slo(latency=convert.duration(-0.1), share=0.9)),
        pb.ModelSpec(slo=pb.Slo(latency=convert.duration(1), share=0.9), max_batch_size=-1),
        pb.ModelSpec(
            slo=pb.Slo(latency=convert.duration(1), share=0.9), keep_alive=convert.duration(-1)
        ),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(spec):
    with pytest.raises(InvalidArgumentError):
        convert.model_from_proto(spec, 1)


def test_what_becomes_of_late_requests_defaults_to_queueing():
    unspecified = pb.OVERLOAD_POLICY_UNSPECIFIED
    assert convert.overload_from_proto(unspecified) is types.OverloadPolicy.QUEUE
    for policy in types.OverloadPolicy:
        assert convert.overload_from_proto(convert.overload_to_proto(policy)) is policy


def test_a_stored_plan_from_before_sm_shares_is_held_to_none():
    assert convert.assignment_from_proto(pb.Placement(lanes=1)).sm_percent == 100


def test_no_limit_is_encoded_as_none():
    whole = obs.Assignment("n", "gpu", "d", 1, 1)
    assert not convert.assignment_to_proto(whole).sm_percent


@pytest.mark.parametrize("state", types.NodeState)
def test_every_state_of_a_node_survives(state):
    code = machines.node_state_to_proto(state)
    assert code != pb.NODE_STATE_UNSPECIFIED
    assert machines.node_state_from_proto(code) is state


@pytest.mark.parametrize("code", [pb.NODE_STATE_UNSPECIFIED, 99])
def test_a_node_in_a_state_that_is_not_known_is_lost(code):
    assert machines.node_state_from_proto(code) is types.NodeState.LOST


class TestHardware:
    def test_its_figures_arrive(self):
        told = pb.Hardware(
            name="g4dn.xlarge",
            price_usd_per_hour=0.526,
            memory_bytes=16 << 30,
            cores=4,
            gpus=[pb.Gpu(uuid="a", memory_bytes=15 << 30)],
            sm_shares=True,
            activation=convert.duration(42.5),
            idle_watts=10.0,
            rated_watts=70.0,
        )
        assert machines.hardware_from_proto(wire(told)) == types.Hardware(
            name="g4dn.xlarge",
            price_usd_per_hour=0.526,
            memory_bytes=15 << 30,
            cores=4,
            gpus=1,
            sm_shares=True,
            activation_s=42.5,
            idle_watts=10.0,
            rated_watts=70.0,
        )

    def test_an_agent_that_tells_less_leaves_the_rest_unknown(self):
        told = pb.Hardware(name="cpu", price_usd_per_hour=0.1, memory_bytes=1 << 30)
        assert machines.hardware_from_proto(wire(told)) == types.Hardware("cpu", 0.1, 1 << 30)


def test_every_state_of_a_deployment_is_reached():
    states = {convert.deployment_state_from_proto(code) for code in pb.PlacementState.values()}
    assert states == {*obs.DeploymentState}


class TestProfile:
    def profile(self, **changes):
        fields = {
            "points": [
                pb.LatencyPoint(batch_size=b, latency=convert.duration(b / 8)) for b in (1, 2)
            ],
            "load": convert.duration(1.5),
            "memory_bytes": 1 << 33,
            "demand": convert.batch_shares([(1, 0.5), (2, 0.75)]),
            "colocation_penalty": 0.05,
            "provenance": pb.PROVENANCE_MEASURED,
        }
        return pb.Profile(**{**fields, **changes})

    def test_its_figures_arrive(self):
        profile = convert.profile_from_proto(wire(self.profile()))
        assert profile.points == ((1, 0.125), (2, 0.25))
        assert (profile.load_s, profile.memory_bytes) == (1.5, 1 << 33)
        assert (profile.demand, profile.colocation_penalty) == (((1, 0.5), (2, 0.75)), 0.05)
        assert profile.provenance is Provenance.MEASURED

    @given(profiles)
    def test_it_survives(self, profile):
        back = convert.profile_from_proto(wire(convert.profile_to_proto(profile)))
        points = tuple((batch, pytest.approx(s, abs=1e-9)) for batch, s in profile.points)
        assert back.points == points
        assert back.load_s == pytest.approx(profile.load_s, abs=1e-9)
        assert replace(back, points=profile.points, load_s=profile.load_s) == profile

    def test_one_stored_with_a_single_demand_fraction_has_it_at_every_size(self):
        stored = self.profile(demand=[], demand_fraction=0.5)
        profile = convert.profile_from_proto(wire(stored))
        assert profile.demand == ((1, 0.5),)
        assert profile.demand_fraction(1) == profile.demand_fraction(64) == 0.5
        assert (profile.sm_share, profile.interference, profile.watts) == ((), (), 0.0)

    def test_demand_by_size_counts_before_the_single_figure(self):
        both = self.profile(demand_fraction=0.9)
        assert convert.demand_points(both) == ((1, 0.5), (2, 0.75))

    def test_a_failure_is_no_profile(self):
        assert convert.profile_from_proto(self.profile(failure="model.py raises")) is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"points": []},
            {"points": [pb.LatencyPoint(batch_size=1, latency=convert.duration(0))]},
            {"demand": []},
            {"demand": convert.batch_shares([(1, 0.0)])},
            {"demand": convert.batch_shares([(1, 1.5)])},
            {"demand": convert.batch_shares([(2, 0.5), (1, 0.5)])},
            {"sm_share": convert.batch_shares([(1, 1.5)])},
            {"interference": [0.5]},
            {"watts": -1.0},
        ],
    )
    def test_figures_that_make_no_sense_are_refused(self, changes):
        with pytest.raises(InvalidArgumentError):
            convert.profile_from_proto(self.profile(**changes))
