from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paldia_nodeagent.allotment import (
    DEPLOYMENTS_LIMIT,
    NOTHING,
    Allotment,
    Key,
    allotments,
)
from paldia_nodeagent.reconciler import Adjust, Drain, Start, difference

from paldia.api.v1 import agent_pb2

ONE, TWO, HALF = Allotment(1), Allotment(2), Allotment(1, 50)
A, B, C = Key("a", "1"), Key("b", "1"), Key("b", "2")
KEYS = st.sampled_from([Key(model, digest) for model in "abc" for digest in "12"])


WANTED = st.builds(Allotment, st.integers(1, 9), st.sampled_from([10, 50, 100]))


def test_steps_from_what_is_to_what_should_be() -> None:
    assert difference({A: ONE}, {}) == [Start(A, ONE)]
    assert difference({A: TWO}, {A: ONE}) == [Adjust(A, TWO)]
    assert difference({A: HALF}, {A: ONE}) == [Adjust(A, HALF)]
    assert difference({}, {A: ONE}) == [Drain(A)]
    assert difference({A: ONE, C: TWO}, {A: ONE, B: TWO}) == [Start(C, TWO), Drain(B)]


def test_one_on_its_way_out_is_called_back_or_left_alone() -> None:
    assert difference({A: TWO}, {A: NOTHING}) == [Adjust(A, TWO)]
    assert difference({}, {A: NOTHING}) == []


@given(st.dictionaries(KEYS, WANTED), st.dictionaries(KEYS, WANTED | st.just(NOTHING)))
def test_taking_the_steps_leaves_nothing_to_do(
    desired: dict[Key, Allotment], actual: dict[Key, Allotment]
) -> None:
    after = dict(actual)
    for step in difference(desired, actual):
        after[step.key] = NOTHING if isinstance(step, Drain) else step.wanted
    assert difference(desired, after) == []
    assert {key: wanted for key, wanted in after.items() if wanted.lanes} == desired


def test_reads_what_is_wanted_within_bounds() -> None:
    response = agent_pb2.ConnectAgentResponse()
    response.deployments.add(model="held", artifact_digest="d", lanes=3, sm_percent=40)
    for index in range(DEPLOYMENTS_LIMIT + 5):
        response.deployments.add(model=f"m{index}", artifact_digest="d")
    wanted = allotments(response)
    assert len(wanted) == DEPLOYMENTS_LIMIT
    assert wanted.pop(Key("held", "d")) == Allotment(3, 40)
    assert set(wanted.values()) == {ONE}
