"""Results as tables and lines. Milliseconds and percent appear here, at the user's edge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.table import Table

from paldia.cli.output import table
from paldia.client import (
    ClusterStatus,
    Decision,
    Explanation,
    Model,
    ModelPhase,
    Node,
    PlacementState,
    Profile,
    Revision,
)


def models(found: Sequence[Model]) -> RenderableType:
    """One line for each model."""
    if not found:
        return "no models; deploy one: paldia deploy DIR --slo-ms 100"
    headings = ("MODEL", "PHASE", "SLO", "WHERE", ">GEN", ">REQ/S", "NOTES")
    return table(headings, [_model_row(model) for model in found])


def _model_row(model: Model) -> tuple[str, ...]:
    newest = model.serving or model.candidate
    places = (
        f"{place.node_id} {place.lanes}x{place.batch_size}"
        + ("" if place.state is PlacementState.READY else f" ({place.state.value})")
        for place in model.placements
    )
    return (
        model.name,
        model.phase.value,
        slo(newest) if newest else "-",
        ", ".join(places) or "-",
        str(newest.generation) if newest else "-",
        f"{model.requests_per_second:.1f}",
        "; ".join(model_notes(model)),
    )


def model_notes(model: Model) -> list[str]:
    """What its owner should know of a model beside that it serves."""
    notes = ["slo_unreachable: no hardware meets the SLO, the best there is serves"]
    notes = notes if model.slo_unreachable else []
    if model.reason:
        notes.append(model.reason)
    if model.serving and model.candidate:
        notes.append(f"generation {model.candidate.generation} is being profiled")
    failure = model.last_failure
    newest = model.candidate or model.serving
    if failure and (newest is None or failure.generation > newest.generation):
        first_line = failure.reason.partition("\n")[0]
        if first_line not in model.reason:
            notes.append(f"generation {failure.generation} failed: {first_line}")
    return notes


def served(model: Model) -> str:
    """One line on what became of a deploy or update."""
    newest = model.candidate or model.serving
    generation = f" (generation {newest.generation})" if newest else ""
    ready = [place for place in model.placements if place.state is PlacementState.READY]
    if model.phase is ModelPhase.READY and ready:
        # While an old version drains its node is there twice.
        places = dict.fromkeys(f"{place.node_id} ({place.hardware})" for place in ready)
        where = ", ".join(places)
        line = f"{model.name} serves on {where}{generation}"
    else:
        line = f"{model.name} is {model.phase.value}{generation}"
    return "\n".join([line, *(f"  {note}" for note in model_notes(model))])


def nodes(found: Sequence[Node]) -> RenderableType:
    """One line for each node."""
    if not found:
        return "no nodes; start one with paldia-nodeagent"
    headings = (
        *("NODE", "HARDWARE", "STATE", ">USD/H", ">USD", "CORES IN USE", ">MEMORY GB"),
        *("GPUS", "MODELS", "PROBLEM"),
    )
    return table(headings, [_node_row(node) for node in found])


def _node_row(node: Node) -> tuple[str, ...]:
    return (
        node.node_id,
        node.hardware,
        node.state.value,
        f"{node.price_usd_per_hour:.3f}",
        f"{node.cost_usd:.5f}",
        f"{node.cpu_utilisation:.0%} of {node.cores}",
        f"{node.memory_used_bytes / 1e9:.1f}/{node.memory_bytes / 1e9:.1f}",
        ", ".join(gpu.name for gpu in node.gpus),
        ", ".join(node.models),
        node.problem,
    )


def status(found: ClusterStatus) -> list[RenderableType]:
    """Give the cluster's sums, its nodes and its models."""
    fronts = ", ".join(front.address for front in found.frontends) or "none connected"
    return [
        f"controller {found.controller_id} {found.version}, store {found.store}, "
        f"since {moment(found.started_at)}",
        f"frontends  {fronts}",
        f"bill       {found.cost_usd:.5f} USD so far, {found.cost_usd_per_hour:.3f} USD/h now",
        f"decisions  {found.decisions}, of which {found.moves} moved a model",
        "",
        nodes(found.nodes),
        models(found.models),
    ]


