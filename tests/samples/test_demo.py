import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from paldia.catalog import workloads
from paldia.cli import demo_emulated, demo_show
from paldia.cli.demo import TRACE
from paldia.cli.demo_emulated import Emulated
from paldia.cli.demo_replay import (
    Capacity,
    Replayed,
    answered_by,
    batches_of,
    least_capacity,
    plan_load,
)
from paldia.cli.demo_report import report_of
from paldia.cli.demo_show import Classified
from paldia.cli.output import as_text
from paldia.cli.progress import progress
from paldia.client import (
    ClusterStatus,
    Decision,
    Demand,
    LatencyPoint,
    Node,
    Profile,
    Provenance,
)
from paldia.core.errors import NotServableError
from paldia.core.types import NodeState
from paldia.load.arrivals import read_arrivals
from paldia.load.outcomes import Outcome
from paldia.load.report import summarise


def _profile(hardware: str, *points: tuple[int, float]) -> Profile:
    return Profile(
        hardware=hardware,
        artifact_digest="d" * 64,
        node_id=f"{hardware}-1",
        points=tuple(LatencyPoint(batch, latency_s, 9) for batch, latency_s in points),
        load_s=1.5,
        memory_bytes=1 << 26,
        colocation_penalty=0.1,
        provenance=Provenance.MEASURED,
        measured_at=None,
        failure="" if points else "Triton's reason",
    )


def _status() -> ClusterStatus:
    node = Node(
        node_id="slow-1",
        hardware="slow",
        state=NodeState.ACTIVE,
        price_usd_per_hour=0.04,
        cost_usd=0.001,
        cores=1,
        memory_bytes=1 << 30,
        cpu_utilisation=0.5,
        memory_used_bytes=1 << 28,
        gpus=(),
        models=("magika",),
        problem="",
        last_report_at=None,
    )
    return ClusterStatus(
        controller_id="c",
        version="1",
        store="embedded",
        started_at=None,
        cost_usd=0.001,
        cost_usd_per_hour=0.04,
        decisions=5,
        moves=1,
        frontends=(),
        nodes=(node,),
        models=(),
    )


def _replayed() -> Replayed:
    tags = {"paldia_node": "slow-1", "paldia_batch": 2}
    outcomes = [Outcome(0.1 * n, 0.0, 0.1 * n + 0.02 * n, "OK", tags) for n in range(12)]
    outcomes.append(Outcome(1.5, 0.0, 1.6, "UNAVAILABLE"))
    move = Decision(
        model="magika",
        generation=1,
        decided_at=None,
        action="move",
        reason="slow: too slow",
        slo_unreachable=False,
        demand=Demand(50.0, 1.0, 3),
        candidates=(),
        chosen=None,
        from_node_ids=("slow-1",),
        to_node_ids=("fast-1",),
        inputs_digest="",
    )
    plan = plan_load(np.arange(40.0), Capacity("slow", 10.0), 3.0)
    report = summarise(outcomes, 0.1, 3.0)
    return Replayed(report, answered_by(outcomes), batches_of(outcomes), plan, (move,))


def _emulated() -> Emulated:
    replayed = _replayed()
    return Emulated(replayed.report, replayed.answered_by, 12, replayed.moves)


def test_bert_s_rate_goes_up_to_what_the_cheapest_gpu_just_can_and_down_again() -> None:
    profile = workloads()["bert"].profiles["g4dn.xlarge"]
    can_rps = max(batch / latency_s for batch, latency_s in profile.points)
    (start_s, first), *_, (end_s, last) = demo_emulated.rates(30.0).points
    highest = max(rps for _, rps in demo_emulated.rates(30.0).points)
    assert (start_s, end_s) == (0.0, 30.0)
    assert first == last < 0.5 * can_rps
    assert 0.8 * can_rps < highest < can_rps
    assert len(read_arrivals(str(TRACE))) > demo_emulated.rates(30.0).requests
    kinds = [(node.node_id, node.hardware) for node in demo_emulated.nodes()]
    assert kinds == [("v100", "p3.2xlarge"), ("t4", "g4dn.xlarge"), ("m60", "g3s.xlarge")]


