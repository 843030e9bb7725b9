"""When a revision serves, and what is measured when."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from paldia_controller.outcomes import kept
from paldia_controller.profiling import (
    AGAIN_S,
    FULL_BUDGET_S,
    TASK_LIMIT_S,
    Profiling,
)
from paldia_controller.rollout import (
    AGAIN_AFTER_S,
    PATIENCE_S,
    Wanted,
    advance,
    missing_profiles,
    refinements,
)

from paldia.api import convert
from paldia.api.v1 import agent_pb2, types_pb2
from paldia.core.observation import NodeView
from paldia.core.types import Hardware, NodeState


def node(node_id: str, kind: str, price: float) -> NodeView:
    return NodeView(node_id, Hardware(kind, price, 1 << 30), NodeState.PARKED)


CHEAP, MIDDLE, DEAR = node("c", "cheap", 0.1), node("m", "middle", 0.2), node("d", "dear", 0.3)
NODES = (CHEAP, DEAR, MIDDLE)


def revision(slo_s: float = 0.1, created_s: float = 0.0) -> types_pb2.ModelRevision:
    spec = types_pb2.ModelSpec(name="model", artifact_digest="digest")
    spec.slo.latency.CopyFrom(convert.duration(slo_s))
    created = convert.timestamp(created_s)
    return types_pb2.ModelRevision(generation=1, spec=spec, created_at=created)


def measured(latency_s: float = 0.05, **fields: Any) -> types_pb2.Profile:
    profile = types_pb2.Profile(**fields)
    profile.points.add(batch_size=1, latency=convert.duration(latency_s), samples=3)
    return profile


def candidate_after(
    profiles: dict[str, types_pb2.Profile], now_s: float = 1.0
) -> types_pb2.Model | None:
    known = {f"digest/{kind}": profile for kind, profile in profiles.items()}
    model = types_pb2.Model(name="model", candidate=revision())
    return advance(model, known, NODES, now_s)


def serves(model: types_pb2.Model | None) -> bool:
    return model is not None and model.HasField("serving")


def test_the_cheapest_hardware_that_may_do_is_enough() -> None:
    assert serves(candidate_after({"cheap": measured()}))


@pytest.mark.parametrize(
    "profiles",
    [
        {},
        # A cheaper kind may do too.
        {"middle": measured()},
        {"dear": measured()},
        # It can't answer one request in time.
        {"cheap": measured(latency_s=0.095)},
        {"cheap": types_pb2.Profile(failure="no"), "dear": measured()},
    ],
)
def test_otherwise_the_rest_is_waited_for(profiles: dict[str, types_pb2.Profile]) -> None:
    assert candidate_after(profiles) is None
    waited = candidate_after(profiles, now_s=PATIENCE_S + 1)
    assert serves(waited) == bool(profiles)


def test_a_kind_that_cannot_run_it_is_not_waited_for() -> None:
    assert serves(candidate_after({"cheap": types_pb2.Profile(failure="no"), "middle": measured()}))


def test_a_revision_that_loads_nowhere_is_given_up_with_the_reason() -> None:
    failed = types_pb2.Profile(failure="Traceback")
    given_up = candidate_after(dict.fromkeys(("cheap", "middle", "dear"), failed))
    assert given_up is not None
    assert given_up.last_failure.reason == "Traceback"
    assert not given_up.HasField("candidate")
    assert not given_up.HasField("serving")


def test_what_serves_early_is_still_measured_on_the_rest() -> None:
    model = types_pb2.Model(name="model", serving=revision())
    missing = missing_profiles({"model": model}, {"digest/cheap": measured()}, NODES)
    assert [(want.hardware, want.full) for want in missing] == [("dear", False), ("middle", False)]


def refined(
    profile: types_pb2.Profile,
    *,
    stale: Collection[str] = (),
    created_s: float = 0.0,
    now_s: float = 1e6,
) -> list[Wanted]:
    model = types_pb2.Model(name="model", serving=revision(created_s=created_s))
    profiles = {"digest/cheap": profile, "digest/dear": types_pb2.Profile(failure="no")}
    return refinements(
        {"model": model}, profiles, NODES, lambda key: key in stale, now_s=now_s, idle_s=60.0
    )


def test_a_profile_made_in_haste_is_refined_once_its_model_has_served_a_while() -> None:
    (want,) = refined(measured())
    assert (want.hardware, want.full) == ("cheap", True)
    assert refined(measured(full=True)) == []
    assert refined(measured(), created_s=1e6 - 59) == []


def test_a_stale_profile_is_measured_anew_but_not_over_and_over() -> None:
    made = convert.timestamp(1e6 - AGAIN_AFTER_S - 1)
    again = refined(measured(full=True, measured_at=made), stale={"digest/cheap"})
    assert [want.hardware for want in again] == ["cheap"]
    young = convert.timestamp(1e6 - AGAIN_AFTER_S + 1)
    assert refined(measured(full=True, measured_at=young), stale={"digest/cheap"}) == []


QUICK = Wanted("model", "digest", "cheap", 1.0)
FULL = Wanted("model", "digest", "cheap", 1.0, full=True)
OTHER = Wanted("other", "other", "dear", 1.0, full=True)


class Handout:
    """Measurements given out, as time goes on."""

    def __init__(self) -> None:
        self.profiling = Profiling()

    def refine(
        self,
        missing: list[Wanted],
        wanted: list[Wanted],
        idle: Collection[str],
        now_s: float = 0.0,
    ) -> list[tuple[str, bool]]:
        self.profiling.refine(missing, wanted, idle, NODES, now_s)
        return [(it.node_id, it.wanted.full) for it in self.profiling.tasks.values()]


def test_idle_nodes_measure_in_full_one_at_a_time() -> None:
    handout = Handout()
    assert handout.refine([], [FULL, OTHER], {"d"}) == [("d", True)]
    assert handout.refine([], [FULL, OTHER], {"c", "d"}) == [("d", True)]
    (task,) = handout.profiling.task_messages("d")
    assert task.full
    assert convert.seconds(task.budget) == FULL_BUDGET_S
    assert task.model == "other"


def test_one_that_is_under_way_goes_on_when_its_node_is_asked() -> None:
    handout = Handout()
    handout.refine([], [FULL], {"c"})
    assert handout.refine([], [FULL], set()) == [("c", True)]
    assert handout.refine([], [], {"c"}) == []


def test_what_is_missing_comes_first() -> None:
    handout = Handout()
    handout.refine([], [OTHER], {"d"})
    assert handout.refine([QUICK], [OTHER], {"c", "d"}) == [("c", False)]
    assert handout.refine([], [OTHER], {"c", "d"}) == [("d", True)]


def test_without_quiet_it_is_tried_again_later() -> None:
    handout = Handout()
    handout.refine([], [FULL], {"c"})
    now_s = TASK_LIMIT_S + 1
    told = agent_pb2.ProfileProgress(
        task_id=next(iter(handout.profiling.tasks.values())).task_id, stage="waiting"
    )
    report = agent_pb2.NodeReport(profile_progress=[told])
    ((task, result),) = handout.profiling.results({"c": report}, now_s)
    assert "it was waiting" in result.profile.failure
    handout.profiling.finished(task, result.profile, now_s)
    assert handout.refine([], [FULL], {"c"}, now_s) == []
    assert handout.refine([], [FULL], {"c"}, now_s + AGAIN_S) == [("c", True)]


def test_somebody_who_asks_is_told_how_far_it_is() -> None:
    profiling = Profiling()
    profiling.repeat(["digest/cheap", "digest/gone"], 1.0, full=True)
    assert profiling.asked_in_full(QUICK)
    profiling.assign([FULL], NODES, 0.0)
    (task,) = profiling.tasks.values()
    told = agent_pb2.ProfileProgress(task_id=task.task_id, stage="batches of 4", fraction=0.5)
    reports = {"c": agent_pb2.NodeReport(profile_progress=[told])}
    first, second = profiling.progress(profiling.repeating, reports)
    assert (first.hardware, first.node_id, first.stage) == ("cheap", "c", "batches of 4")
    assert first.fraction == 0.5
    assert (second.hardware, second.node_id) == ("gone", "")


def test_figures_for_sharing_outlive_a_measurement_in_haste() -> None:
    before = measured(full=True, interference=[1.0, 1.5], colocation_penalty=0.2, watts=70.0)
    before.demand.add(batch_size=1, share=0.6)
    before.fit.error = 0.02
    hasty = measured(latency_s=0.07, colocation_penalty=0.05)
    hasty.demand.add(batch_size=1, share=1.0)
    merged = kept(hasty, before)
    assert convert.seconds(merged.points[0].latency) == 0.07
    assert merged.full
    assert merged.colocation_penalty == 0.2
    assert [it.share for it in merged.demand] == [0.6]
    assert merged.fit.error == 0.02
    assert kept(hasty, measured()) == hasty
    assert kept(hasty, None) == hasty
    full = measured(full=True)
    assert kept(full, before) == full
