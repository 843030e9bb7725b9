from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paldia_nodeagent.deployment import Key
from paldia_nodeagent.reconciler import (
    DEPLOYMENTS_LIMIT,
    Adjust,
    Drain,
    Start,
    difference,
    wanted_lanes,
)

from paldia.api.v1 import agent_pb2

A, B, C = Key("a", "1"), Key("b", "1"), Key("b", "2")
KEYS = st.sampled_from([Key(model, digest) for model in "abc" for digest in "12"])


def test_steps_from_what_is_to_what_should_be() -> None:
    assert difference({A: 1}, {}) == [Start(A, 1)]
    assert difference({A: 2}, {A: 1}) == [Adjust(A, 2)]
    assert difference({}, {A: 1}) == [Drain(A)]
    assert difference({A: 1, C: 3}, {A: 1, B: 2}) == [Start(C, 3), Drain(B)]


def test_one_on_its_way_out_is_called_back_or_left_alone() -> None:
    assert difference({A: 2}, {A: 0}) == [Adjust(A, 2)]
    assert difference({}, {A: 0}) == []


@given(st.dictionaries(KEYS, st.integers(1, 9)), st.dictionaries(KEYS, st.integers(0, 9)))
def test_taking_the_steps_leaves_nothing_to_do(
    desired: dict[Key, int], actual: dict[Key, int]
) -> None:
    after = dict(actual)
    for step in difference(desired, actual):
        after[step.key] = 0 if isinstance(step, Drain) else step.lanes
    assert difference(desired, after) == []
    assert {key: lanes for key, lanes in after.items() if lanes} == desired


def test_reads_what_is_wanted_within_bounds() -> None:
    response = agent_pb2.ConnectAgentResponse()
    for index in range(DEPLOYMENTS_LIMIT + 5):
        response.deployments.add(model=f"m{index}", artifact_digest="d")
    lanes = wanted_lanes(response)
    assert len(lanes) == DEPLOYMENTS_LIMIT
    assert set(lanes.values()) == {1}
