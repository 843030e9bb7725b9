"""What the demo leaves behind: `report.json`, for programs to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from paldia.cli.demo_emulated import Emulated
from paldia.cli.demo_replay import AnsweredBy, Replayed
from paldia.cli.demo_show import Classified
from paldia.client import ClusterStatus, Decision
from paldia.load.report import Report


def report_of(
    files: Sequence[Classified], replayed: Replayed, emulated: Emulated, status: ClusterStatus
) -> dict[str, Any]:
    """Put everything together; milliseconds and dollars, shares from 0 to 1."""
    report = replayed.report
    return {
        "files": [
            {
                "path": file.path,
                "label": file.label,
                "score": round(file.score, 6),
                "latency_ms": round(file.latency_ms, 3),
                "node": file.node,
            }
            for file in files
        ],
        "requests": report.offered,
        "failed": report.unanswered,
        "slo_compliance": round(report.compliance, 6),
        "p50_ms": report.p50_ms,
        "p99_ms": report.p99_ms,
        "cost_usd": status.cost_usd,
        "nodes": [
            {
                "id": node.node_id,
                "hardware": node.hardware,
                "price_usd_per_hour": node.price_usd_per_hour,
                "models": list(node.models),
            }
            for node in status.nodes
        ],
        "moves": status.moves,
        "decisions": status.decisions,
        "batches": replayed.batches,
        "store": status.store,
        "replay": {
            "late": report.late,
            "by_code": dict(report.by_code),
            "first_requests_per_second": round(replayed.plan.first_rps, 3),
            "last_requests_per_second": round(replayed.plan.last_rps, 3),
            "generator_lag_p99_ms": report.lag_p99_ms,
            "moves": _moves(replayed.moves),
            "timeline": _timeline(report, replayed.answered_by),
        },
        "emulated": {
            "requests": emulated.report.offered,
            "failed": emulated.report.unanswered,
            "slo_compliance": round(emulated.report.compliance, 6),
            "marked": emulated.marked,
            "moves": _moves(emulated.moves),
            "timeline": _timeline(emulated.report, emulated.answered_by),
        },
    }


def _moves(moves: Sequence[Decision]) -> list[dict[str, Any]]:
    return [
        {"from": move.from_node_ids, "to": move.to_node_ids, "reason": move.reason}
        for move in moves
    ]


def _timeline(report: Report, answered_by: AnsweredBy) -> list[dict[str, Any]]:
    return [
        {**asdict(row), "answered_by": answered_by.get(row.second, {})} for row in report.timeline
    ]
