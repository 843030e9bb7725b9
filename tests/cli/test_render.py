"""What people read: every number that decided, in milliseconds, percent and dollars."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime

import pytest

from paldia.cli import render, render_profile
from paldia.cli.output import as_text, plain
from paldia.client import (
    BatchShare,
    Candidate,
    ClusterStatus,
    Decision,
    Demand,
    Explanation,
    Failure,
    Gpu,
    GpuFault,
    GpuProcess,
    LatencyPoint,
    Model,
    ModelPhase,
    Node,
    NodeState,
    OverloadPolicy,
    Placement,
    PlacementState,
    Profile,
    ProfileCheck,
    Provenance,
    Revision,
    ShareRange,
    Slo,
    StaleProfile,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REVISION = Revision(
    generation=2,
    artifact_digest="d" * 64,
    slo=Slo(0.1, 0.99),
    max_batch=0,
    min_replicas=1,
    keep_alive_s=600.0,
    on_overload=OverloadPolicy.QUEUE,
    created_at=NOW,
)
MODEL = Model(
    name="magika",
    phase=ModelPhase.READY,
    reason="",
    slo_unreachable=False,
    requests_per_second=12.34,
    serving=REVISION,
    candidate=None,
    last_failure=None,
    placements=(
        Placement("n1", "cpu-full", PlacementState.READY, 1, 4, "127.0.0.1:9", "", "d" * 64),
    ),
    resource_version=7,
)
CHEAP = Candidate(
    hardware="cpu-half",
    node_ids=("n2",),
    batch_size=1,
    lanes=1,
    predicted_latency_s=0.1234,
    throughput_per_second=45.6,
    price_usd_per_hour=0.04,
    added_usd_per_hour=0.04,
    utilisation=0.5,
    verdict="latency",
    detail="123.4 ms is over the SLO of 100 ms",
)
WINNER = dataclasses.replace(
    CHEAP,
    hardware="cpu-full",
    node_ids=("n1",),
    predicted_latency_s=0.0617,
    price_usd_per_hour=0.1,
    verdict="feasible",
    detail="61.7 ms of 100 ms",
)
DECISION = Decision(
    model="magika",
    generation=2,
    decided_at=NOW,
    action="move",
    reason="the cheapest of 1 feasible",
    slo_unreachable=False,
    demand=Demand(12.3, 1.5, 2),
    candidates=(CHEAP, WINNER),
    chosen=1,
    from_node_ids=("n2",),
    to_node_ids=("n1",),
    inputs_digest="abc",
)
PROFILE = Profile(
    hardware="cpu-full",
    artifact_digest="d" * 64,
    node_id="n1",
    points=(LatencyPoint(1, 0.0105, 20), LatencyPoint(2, 0.0201, 20)),
    load_s=1.4,
    memory_bytes=78_000_000,
    colocation_penalty=0.05,
    provenance=Provenance.MEASURED,
    measured_at=NOW,
    failure="",
    demand=(BatchShare(1, 0.25), BatchShare(2, 0.5)),
)
NODE = Node(
    node_id="n1",
    hardware="cpu-full",
    state=NodeState.ACTIVATING,
    price_usd_per_hour=0.1,
    cost_usd=0.25,
    cores=2,
    memory_bytes=1 << 30,
    cpu_utilisation=0.5,
    memory_used_bytes=1 << 29,
    gpus=(),
    models=("magika",),
    problem="",
    last_report_at=NOW,
)
STATUS = ClusterStatus(
    controller_id="c",
    version="1",
    store="embedded",
    started_at=NOW,
    cost_usd=0.25,
    cost_usd_per_hour=0.1,
    decisions=5,
    moves=1,
    frontends=(),
    nodes=(NODE,),
    models=(MODEL,),
    cost_usd_by_model={"small": 0.01, "magika": 0.2},
    idle_cost_usd=0.04,
)


def cells(text: str, first: str) -> list[str]:
    """Give the cells of the row that begins so; empty ones are lost."""
    row = next(line for line in text.splitlines() if line.startswith(first))
    return re.split(r"\s{2,}", row)


def test_explain_shows_every_candidate_the_reason_and_the_history():
    text = as_text(*render.explanation(Explanation(MODEL, DECISION, (DECISION,), (PROFILE,))))
    for number in ("123.4", "61.7", "45.6", "0.040", "0.100", "50%", "100 ms / 99 %", "12.3"):
        assert number in text
    assert "123.4 ms is over the SLO of 100 ms" in text
    winner = next(line for line in text.splitlines() if " feasible" in line and "61.7" in line)
    assert winner.startswith("*")
    assert "Why: the cheapest of 1 feasible" in text
    history = next(line for line in text.splitlines() if " move " in line)
    assert "n2" in history
    assert "n1" in history
    assert "10.5" in text
    assert "measured" in text


@pytest.mark.parametrize(
    ("held_for", "said"),
    [
        ("rate", ", held for 42.0 (as many as come)"),
        ("peak", ", held for 42.0 (as many may come before other hardware could be there)"),
        ("recurrence", ", held for 42.0 (again as in the hours before)"),
        ("", ""),
        ("omen", ""),
    ],
)
def test_explain_says_what_comes_and_what_hardware_is_held_for(held_for: str, said: str):
    held = 42.0 if held_for else None
    decision = dataclasses.replace(DECISION, demand=Demand(17.0, 1.5, 2, held, held_for))
    text = as_text(*render.explanation(Explanation(MODEL, decision, (), ())))
    assert f"Judged for 17.0 requests/s now{said}, dispersion 1.5, backlog 2:" in text


def test_explain_without_a_winner_says_why():
    nothing = dataclasses.replace(DECISION, chosen=None, reason="no node is left")
    text = as_text(*render.explanation(Explanation(MODEL, nothing, (), ())))
    assert "Nothing chosen: no node is left" in text


def test_models_tell_what_their_owner_should_know():
    failure = Failure(3, "Traceback: it raised\nmore", NOW)
    model = dataclasses.replace(
        MODEL, slo_unreachable=True, last_failure=failure, candidate=None, reason="busy"
    )
    text = as_text(render.models([model]))
    assert "slo_unreachable" in text
    assert "generation 3 failed: Traceback: it raised" in text
    assert "busy" in text
    assert "more" not in text
    assert "n1 1x4" in text


def test_a_profile_that_failed_shows_why():
    failed = dataclasses.replace(PROFILE, points=(), failure="out of memory\nat line 3")
    assert "out of memory" in as_text(render_profile.profiles([failed]))


def test_a_profile_shows_what_its_batches_take_and_where_that_is_from():
    gpu = dataclasses.replace(
        PROFILE,
        hardware="gpu",
        demand=(BatchShare(1, 0.9),),
        sm_share=(BatchShare(1, 0.3), BatchShare(8, 0.75)),
        interference=(1.0, 1.254),
        watts=64.6,
        provenance=Provenance.IMPORTED,
    )
    text = as_text(render_profile.profiles([PROFILE, gpu]))
    heading = cells(text, "HARDWARE")
    assert heading[3:6] == ["DEVICE BY BATCH", "SMS BY BATCH", "SLOWDOWN OF 1, 2, ..."]
    assert cells(text, "cpu-full")[2:4] == ["1: 10.5, 2: 20.1", "1: 25%, 2: 50%"]
    assert "measured, quick" in cells(text, "cpu-full")
    assert cells(text, "gpu")[3:6] == ["90%", "1: 30%, 8: 75%", "1.00, 1.25"]
    assert {"65", "imported"} <= {*cells(text, "gpu")}


def test_a_full_profile_shows_how_sure_it_is_and_what_serving_shows():
    full = dataclasses.replace(
        PROFILE,
        full=True,
        fit_error=0.034,
        colocation_penalty=0.08,
        demand_between=(ShareRange(1, 0.0, 0.25), ShareRange(2, 0.48, 0.52)),
        check=ProfileCheck(1.4, 312, True),
    )
    text = as_text(render_profile.profiles([full]))
    row = cells(text, "cpu-full")
    assert row[3] == "1: up to 25%, 2: 50%"
    assert {"8%", "3.4%", "1.40 x in 312, stale", "measured"} <= {*row}
    assert "measured, quick" in cells(as_text(render_profile.profiles([PROFILE])), "cpu-full")


def test_status_says_which_profiles_are_stale():
    stale = StaleProfile("magika", "cpu-full", ProfileCheck(1.4, 312, True))
    text = as_text(*render.status(dataclasses.replace(STATUS, stale_profiles=(stale,))))
    assert "magika on cpu-full takes 1.40 times what was measured" in text


def test_a_share_of_the_sms_shows_wherever_the_lanes_do():
    held = dataclasses.replace(MODEL.placements[0], sm_percent=30)
    model = dataclasses.replace(MODEL, placements=(held,))
    assert "n1 1x4 on 30% of SMs" in as_text(render.models([model]))
    candidate = dataclasses.replace(WINNER, sm_percent=40)
    decision = dataclasses.replace(DECISION, candidates=(candidate,), chosen=0)
    assert "1x1 on 40% of SMs" in as_text(*render.explanation(Explanation(MODEL, decision, (), ())))
    assert "SMs" not in as_text(*render.explanation(Explanation(MODEL, DECISION, (), ())))


def test_the_bill_is_shown_by_model_the_dearest_first():
    text = as_text(*render.status(STATUS))
    assert "0.25000 USD so far" in text
    assert "magika 0.20000, small 0.01000, idle 0.04000" in text
    assert "energy" not in text
    many = {f"m{number}": float(number) for number in range(1, 9)}
    crowded = dataclasses.replace(STATUS, cost_usd_by_model=many)
    line = "m8 8.00000, m7 7.00000, m6 6.00000, m5 5.00000, m4 4.00000, 3 more models 6.00000, idle"
    assert line in as_text(*render.status(crowded))


@pytest.mark.parametrize(
    ("energy_j", "estimated_j", "shown"), [(7200.0, 0.0, "2.000"), (7200.0, 1.0, "~2.000")]
)
def test_energy_says_whether_it_is_estimated(energy_j: float, estimated_j: float, shown: str):
    drawn = {"energy_j": energy_j, "estimated_energy_j": estimated_j}
    node = dataclasses.replace(NODE, **drawn)
    text = as_text(*render.status(dataclasses.replace(STATUS, nodes=(node,), **drawn)))
    assert f"energy     {shown} Wh so far" in text
    assert shown in cells(text, "n1")


def test_nodes_tell_their_state_and_no_energy_that_is_unknown():
    text = as_text(*render.nodes([NODE]))
    assert "activating" in cells(text, "n1")
    assert "WH" not in text


T4 = Gpu(
    uuid="GPU-1",
    name="Tesla T4",
    memory_bytes=16 * 10**9,
    memory_used_bytes=3 * 10**9,
    sm_utilisation=0.25,
    power_watts=41.5,
    index=0,
    compute_capability="7.5",
    throttled_by=("power cap", "heat (driver)"),
    uncorrected_errors=2,
    fault_count=3,
    faults=(GpuFault(31, NOW), GpuFault(79, NOW)),
    processes=(GpuProcess(41, 1 << 30),),
)


def test_gpus_show_what_is_measured_and_what_is_wrong():
    node = dataclasses.replace(NODE, gpus=(T4,), warnings=("models share the GPU in time",))
    text = as_text(*render.nodes([node]))
    for shown in ("Tesla T4 (7.5)", "25%", "3.0/16.0", "power cap, heat (driver)"):
        assert shown in text
    assert "2 uncorrected memory errors; 3 faults, the last with XID 79" in text
    assert "n1: models share the GPU in time" in text
    # What no card tells has no column.
    assert "°C" not in text
    assert "MEMORY BUSY" not in text


def test_a_lost_gpu_says_why_and_shows_no_figures():
    lost = dataclasses.replace(T4, sm_utilisation=None, lost="GPU is lost")
    text = as_text(*render.nodes([dataclasses.replace(NODE, gpus=(lost,))]))
    assert "lost: GPU is lost" in text
    assert "0%" not in text.partition("Tesla")[2]


def test_gpus_that_nothing_is_known_of_have_no_table():
    parked = Gpu("", "Tesla T4", 16 << 30, None, None, None)
    text = as_text(*render.nodes([dataclasses.replace(NODE, gpus=(parked,))]))
    assert text.count("Tesla T4") == 1


def test_text_for_a_pipe_is_never_wrapped():
    long = dataclasses.replace(WINNER, detail="x" * 500)
    decision = dataclasses.replace(DECISION, candidates=(long,), chosen=0)
    assert "x" * 500 in as_text(*render.explanation(Explanation(MODEL, decision, (), ())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_numbers_that_json_lacks(value: float):
    candidate = dataclasses.replace(WINNER, predicted_latency_s=value)
    document = json.dumps(plain(candidate), allow_nan=False)
    assert json.loads(document)["predicted_latency_s"] is None


def test_json_gives_enums_and_moments_as_text():
    document = plain(MODEL)
    assert document["phase"] == "ready"
    assert document["serving"]["on_overload"] == "queue"
    assert document["serving"]["created_at"] == "2026-01-02T03:04:05+00:00"
    assert json.loads(json.dumps(document)) == document
