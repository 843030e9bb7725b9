"""The shared device: work is conserved, nobody gains by company, and the policy's table holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.core.device import Device, Tenant
from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile
from paldia.core.sharing.prediction import Way, completion_time_s


def profile(fraction: float = 1.0, penalty: float = 0.0, curve: tuple[float, ...] = ()) -> Profile:
    return Profile(
        ((1, 1.0),),
        1.0,
        1,
        demand=((1, fraction),),
        colocation_penalty=penalty,
        interference=curve,
    )


def run(
    jobs: Sequence[tuple[float, float, float]], tenants: Sequence[Tenant], device: Device
) -> dict[int, float]:
    """Start (at, work, demand) jobs, the i-th of the i-th tenant, and give when each ends."""
    ends = {}
    pending = sorted((at_s, index) for index, (at_s, _, _) in enumerate(jobs))
    while pending or device.running:
        if pending and pending[0][0] <= device.next_completion_s:
            at_s, index = pending.pop(0)
            _, work_s, demand = jobs[index]
            device.start(tenants[index], index, work_s, demand, at_s)
        else:
            now_s = device.next_completion_s
            ends |= dict.fromkeys(device.finish_due(now_s), now_s)
    return ends


def alike(jobs: Sequence[tuple[float, float, float]], penalty: float = 0.0) -> dict[int, float]:
    tenant = Tenant(profile(penalty=penalty))
    return run(jobs, [tenant] * len(jobs), Device())


JOBS = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0.001, 5), st.floats(0.01, 1)),
    min_size=1,
    max_size=12,
)


def test_alone_it_takes_its_own_time() -> None:
    assert alike([(2.0, 0.3, 0.7)]) == {0: pytest.approx(2.3)}


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_equal_batches_that_start_together_end_together(count: int, fraction: float) -> None:
    made = profile(fraction, 0.1)
    tenant = Tenant(made)
    ends = run([(0.0, 0.04, fraction)] * count, [tenant] * count, Device())
    expected = 0.04 * float(made.slowdown(count, fraction))
    assert set(ends) == set(range(count))
    assert all(end == pytest.approx(expected, rel=1e-12) for end in ends.values())
    assert len(set(ends.values())) == 1


@given(JOBS, st.floats(0, 0.2))
def test_nobody_is_faster_in_company(
    jobs: list[tuple[float, float, float]], penalty: float
) -> None:
    ends = alike(jobs, penalty)
    assert set(ends) == set(range(len(jobs)))
    for index, (at_s, work_s, _) in enumerate(jobs):
        assert ends[index] >= at_s + work_s - 1e-9


@given(JOBS)
def test_a_full_device_does_no_more_and_no_less_than_its_work(
    jobs: list[tuple[float, float, float]],
) -> None:
    """Where each batch needs all of it, it is busy until all work is done: a single queue."""
    ends = alike([(at_s, work_s, 1.0) for at_s, work_s, _ in jobs])
    free_s = 0.0
    for at_s, work_s, _ in sorted(jobs):
        free_s = max(free_s, at_s) + work_s
    assert max(ends.values()) == pytest.approx(free_s)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 5), st.floats(0.01, 1), st.sampled_from("ab")),
        min_size=1,
        max_size=4,
    )
)
def test_the_order_in_which_batches_are_named_does_not_matter(
    jobs: list[tuple[float, float, str]],
) -> None:
    outcomes = []
    for order in permutations(range(len(jobs))):
        tenants = {"a": Tenant(profile(penalty=0.05)), "b": Tenant(profile(penalty=0.2))}
        ordered = [jobs[index] for index in order]
        ends = run(
            [(0.0, work_s, demand) for work_s, demand, _ in ordered],
            [tenants[name] for _, _, name in ordered],
            Device(),
        )
        outcomes.append([ends[order.index(index)] for index in range(len(jobs))])
    for outcome in outcomes:
        assert outcome == pytest.approx(outcomes[0])


def test_each_model_pays_by_its_own_penalty() -> None:
    """Two batches of 1 s with demand .75 each: S = 1.5 (1 + eps)."""
    device = Device()
    ends = run(
        [(0.0, 1.0, 0.75), (0.0, 1.0, 0.75)],
        [Tenant(profile(penalty=0.0)), Tenant(profile(penalty=0.2))],
        device,
    )
    assert ends[0] == pytest.approx(1.5)
    # By then it has done 1.5 / 1.8 of its work; the rest it does alone.
    assert ends[1] == pytest.approx(1.5 + (1 - 1.5 / 1.8))
    assert (device.running, device.demand, device.next_completion_s) == (0, 0.0, math.inf)


def test_a_measured_curve_holds_for_one_model_alone() -> None:
    made = profile(0.3, 0.1, (1.0, 1.3, 1.9))
    tenant = Tenant(made)
    assert run([(0.0, 1.0, 0.3)] * 3, [tenant] * 3, Device())[2] == pytest.approx(1.9)
    assert run([(0.0, 1.0, 0.3)] * 2, [tenant] * 2, Device())[1] == pytest.approx(1.3)
    # Beyond its end it goes on as the formula does, and so beside another model.
    assert run([(0.0, 1.0, 0.3)] * 4, [tenant] * 4, Device())[3] == pytest.approx(
        float(made.slowdown(4, 0.3))
    )
    other = Tenant(profile(0.5, 0.1))
    ends = run([(0.0, 1.0, 0.3), (0.0, 9.0, 0.8)], [tenant, other], Device())
    assert ends[0] == pytest.approx(float(made.slowdown(1, 0.3, 0.8, 1)))
    assert ends[0] == pytest.approx(1.1 * 1.1)


@pytest.mark.parametrize(
    ("fraction", "penalty", "lanes", "time_s"),
    [
        (0.2, 0.1, 5, 2.80),
        (0.5, 0.05, 2, 5.25),
        (0.5, 0.1, 2, 5.50),
        (0.7, 0.1, 2, 7.70),
        (1.0, 0.1, 1, 10.0),
        (0.2, 0.1, 10, 3.80),
        (0.5, 0.1, 3, 0.0),
    ],
)
def test_ten_batches_take_what_the_policy_predicts(
    fraction: float, penalty: float, lanes: int, time_s: float
) -> None:
    made = profile(fraction, penalty)
    device, tenant, waiting, now_s = Device(), Tenant(made), 10, 0.0
    while waiting or device.running:
        while waiting and device.running < lanes:
            device.start(tenant, waiting, 1.0, fraction, now_s)
            waiting -= 1
        now_s = device.next_completion_s
        assert device.finish_due(now_s)
    assert time_s in (0.0, pytest.approx(now_s))
    assert now_s == pytest.approx(float(completion_time_s(Way(made, 1, lanes), 10)))


def test_a_change_of_speed_counts_from_then_on() -> None:
    device, tenant = Device(), Tenant(profile())
    device.start(tenant, 1, 1.0, 1.0, 0.0)
    device.set_speed(0.25, 0.5)
    assert device.next_completion_s == pytest.approx(2.5)
    device.set_speed(1.0, 1.5)
    assert device.next_completion_s == pytest.approx(1.75)
    with pytest.raises(InvalidArgumentError, match="above 0, not at 0"):
        device.set_speed(0.0, 1.6)


def test_what_is_cleared_is_gone_and_the_next_starts_afresh() -> None:
    device, tenant = Device(), Tenant(profile())
    device.start(tenant, 7, 1.0, 1.0, 0.0)
    device.start(tenant, 3, 2.0, 1.0, 0.5)
    assert device.clear() == [3, 7]
    assert (device.running, device.demand, device.next_completion_s) == (0, 0.0, math.inf)
    assert device.finish_due(10.0) == []
    device.start(tenant, 8, 1.0, 1.0, 10.0)
    assert device.next_completion_s == pytest.approx(11.0)


def test_whoever_comes_late_gets_all_that_is_done_in_order() -> None:
    device, tenant = Device(), Tenant(profile(0.5))
    for batch_id, work_s in ((1, 3.0), (2, 1.0), (3, 2.0)):
        device.start(tenant, batch_id, work_s, 0.25, 0.0)
    assert device.finish_due(0.5) == []
    assert device.finish_due(2.5) == [2, 3]
    assert device.next_completion_s == pytest.approx(3.0)


def test_what_is_withdrawn_slows_nobody_any_more() -> None:
    device, tenant, other = Device(), Tenant(profile()), Tenant(profile())
    device.start(tenant, 1, 1.0, 1.0, 0.0)
    device.start(tenant, 2, 3.0, 1.0, 0.0)
    device.start(other, 3, 1.0, 0.5, 0.0)
    device.withdraw(tenant, 1, 1.0)
    assert (device.running, device.demand) == (2, pytest.approx(1.5))
    # By then each has got 1 / 2.5 s done; from there they go at 1 / 1.5 of their speed.
    assert device.next_completion_s == pytest.approx(1.0 + (1.0 - 0.4) * 1.5)
    device.withdraw(other, 3, 1.0)
    assert device.next_completion_s == pytest.approx(1.0 + (3.0 - 0.4))
    with pytest.raises(InvalidArgumentError, match="no batch 3"):
        device.withdraw(other, 3, 1.0)
    assert device.finish_due(10.0) == [2]
    assert device.next_completion_s == math.inf


@given(JOBS)
def test_what_is_foreseen_first_comes_then(jobs: Sequence[tuple[float, float, float]]) -> None:
    device, tenants = Device(), [Tenant(profile()), Tenant(profile())]
    for index, (_, work_s, demand) in enumerate(jobs):
        device.start(tenants[index % 2], index, work_s, demand, 0.0)
    while device.running:
        ends = device.foreseen()
        assert len(ends) == device.running
        assert min(ends)[0] == pytest.approx(device.next_completion_s)
        device.finish_due(device.next_completion_s)
