"""What the demo leaves behind: `report.json`, for programs to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from paldia.cli.demo_emulated import Emulated
from paldia.cli.demo_replay import Replayed
from paldia.cli.demo_show import Classified
from paldia.client import ClusterStatus, Decision


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
        "p50_ms": _ms(report.p50_s),
        "p99_ms": _ms(report.p99_s),
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
            "generator_lag_p99_ms": _ms(report.lag_p99_s),
            "moves": _moves(replayed.moves),
            "timeline": [asdict(second) for second in report.timeline],
        },
        "emulated": {
            "requests": emulated.report.offered,
            "failed": emulated.report.unanswered,
            "slo_compliance": round(emulated.report.compliance, 6),
            "marked": emulated.marked,
            "moves": _moves(emulated.moves),
            "timeline": [asdict(second) for second in emulated.report.timeline],
        },
    }


def _moves(moves: Sequence[Decision]) -> list[dict[str, Any]]:
    return [
        {"from": move.from_node_ids, "to": move.to_node_ids, "reason": move.reason}
        for move in moves
    ]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