def test_the_load_goes_from_half_to_one_and_a_half_of_the_slowest() -> None:
    slow, fast = _profile("slow", (1, 0.1), (2, 0.1)), _profile("fast", (1, 0.01))
    capacity = least_capacity([fast, _profile("broken"), slow])
    assert capacity == Capacity("slow", 20.0)
    plan = plan_load(np.arange(1000.0), capacity, 30.0)
    assert (plan.first_rps, plan.last_rps) == (10.0, 30.0)
    assert len(plan.offsets_s) == 600
    with pytest.raises(NotServableError, match="measured on no hardware"):
        least_capacity([_profile("broken")])


@pytest.mark.parametrize("arrivals", [2, 100, 599, 600])
def test_a_trace_too_short_lowers_the_rate_and_keeps_the_ramp(arrivals: int) -> None:
    plan = plan_load(np.arange(float(arrivals)), Capacity("slow", 20.0), 30.0)
    assert len(plan.offsets_s) == arrivals - 1
    assert plan.last_rps == pytest.approx(3 * plan.first_rps)


def test_the_tables_show_where_a_model_runs_and_a_line_where_it_does_not() -> None:
    profiles = (_profile("fast", (1, 0.01)), _profile("odd"), _profile("old"))
    seen = [SimpleNamespace(model=SimpleNamespace(name="m"), profiles=profiles)]
    assert [row.split() for row in as_text(demo_show.measured(seen)).splitlines()] == [
        ["MODEL", "HARDWARE", "MS", "ALONE", "REQ/S", "LOAD", "S", "MIB"],
        ["m", "fast", "10.0", "100", "1.5", "64"],
    ]
    assert demo_show.unable(seen) == ["m doesn't run on odd, old: Triton's reason"]


def test_the_report_has_the_promised_keys() -> None:
    files = [Classified("a.py", "python", 0.999, 12.3456, "slow-1")]
    report = json.loads(json.dumps(report_of(files, _replayed(), _emulated(), _status())))
    assert report["files"] == [
        {"path": "a.py", "label": "python", "score": 0.999, "latency_ms": 12.346, "node": "slow-1"}
    ]
    assert (report["requests"], report["failed"], report["batches"]) == (13, 1, 6)
    assert report["slo_compliance"] == pytest.approx(6 / 13, abs=1e-6)
    assert report["p50_ms"] == pytest.approx(100, rel=1e-3)
    assert report["p99_ms"] == pytest.approx(220, rel=1e-3)
    assert [row["answered_by"] for row in report["replay"]["timeline"]] == [
        {"slow-1": 10},
        {"slow-1": 2},
    ]
    assert (report["cost_usd"], report["moves"], report["decisions"]) == (0.001, 1, 5)
    assert report["nodes"] == [
        {"id": "slow-1", "hardware": "slow", "price_usd_per_hour": 0.04, "models": ["magika"]}
    ]
    emulated = report["emulated"]
    assert (emulated["requests"], emulated["failed"], emulated["marked"]) == (13, 1, 12)
    assert [move["to"] for move in emulated["moves"]] == [["fast-1"]]


def test_what_is_shown_names_the_numbers() -> None:
    replayed = _replayed()
    shown = as_text(
        demo_show.files([Classified("[a]", None, 0.0, 0.0, "", "it is [gone]")]),
        demo_show.timeline(replayed.report, replayed.answered_by),
        *demo_show.summary(replayed, _status()),
    )
    assert "[a]" in shown
    assert "no answer: it is [gone]" in shown
    assert "13 requests, 1 failed, 46.15% within the SLO, p50 100 ms, p99 220 ms" in shown
    assert "slow-1" in shown.splitlines()[4]
    assert "moved from slow-1 to fast-1: slow: too slow" in shown
    assert "$0.00100 since the start (slow-1 $0.00100); $0.04 an hour now" in shown


def test_off_a_terminal_each_stage_is_one_plain_line() -> None:
    console = Console(file=io.StringIO())
    with progress(console, "magika") as update:
        update("uploading", "1 of 2 MB", 0.5)
        update("uploading", "2 of 2 MB", 1.0)
        update("ready", "on [slow-1]")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "magika uploading: 1 of 2 MB\nmagika ready: on [slow-1]\n"
    terminal = Console(file=io.StringIO(), force_terminal=True)
    with progress(terminal, "magika") as update:
        update("ready", "on [slow-1]", 0.5)
    assert isinstance(terminal.file, io.StringIO)
    assert "on [slow-1]" in terminal.file.getvalue()