def explanation(found: Explanation) -> list[RenderableType]:
    """Give all candidates with the numbers that decided, and the decisions so far."""
    model = found.model
    newest = model.serving or model.candidate
    parts: list[RenderableType] = [
        f"{model.name}: {model.phase.value}" + (f", SLO {slo(newest)}" if newest else ""),
        *(f"  {note}" for note in model_notes(model)),
    ]
    current = found.current or (found.decisions[0] if found.decisions else None)
    if current is None:
        parts += ["no decision yet: it is decided once a profile is there"]
    else:
        parts += ["", *_decision(current)]
    if found.profiles:
        parts += ["", profiles(found.profiles, title="Profiles it rests on")]
    if found.decisions:
        parts += ["", _decisions(found.decisions)]
    return parts


def _decision(decision: Decision) -> list[RenderableType]:
    demand = decision.demand
    headings = (
        *("", "HARDWARE", "NODES", "LANES", ">MS", ">MAX REQ/S", ">USD/H", ">ADDED", ">USE"),
        "VERDICT",
    )
    rows = [
        (
            "*" if index == decision.chosen else "",
            candidate.hardware,
            ", ".join(candidate.node_ids) or "-",
            f"{candidate.lanes}x{candidate.batch_size}" if candidate.lanes else "-",
            "-"
            if candidate.predicted_latency_s is None
            else f"{candidate.predicted_latency_s * 1e3:.1f}",
            f"{candidate.throughput_per_second:.1f}",
            f"{candidate.price_usd_per_hour:.3f}",
            f"{candidate.added_usd_per_hour:.3f}",
            f"{candidate.utilisation:.0%}",
            candidate.verdict,
        )
        for index, candidate in enumerate(decision.candidates)
    ]
    details = [
        f"{candidate.hardware}: {candidate.detail}"
        for candidate in decision.candidates
        if candidate.detail
    ]
    verdict = "Why" if decision.chosen is not None else "Nothing chosen"
    return [
        f"Judged for {demand.requests_per_second:.1f} requests/s (dispersion "
        f"{demand.dispersion:.1f}, backlog {demand.backlog}):",
        table(headings, rows),
        *details,
        f"{verdict}: {decision.reason}",
    ]


def _decisions(found: Sequence[Decision]) -> Table:
    rows = [
        (
            moment(decision.decided_at),
            decision.action,
            ", ".join(decision.from_node_ids),
            ", ".join(decision.to_node_ids),
            f"{decision.demand.requests_per_second:.1f}",
            decision.reason,
        )
        for decision in found
    ]
    headings = ("WHEN", "ACTION", "FROM", "TO", ">REQ/S", "REASON")
    return table(headings, rows, title="Decisions, newest first")


def profiles(found: Sequence[Profile], title: str = "") -> RenderableType:
    """Give a line for each kind of hardware, with the latency of each batch size."""
    headings = (
        *("HARDWARE", "NODE", "MS BY BATCH", ">LOAD S", ">MB", "FIGURES", "WHEN"),
        "FAILURE",
    )
    rows = [
        (
            profile.hardware,
            profile.node_id,
            ", ".join(f"{at.batch_size}: {at.latency_s * 1e3:.1f}" for at in profile.points),
            f"{profile.load_s:.1f}" if profile.points else "",
            f"{profile.memory_bytes / 1e6:.0f}" if profile.points else "",
            profile.provenance.value,
            moment(profile.measured_at),
            profile.failure.partition("\n")[0],
        )
        for profile in found
    ]
    return table(headings, rows, title=title)


def slo(revision: Revision) -> str:
    """Give an objective as `100 ms / 99 %`."""
    return f"{revision.slo.latency_s * 1e3:g} ms / {revision.slo.share * 100:g} %"


def moment(time: datetime | None) -> str:
    """Give a moment in local time; `-` if it is unknown."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else "-"
