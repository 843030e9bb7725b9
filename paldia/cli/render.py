"""Results as tables and lines. Milliseconds and percent appear here, at the user's edge."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from paldia.cli import render_gpus
from paldia.cli.output import moment, table
from paldia.cli.render_profile import profiles, stale
from paldia.client import (
    Candidate,
    ClusterStatus,
    Decision,
    Demand,
    Explanation,
    Model,
    ModelPhase,
    Node,
    Placement,
    PlacementState,
    Revision,
)

_WHOLE_PERCENT = 100
_WATT_HOUR_J = 3600.0
_HELD_FOR = {
    "rate": "as many as come",
    "peak": "as many may come before other hardware could be there",
    "recurrence": "again as in the hours before",
}
_MODELS_SPLIT = 5
"""Models whose part of the bill is shown one by one."""


def models(found: Sequence[Model]) -> RenderableType:
    """One line for each model."""
    if not found:
        return "no models; deploy one: paldia deploy DIR --slo-ms 100"
    headings = ("MODEL", "PHASE", "SLO", "WHERE", ">GEN", ">REQ/S", "NOTES")
    return table(headings, [_model_row(model) for model in found])


def _model_row(model: Model) -> tuple[str, ...]:
    newest = model.serving or model.candidate
    places = (
        f"{place.node_id} {_way(place)}"
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


def _way(place: Placement | Candidate) -> str:
    """Give batches at once x largest batch, and the share of the SMs where it is limited."""
    limit = "" if place.sm_percent >= _WHOLE_PERCENT else f" on {place.sm_percent}% of SMs"
    return f"{place.lanes}x{place.batch_size}{limit}"


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


def nodes(found: Sequence[Node]) -> list[RenderableType]:
    """Give a line for each node, one for each GPU, and what else is worth knowing of them."""
    if not found:
        return ["no nodes; start one with paldia-nodeagent"]
    headings = (
        *("NODE", "HARDWARE", "STATE", ">USD/H", ">USD", ">WH", "CORES IN USE", ">MEMORY GB"),
        *("GPUS", "MODELS", "PROBLEM"),
    )
    return [
        table(headings, [_node_row(node) for node in found]),
        *render_gpus.gpus(found),
        *(f"{node.node_id}: {warning}" for node in found for warning in node.warnings),
    ]


def _node_row(node: Node) -> tuple[str, ...]:
    return (
        node.node_id,
        node.hardware,
        node.state.value,
        f"{node.price_usd_per_hour:.3f}",
        f"{node.cost_usd:.5f}",
        _energy(node),
        f"{node.cpu_utilisation:.0%} of {node.cores}",
        f"{node.memory_used_bytes / 1e9:.1f}/{node.memory_bytes / 1e9:.1f}",
        ", ".join(gpu.name for gpu in node.gpus),
        ", ".join(node.models),
        node.problem,
    )


def _energy(drawn: Node | ClusterStatus) -> str:
    """Give watt-hours; `~` leads where a part of them is estimated. Empty if unknown."""
    if not drawn.energy_j:
        return ""
    return f"{'~' if drawn.estimated_energy_j else ''}{drawn.energy_j / _WATT_HOUR_J:.3f}"


def status(found: ClusterStatus) -> list[RenderableType]:
    """Give the cluster's sums, its nodes and its models."""
    fronts = ", ".join(front.address for front in found.frontends) or "none connected"
    return [
        f"controller {found.controller_id} {found.version}, store {found.store}, "
        f"since {moment(found.started_at)}",
        f"frontends  {fronts}",
        f"bill       {found.cost_usd:.5f} USD so far, {found.cost_usd_per_hour:.3f} USD/h now",
        f"of which   {_split(found)}",
        *([f"energy     {_energy(found)} Wh so far"] if found.energy_j else []),
        f"decisions  {found.decisions}, of which {found.moves} moved a model",
        *map(stale, found.stale_profiles),
        "",
        *nodes(found.nodes),
        models(found.models),
    ]


def _split(found: ClusterStatus) -> str:
    """Give what the dearest models cost, the sum of the others, and what was idle."""
    by_cost = sorted(found.cost_usd_by_model.items(), key=lambda entry: (-entry[1], entry[0]))
    parts = [f"{name} {usd:.5f}" for name, usd in by_cost[:_MODELS_SPLIT]]
    if others := by_cost[_MODELS_SPLIT:]:
        parts.append(f"{len(others)} more models {sum(usd for _, usd in others):.5f}")
    return ", ".join([*parts, f"idle {found.idle_cost_usd:.5f} (by predicted use)"])


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
        parts += ["", *decision(current, "now")]
    if found.profiles:
        parts += ["", profiles(found.profiles, title="Profiles it rests on")]
    if found.decisions:
        parts += ["", _decisions(found.decisions)]
    return parts


def decision(made: Decision, when: str) -> list[RenderableType]:
    """Give all candidates with the numbers that decided; `when` is the time of the demand."""
    headings = (
        *("", "HARDWARE", "NODES", "LANES", ">MS", ">MAX REQ/S", ">USD/H", ">ADDED", ">USE"),
        "VERDICT",
    )
    rows = [
        (
            "*" if index == made.chosen else "",
            candidate.hardware,
            ", ".join(candidate.node_ids) or "-",
            _way(candidate) if candidate.lanes else "-",
            "-"
            if candidate.predicted_latency_s is None
            else f"{candidate.predicted_latency_s * 1e3:.1f}",
            f"{candidate.throughput_per_second:.1f}",
            f"{candidate.price_usd_per_hour:.3f}",
            f"{candidate.added_usd_per_hour:.3f}",
            f"{candidate.utilisation:.0%}",
            candidate.verdict,
        )
        for index, candidate in enumerate(made.candidates)
    ]
    details = [
        f"{candidate.hardware}: {candidate.detail}"
        for candidate in made.candidates
        if candidate.detail
    ]
    verdict = "Why" if made.chosen is not None else "Nothing chosen"
    return [
        f"Judged for {_demand(made.demand, when)}:",
        table(headings, rows),
        *details,
        f"{verdict}: {made.reason}",
    ]


def _demand(demand: Demand, when: str) -> str:
    """Give what came, and what hardware is held for, which may be more."""
    held = ""
    if demand.held_requests_per_second is not None and demand.held_for in _HELD_FOR:
        held = f", held for {demand.held_requests_per_second:.1f} ({_HELD_FOR[demand.held_for]})"
    return (
        f"{demand.requests_per_second:.1f} requests/s {when}{held}, "
        f"dispersion {demand.dispersion:.1f}, backlog {demand.backlog}"
    )


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


def slo(revision: Revision) -> str:
    """Give an objective as `100 ms / 99 %`."""
    return f"{revision.slo.latency_s * 1e3:g} ms / {revision.slo.share * 100:g} %"
