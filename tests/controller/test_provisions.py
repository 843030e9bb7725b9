"""A machine's life as a function of what is seen: whatever happens, it ends as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paldia_controller.provisions import (
    FIRST_AVOID_S,
    GONE_S,
    LAST_AVOID_S,
    LAST_RETRY_S,
    LEAVE_LIMIT_S,
    TRIES_LIMIT,
    Phase,
    Provision,
    Sight,
    advanced,
    answered,
    provision_from_proto,
    provision_to_proto,
)

from paldia.api.v1 import state_pb2, types_pb2

LIMIT_S = 60.0
UNUSED_S = 30.0
NOTHING = Sight(listed=True, needed=False, here=False, silent_s=0.0)
NEEDED = replace(NOTHING, needed=True)
HERE = replace(NOTHING, here=True)
BOTH = replace(NEEDED, here=True)


def after(provision: Provision, seen: Sight, now_s: float) -> Provision:
    return advanced(provision, seen, now_s, limit_s=LIMIT_S, release_after_s=UNUSED_S)


def test_it_is_asked_for_comes_serves_and_goes_again() -> None:
    asked = after(Provision(), NEEDED, 100.0)
    assert asked == Provision(Phase.ACTIVATING, 100.0)
    assert asked.call_is_due(100.0)
    said_yes = answered(asked, "", 101.0)
    assert not said_yes.call_is_due(1000.0)
    there = after(said_yes, BOTH, 130.0)
    assert there == Provision(Phase.ACTIVE, 130.0)
    assert after(there, BOTH, 500.0) == there
    unused = after(there, HERE, 500.0)
    assert after(unused, HERE, 500.0 + UNUSED_S - 0.1).phase is Phase.ACTIVE
    leaving = after(unused, HERE, 500.0 + UNUSED_S)
    assert leaving == Provision(Phase.RELEASING, 530.0)
    gone = answered(leaving, "", 531.0)
    assert after(gone, HERE, 540.0) == gone
    assert after(gone, NOTHING, 531.0 + GONE_S) == Provision()


def test_what_is_needed_again_stays() -> None:
    unused = after(Provision(Phase.ACTIVE, 0.0), HERE, 100.0)
    again = after(unused, BOTH, 120.0)
    assert again.unused_since_s is None
    assert after(after(again, HERE, 125.0), HERE, 150.0).phase is Phase.ACTIVE


@pytest.mark.parametrize("asked", [True, False])
def test_one_that_does_not_come_in_time_is_given_back_and_left_alone(*, asked: bool) -> None:
    waiting = after(Provision(), NEEDED, 0.0)
    if asked:
        waiting = answered(waiting, "", 1.0)
    assert after(waiting, NEEDED, LIMIT_S) == waiting
    given_up = after(waiting, NEEDED, LIMIT_S + 1)
    assert (given_up.phase, given_up.failures) == (Phase.RELEASING, 1)
    assert "within 60 s" in given_up.reason
    parked = after(answered(given_up, "", 62.0), NEEDED, 62.0 + GONE_S)
    assert parked.phase is Phase.PARKED
    assert after(parked, NEEDED, LIMIT_S + FIRST_AVOID_S) == parked
    again = after(parked, NEEDED, LIMIT_S + 1 + FIRST_AVOID_S)
    assert (again.phase, again.failures) == (Phase.ACTIVATING, 1)
    # It is left alone for longer the next time, and for no longer once it has come.
    failed = after(again, NEEDED, again.since_s + LIMIT_S + 1)
    assert failed.avoid_until_s == failed.since_s + 2 * FIRST_AVOID_S
    assert failed.failures == 2
    assert after(again, BOTH, again.since_s + 1).failures == 0


def test_a_provisioner_that_keeps_failing_is_asked_less_and_less_and_then_elsewhere() -> None:
    provision, now_s, waits_s = after(Provision(), NEEDED, 0.0), 0.0, []
    for _ in range(TRIES_LIMIT):
        assert after(provision, NEEDED, now_s) == provision
        provision = answered(provision, "no capacity", now_s)
        assert not provision.call_is_due(now_s)
        waits_s.append(provision.retry_s - now_s)
        now_s = provision.retry_s
        assert provision.call_is_due(now_s)
    assert waits_s == [1.0, 2.0, 4.0]
    given_up = after(provision, NEEDED, now_s)
    assert given_up.phase is Phase.RELEASING
    assert given_up.reason == "asked for 3 times in vain: no capacity"


def test_giving_back_is_never_given_up_and_paid_for_until_it_is_done() -> None:
    provision, now_s = Provision(Phase.RELEASING, 0.0), 0.0
    for _ in range(100):
        provision = answered(provision, "throttled", now_s)
        assert provision.is_paid
        assert 0 < provision.retry_s - now_s <= LAST_RETRY_S
        now_s = provision.retry_s
        provision = after(provision, NOTHING, now_s)
        assert provision.call_is_due(now_s)
    assert not answered(provision, "", now_s).is_paid


def test_one_that_is_still_there_long_after_it_was_given_back_is_given_back_again() -> None:
    done = answered(Provision(Phase.RELEASING, 0.0), "", 1.0)
    assert after(done, HERE, 1.0 + LEAVE_LIMIT_S) == done
    again = after(done, HERE, 2.0 + LEAVE_LIMIT_S)
    assert again.call_is_due(2.0 + LEAVE_LIMIT_S)
    assert again.is_paid
    assert "still there" in again.reason


def test_one_that_nobody_asked_for_is_taken_as_it_is() -> None:
    found = after(Provision(failures=2, avoid_until_s=1e6), HERE, 10.0)
    assert found == Provision(Phase.ACTIVE, 10.0)
    assert found.is_paid


def test_one_that_fell_silent_is_given_up_unless_too_many_seem_lost() -> None:
    active = Provision(Phase.ACTIVE, 0.0)
    silent = replace(NEEDED, silent_s=LIMIT_S + 1)
    assert after(active, replace(NEEDED, silent_s=LIMIT_S), 100.0) == active
    assert after(active, replace(silent, in_doubt=True), 100.0) == active
    given_up = after(active, silent, 100.0)
    assert (given_up.phase, given_up.failures) == (Phase.RELEASING, 1)
    assert "silent" in given_up.reason


def test_one_that_is_no_longer_listed_goes_as_soon_as_nothing_needs_it() -> None:
    active = Provision(Phase.ACTIVE, 0.0)
    assert after(active, replace(BOTH, listed=False), 100.0) == active
    assert after(active, replace(HERE, listed=False), 100.0).phase is Phase.RELEASING
    remembered = Provision(failures=3, avoid_until_s=1e6, reason="no capacity")
    assert after(remembered, replace(NEEDED, listed=False), 100.0) == Provision()


def test_a_clock_that_is_set_back_delays_nothing_by_more_than_usual() -> None:
    late = Provision(
        Phase.RELEASING, 1e9, None, 5, 1e9, unused_since_s=1e9, failures=9, avoid_until_s=1e9
    )
    now = after(late, NOTHING, 1000.0)
    assert now.since_s == now.unused_since_s == 1000.0
    assert now.retry_s <= 1000.0 + LAST_RETRY_S
    assert now.avoid_until_s <= 1000.0 + LAST_AVOID_S


events = st.lists(
    st.tuples(
        st.floats(0.1, 200.0),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["", "yes", "no"]),
        st.booleans(),
    ),
    max_size=60,
)


@given(events)
def test_whatever_happens_it_ends_parked_unpaid_and_was_paid_whenever_it_was_had(
    story: list[tuple[float, bool, bool, str, bool]],
) -> None:
    provision, now_s, had = Provision(), 0.0, False
    for span_s, needed, here, answer, listed in story:
        now_s += span_s
        before = provision
        if answer and provision.call_is_due(now_s):
            provision = answered(provision, "" if answer == "yes" else "no", now_s)
            had = had and not (before.phase is Phase.RELEASING and answer == "yes")
        seen = Sight(listed, needed, here, silent_s=0.0 if here else span_s)
        provision = after(provision, seen, now_s)
        if provision.phase is Phase.ACTIVATING:
            had = True
            assert now_s - provision.since_s <= LIMIT_S
            if before.phase is Phase.PARKED:
                assert now_s >= before.avoid_until_s
        if had:
            assert provision.is_paid
        if provision.phase is Phase.PARKED:
            assert not had
            assert not provision.is_paid
    for _ in range(5):
        if provision.call_is_due(now_s := now_s + LAST_RETRY_S):
            provision = answered(provision, "", now_s)
        provision = after(provision, NOTHING, now_s)
    assert provision.phase is Phase.PARKED


@given(
    st.builds(
        Provision,
        phase=st.sampled_from(Phase),
        since_s=st.floats(1.0, 2e9),
        done_s=st.none() | st.floats(1.0, 2e9),
        tries=st.integers(0, 1000),
        retry_s=st.floats(0.0, 2e9),
        unused_since_s=st.none() | st.floats(1.0, 2e9),
        failures=st.integers(0, 1000),
        avoid_until_s=st.floats(0.0, 2e9),
        reason=st.text(max_size=20),
    )
)
def test_what_is_remembered_survives_the_store(provision: Provision) -> None:
    hardware = types_pb2.Hardware(name="gpu", price_usd_per_hour=3.0)
    stored = provision_to_proto(provision, hardware)
    assert stored.hardware == hardware
    kept = provision_from_proto(state_pb2.StoredProvision.FromString(stored.SerializeToString()))
    for name in ("since_s", "done_s", "retry_s", "unused_since_s", "avoid_until_s"):
        assert getattr(kept, name) == pytest.approx(getattr(provision, name), abs=1e-6)
    same = {name: getattr(provision, name) for name in ("phase", "tries", "failures", "reason")}
    assert {name: getattr(kept, name) for name in same} == same


def test_a_phase_that_is_unknown_is_given_back() -> None:
    assert provision_from_proto(state_pb2.StoredProvision()).call_is_due(0.0)
