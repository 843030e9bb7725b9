"""Nouns survive the way over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.api import convert
from paldia.api.v1 import types_pb2 as pb
from paldia.core import observation as obs
from paldia.core import types
from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Provenance

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


def test_every_state_of_a_node_has_a_code_of_its_own():
    codes = {convert.node_state_to_proto(state) for state in types.NodeState}
    assert len(codes) == len(types.NodeState)
    assert pb.NODE_STATE_UNSPECIFIED not in codes


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
            "demand_fraction": 0.5,
            "colocation_penalty": 0.05,
            "provenance": pb.PROVENANCE_MEASURED,
        }
        return pb.Profile(**{**fields, **changes})

    def test_its_figures_arrive(self):
        profile = convert.profile_from_proto(wire(self.profile()))
        assert profile.points == ((1, 0.125), (2, 0.25))
        assert (profile.load_s, profile.memory_bytes) == (1.5, 1 << 33)
        assert (profile.demand_fraction, profile.colocation_penalty) == (0.5, 0.05)
        assert profile.provenance is Provenance.MEASURED

    def test_a_failure_is_no_profile(self):
        assert convert.profile_from_proto(self.profile(failure="model.py raises")) is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"points": []},
            {"points": [pb.LatencyPoint(batch_size=1, latency=convert.duration(0))]},
            {"demand_fraction": 0.0},
        ],
    )
    def test_figures_that_make_no_sense_are_refused(self, changes):
        with pytest.raises(InvalidArgumentError):
            convert.profile_from_proto(self.profile(**changes))
