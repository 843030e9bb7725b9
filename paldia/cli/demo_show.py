"""The demo's findings as tables and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from paldia.cli.demo_replay import AnsweredBy, Replayed, requests_per_second
from paldia.cli.output import table
from paldia.client import ClusterStatus, Decision, Explanation
from paldia.load.report import Report, Row

_BAR_WIDTH = 30
_FAILURE_WIDTH = 72


@dataclass(frozen=True, slots=True)
class Classified:
    """One file and what became of it; `label` is None if no answer came, for `reason`."""

    path: str
    label: str | None
    score: float
    latency_ms: float
    node: str
    reason: str = ""


def measured(explanations: Sequence[Explanation]) -> Table:
    """What was measured of each model, on the kinds of hardware that it runs on."""
    return table(
        ("MODEL", "HARDWARE", ">MS ALONE", ">REQ/S", ">LOAD S", ">MIB"),
        [
            (
                explanation.model.name,
                profile.hardware,
                f"{profile.points[0].latency_s * 1e3:.1f}",
                f"{requests_per_second(profile):.0f}",
                f"{profile.load_s:.1f}",
                f"{profile.memory_bytes / 2**20:.0f}",
            )
            for explanation in explanations
            for profile in explanation.profiles
            if profile.points
        ],
    )


def unable(explanations: Sequence[Explanation]) -> list[str]:
    """Say where each model can't run, and why it can't on the last of those kinds."""
    lines = []
    for explanation in explanations:
        failed = [profile for profile in explanation.profiles if not profile.points]
        if failed:
            kinds = ", ".join(profile.hardware for profile in failed)
            reason = shorten(failed[-1].failure, _FAILURE_WIDTH, placeholder=" ...")
            lines.append(f"{explanation.model.name} doesn't run on {kinds}: {reason}")
    return lines


def files(found: Sequence[Classified]) -> Table:
    """What each file was taken for."""
    return table(("FILE", "TYPE", ">SCORE", ">MS", "NODE"), [_file_row(file) for file in found])


def _file_row(file: Classified) -> tuple[str, ...]:
    if file.label is None:
        return file.path, f"no answer: {file.reason}", "-", "-", "-"
    return file.path, file.label, f"{file.score:.4f}", f"{file.latency_ms:.1f}", file.node


def sentences(compared: Sequence[str], nearness: NDArray[np.float32]) -> Table:
    """How near each sentence lies to each other, 1 being the same."""
    headings = ("SENTENCE", *(f">TO {number}" for number in range(1, len(compared) + 1)))
    rows = [
        (f"{number} {sentence}", *(f"{cosine:.2f}" for cosine in row))
        for number, (sentence, row) in enumerate(zip(compared, nearness, strict=True), start=1)
    ]
    return table(headings, rows)


def timeline(report: Report, answered_by: AnsweredBy) -> Table:
    """A replay second by second: requests, how many in time, and who answered them."""
    most = max(row.offered for row in report.timeline)
    headings = (">S", "REQUESTS SENT", ">IN SLO", ">P99 MS", "ANSWERED BY")
    rows = [_second(row, most, answered_by.get(row.second, {})) for row in report.timeline]
    return table(headings, rows)


def _second(row: Row, most: int, nodes: Mapping[str, int]) -> tuple[str, ...]:
    bar = "█" * round(_BAR_WIDTH * row.offered / most)
    counts = sorted(nodes.items())
    return (
        str(row.second),
        f"{bar:<{_BAR_WIDTH}} {row.offered}",
        f"{(row.in_slo or 0) / row.offered:.0%}" if row.offered else "",
        "" if row.p99_ms is None else f"{row.p99_ms:.0f}",
        ", ".join(node if len(counts) == 1 else f"{node} {count}" for node, count in counts),
    )


def summary(replayed: Replayed, status: ClusterStatus) -> list[str]:
    """Sum up a replay, what moved and why, and what it all cost."""
    report = replayed.report
    shares = ", ".join(f"{node.node_id} ${node.cost_usd:.5f}" for node in status.nodes)
    return [
        f"{report.offered} requests, {report.unanswered} failed, {report.compliance:.2%} within "
        f"the SLO, p50 {_ms(report.p50_ms)}, p99 {_ms(report.p99_ms)}, {replayed.batches} batches",
        *([moved(move) for move in replayed.moves] or ["magika stayed where it was"]),
        f"${status.cost_usd:.5f} since the start ({shares}); "
        f"${status.cost_usd_per_hour:.2f} an hour now",
    ]


def moved(move: Decision) -> str:
    """Say from where to where a model moved, and why."""
    places = f"{', '.join(move.from_node_ids)} to {', '.join(move.to_node_ids)}"
    return f"moved from {places}: {move.reason}"


def _ms(latency_ms: float | None) -> str:
    return "none" if latency_ms is None else f"{latency_ms:.0f} ms"
