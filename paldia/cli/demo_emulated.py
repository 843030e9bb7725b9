"""The demo's emulated part: BERT on GPUs that aren't there, while its rate goes up and down.

The rates are between what the cheapest GPU may be planned for and what it can just do, so that it
keeps up while the faster one loads; on any machine, since an emulated GPU is as fast anywhere.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from paldia.cli import demo_show, render, samples
from paldia.cli.demo_replay import AnsweredBy, Watcher, answered_by, moves_since
from paldia.cli.node_options import NodeOptions, emulated_node
from paldia.cli.output import show
from paldia.cli.progress import progress
from paldia.client import Client, Decision
from paldia.load.arrivals import read_arrivals
from paldia.load.inputs import encoded_arrays
from paldia.load.replay import replay
from paldia.load.report import Report, summarise
from paldia.load.warp import RateProfile, warp

MODEL = "bert"
SLO_S = 0.2
PEAK_QUANTILE = 0.5
"""A minute of patience is right for money, and long for a demo: hardware is left sooner here."""

_TOKENS = 128
_DEADLINE_S = 5.0
_DECISIONS = 100
_QUIET_RPS = 30.0
_BUSY_RPS = 155.0
# Where the whole is 1: quiet, a rise, busy, a fall, quiet.
_SHAPE = ((0.0, _QUIET_RPS), (0.07, _QUIET_RPS), (0.1, _BUSY_RPS), (0.44, _BUSY_RPS))
_REST = ((0.47, _QUIET_RPS), (1.0, _QUIET_RPS))


def nodes() -> tuple[NodeOptions, ...]:
    """Give the nodes with emulated GPUs: a V100, a T4, an M60."""
    kinds = {"v100": "p3.2xlarge", "t4": "g4dn.xlarge", "m60": "g3s.xlarge"}
    return tuple(emulated_node(node_id, kind) for node_id, kind in kinds.items())


@dataclass(frozen=True, slots=True)
class Emulated:
    """How it went: `marked` of the answers said that they came from an emulated GPU."""

    report: Report
    answered_by: AnsweredBy
    marked: int
    moves: tuple[Decision, ...]


def rates(duration_s: float) -> RateProfile:
    """Give the rate over the time that it all takes."""
    return RateProfile(tuple((at * duration_s, rps) for at, rps in _SHAPE + _REST))


def deploy(client: Client) -> None:
    """Deploy the model and show what each kind of hardware takes for it."""
    with progress(Console(), MODEL) as update:
        deployed = client.deploy(
            samples.FOLDER / MODEL,
            slo_latency_s=SLO_S,
            on_progress=lambda news: update(news.stage, news.detail, news.fraction),
        )
    explanations = [client.explain(MODEL)]
    show(
        render.served(deployed),
        demo_show.measured(explanations),
        *demo_show.unable(explanations),
    )


def drive(client: Client, frontend_address: str, trace: Path, duration_s: float) -> Emulated:
    """Send requests up and down, and show who answered and what was decided."""
    offsets_s = warp(read_arrivals(str(trace)), rates(duration_s))
    started_at = datetime.now(UTC)
    with progress(Console(), "replay") as update:
        watcher = Watcher(SLO_S, duration_s, update)
        outcomes = asyncio.run(
            replay(
                frontend_address,
                [_request()],
                offsets_s.tolist(),
                deadline_s=_DEADLINE_S,
                on_outcome=watcher.see,
            )
        )
    moves = moves_since(started_at, client.explain(MODEL, limit=_DECISIONS).decisions)
    report = summarise(outcomes, SLO_S, duration_s)
    marked = sum(outcome.tags.get("paldia_emulated") is True for outcome in outcomes)
    emulated = Emulated(report, answered_by(outcomes), marked, moves)
    show(demo_show.timeline(report, emulated.answered_by), *_summary(emulated, started_at))
    return emulated


def _request() -> bytes:
    tokens = np.ones((1, _TOKENS), np.int64)
    return encoded_arrays(MODEL, {"input_ids": tokens, "attention_mask": tokens})


def _summary(emulated: Emulated, started_at: datetime) -> list[str]:
    report = emulated.report
    lines = [
        f"{report.offered} requests, {report.unanswered} failed, {report.compliance:.2%} within "
        f"the SLO; {emulated.marked} answers say that they are emulated"
    ]
    for move in emulated.moves:
        at_s = (move.decided_at - started_at).total_seconds() if move.decided_at else 0.0
        lines.append(f"after {at_s:.0f} s {demo_show.moved(move)}")
    return lines
