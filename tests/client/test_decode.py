"""What the controller answers, as the SDK's own values."""

from __future__ import annotations

import pytest

from paldia.api import convert
from paldia.api.v1 import control_pb2, types_pb2
from paldia.client import BatchShare, NodeState, Profile, Provenance, decode


def profile(**fields: object) -> Profile:
    message = types_pb2.Profile(hardware="gpu", **fields)
    return decode.profile(types_pb2.Profile.FromString(message.SerializeToString()))


def test_a_profile_has_its_shares_by_batch_size():
    found = profile(
        demand=convert.batch_shares([(1, 0.25), (8, 0.5)]),
        sm_share=convert.batch_shares([(8, 0.75)]),
        interference=[1.0, 1.5],
        watts=70.0,
        provenance=types_pb2.PROVENANCE_IMPORTED,
    )
    assert found.demand == (BatchShare(1, 0.25), BatchShare(8, 0.5))
    assert found.sm_share == (BatchShare(8, 0.75),)
    assert (found.interference, found.watts) == ((1.0, 1.5), 70.0)
    assert found.provenance is Provenance.IMPORTED


def test_a_profile_from_before_shares_went_by_batch_size_has_the_one():
    assert profile(demand_fraction=0.5).demand == (BatchShare(1, 0.5),)


def test_a_profile_that_could_not_be_measured_has_no_shares():
    found = profile(failure="out of memory")
    assert (found.demand, found.sm_share, found.interference) == ((), (), ())


@pytest.mark.parametrize(("told", "percent"), [(0, 100), (30, 30), (100, 100)])
def test_no_limit_on_the_sms_is_all_of_them(told: int, percent: int):
    place = types_pb2.Placement(node_id="n", sm_percent=told)
    status = types_pb2.ModelStatus(placements=[place])
    model = decode.model(types_pb2.Model(name="m", status=status))
    assert model.placements[0].sm_percent == percent
    candidate = types_pb2.Candidate(hardware="gpu", sm_percent=told)
    answer = control_pb2.ExplainModelResponse(current=types_pb2.Decision(candidates=[candidate]))
    current = decode.explanation(answer).current
    assert current is not None
    assert current.candidates[0].sm_percent == percent


def test_a_node_tells_all_of_its_machine():
    hardware = types_pb2.Hardware(
        name="gpu",
        cores=4,
        memory_bytes=1 << 30,
        sm_shares=True,
        activation=convert.duration(42),
        idle_watts=10.0,
        rated_watts=70.0,
    )
    node = decode.node(
        types_pb2.Node(
            id="n",
            hardware=hardware,
            state=types_pb2.NODE_STATE_ACTIVATING,
            energy_joules=5.0,
            estimated_energy_joules=2.0,
        )
    )
    assert node.state is NodeState.ACTIVATING
    assert (node.cores, node.memory_bytes, node.sm_shares) == (4, 1 << 30, True)
    assert (node.activation_s, node.idle_watts, node.rated_watts) == (42.0, 10.0, 70.0)
    assert (node.energy_j, node.estimated_energy_j) == (5.0, 2.0)


def test_the_status_splits_the_bill():
    answer = control_pb2.GetStatusResponse(
        cost_usd=3.0,
        cost_usd_by_model={"b": 1.0, "a": 0.5},
        idle_cost_usd=1.5,
        energy_joules=7.0,
        estimated_energy_joules=4.0,
    )
    status = decode.status(answer)
    assert list(status.cost_usd_by_model.items()) == [("a", 0.5), ("b", 1.0)]
    assert sum(status.cost_usd_by_model.values()) + status.idle_cost_usd == status.cost_usd
    assert (status.energy_j, status.estimated_energy_j) == (7.0, 4.0)
