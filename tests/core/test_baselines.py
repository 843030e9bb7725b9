"""The policies that are compared: which hardware each would have, and that all differ."""

from __future__ import annotations

from itertools import pairwise

import pytest

from paldia.core import engine
from paldia.core.baselines import LIVE_POLICIES, POLICIES, Policy, live_policy_named, policy_named
from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.observation import DemandView, ModelView, NodeView, Observation
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, NodeState, Slo

CPU = Hardware("cpu", 0.30, 8 << 30, cores=8)
OLD_GPU = Hardware("old-gpu", 0.50, 8 << 30, gpus=1)
NEW_GPU = Hardware("new-gpu", 3.00, 8 << 30, gpus=1)
# Alone the CPU is first to answer; in batches the new GPU is by far.
PROFILES = {
    "cpu": Profile(((1, 0.005), (8, 0.040)), 1.0, 1 << 30),
    "old-gpu": Profile(((1, 0.020), (8, 0.040)), 1.0, 1 << 30),
    "new-gpu": Profile(((1, 0.010), (8, 0.012)), 1.0, 1 << 30),
}


def placed(policy: str, slo_s: float = 0.1, without: str = "") -> str:
    """Give the hardware a policy would have for one request a second."""
    kinds = [kind for kind in (CPU, OLD_GPU, NEW_GPU) if kind.name != without]
    nodes = tuple(NodeView(f"{kind.name}-0", kind, NodeState.PARKED, {}) for kind in kinds)
    view = ModelView(Model("m", "a" * 64, Slo(slo_s)), DemandView(1.0, 1.0), PROFILES)
    step = engine.step(
        Observation(1000.0, (view,), nodes, {}), {}, PolicyConfig(), policy_named(policy)
    )
    (assignment,) = step.plan["m"].target
    return assignment.hardware


@pytest.mark.parametrize("sharing", ["molecule", "infless-llama"])
def test_fixed_choices_of_hardware(sharing: str) -> None:
    assert placed(f"{sharing}-cost") == "old-gpu"
    assert placed(f"{sharing}-cost", slo_s=0.015) == "new-gpu", "the old one is too slow"
    assert placed(f"{sharing}-perf") == "new-gpu", "in batches, not alone"
    assert placed(f"{sharing}-perf", slo_s=0.008) == "cpu", "no batch of the new one is in time"
    assert placed(f"{sharing}-perf", without="new-gpu") == "cpu"


def test_those_that_plan_take_what_is_cheapest() -> None:
    planned = ("triton-dynamic", "static-lanes", "paldia-paper", "paldia", "oracle-delay", "oracle")
    assert {placed(policy) for policy in planned} == {"cpu"}


def test_names_are_told_apart() -> None:
    assert len({policy.name for policy in POLICIES}) == len(POLICIES) == len(set(POLICIES))
    with pytest.raises(NotFoundError, match="there are molecule-cost, molecule-perf"):
        policy_named("moleculecost")


@pytest.mark.parametrize("policy", LIVE_POLICIES)
def test_one_that_can_serve_is_told_nothing(policy: Policy) -> None:
    assert live_policy_named(policy.name) is policy
    assert not policy.foresight
    assert not policy.instant


@pytest.mark.parametrize("name", ["oracle", "oracle-delay", "static-lanes"])
def test_one_that_is_told_what_comes_can_not_serve(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"only be simulated.*molecule-cost.*paldia$"):
        live_policy_named(name)


def test_a_name_that_is_none_lists_only_those_that_can_serve() -> None:
    with pytest.raises(InvalidArgumentError, match="no policy named 'moleculecost'") as refused:
        live_policy_named("moleculecost")
    assert "oracle" not in str(refused.value)


def test_one_that_is_blind_to_interference_expects_none() -> None:
    profile = Profile(((1, 0.1), (4, 0.2)), 1.0, 1 << 30)
    seen = policy_named("paldia").slowdowns(profile, 0.8, 3)
    assert seen[0] == 1.0
    assert all(after > before for before, after in pairwise(seen))
    assert policy_named("infless-llama-perf").slowdowns(profile, 0.8, 3) == (1.0, 1.0, 1.0)
