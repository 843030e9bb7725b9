"""Which hardware a model should have: filter, score, pick, each with its reason.

What each kind of hardware could do for the model has been judged already. Here it meets the
nodes as they are filled at this moment: all nodes of a kind are filtered in a few array
operations, and of those that fit the fullest is taken, which keeps others empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paldia.core.config import PolicyConfig
from paldia.core.observation import Assignment, Candidate, Verdict
from paldia.core.placement import verdicts
from paldia.core.placement.occupancy import Fleet, Load
from paldia.core.placement.questions import Found, Question, Row, Seen
from paldia.core.sharing.asks import TINY
from paldia.core.sharing.costs import Ints
from paldia.core.sharing.offers import judged
from paldia.core.sharing.prediction import SharingRule


def candidates(question: Question, fleet: Fleet, config: PolicyConfig) -> tuple[Found, ...]:
    """Judge every kind of hardware, by name."""
    seen = Seen(question, fleet, config)
    return tuple(on_kind(question, hardware, seen) for hardware in fleet.hardware)


def pick(
    options: Sequence[Candidate], waiting: int = 1, requests_per_second: float = 0.0
) -> Candidate | None:
    """Take the feasible candidate that adds least to the bill, else the fastest.

    Of `waiting` models that look for a place at once, those that come later will share a node
    that this one opens: it is charged its share of the node, and one part in `waiting` at
    least. Ties go to the lower price, then the lower latency, then the name. Where none is
    feasible, one that breaks nobody else's SLO comes first, then one that keeps its own: with
    the most replicas, and then for the least money. Of the rest what gets done as many requests
    as are expected comes before what falls behind, whatever it would take for the first of them.
    """

    def key(option: Candidate) -> tuple[float, float, float, str]:
        charged = max(min(1.0, option.share), 1 / waiting)
        return (
            option.added_usd_per_hour * charged,
            option.price_usd_per_hour,
            option.latency_s,
            option.hardware,
        )

    feasible = [option for option in options if option.feasible]
    if feasible:
        return min(feasible, key=key)

    def trouble(option: Candidate) -> tuple[bool, bool, bool, int, float, float, str]:
        kept = option.keeps_slo
        return (
            option.verdict is Verdict.NEIGHBOUR,
            not kept,
            requests_per_second > option.throughput,
            -len(option.assignments) if kept else 0,
            option.added_usd_per_hour if kept else 0.0,
            option.latency_s,
            option.hardware,
        )

    return min((option for option in options if option.servable), key=trouble, default=None)


def as_hinted(
    question: Question, options: tuple[Candidate, ...], fleet: Fleet
) -> tuple[Candidate, ...]:
    """Leave only the place that was found for many together, if it still is one."""
    hint = question.hint
    ids = tuple(fleet.ids[index] for index in hint.nodes) if hint else ()
    hinted = tuple(
        option
        for option in options
        if option.feasible and tuple(a.node_id for a in option.assignments) == ids
    )
    return hinted or options


def on_kind(question: Question, hardware: str, seen: Seen) -> Found:
    """Find the best nodes of a kind for a model."""
    profiles = question.view.profiles
    fleet = seen.fleet
    if hardware not in profiles:
        return Found(Candidate(hardware, Verdict.UNPROFILED, "not measured yet"))
    profile = profiles[hardware]
    if profile is None:
        detail = "the model could not be loaded there"
        return Found(Candidate(hardware, Verdict.CANNOT_RUN, detail))
    part = fleet.part(hardware)
    if not seen.usable[part].any():
        detail = verdicts.of_no_node(fleet, hardware, seen.avoided, seen.closed)
        return Found(Candidate(hardware, Verdict.NOT_ENOUGH_NODES, detail))
    row = question.kinds.get(hardware)
    if row is None:
        detail = verdicts.of_memory(profile.memory_bytes, fleet.capacity_bytes[part.start])
        return Found(Candidate(hardware, Verdict.MEMORY, detail))
    chosen = _fitting(row, part, seen, question)
    if chosen is None:
        return _unfitting(question, row, part, seen)
    nodes, way = chosen
    others = float(seen.used[nodes].max())
    verdict, detail = verdicts.on_load(row.offers, row.row, way, others)
    return candidate(question, row, way, nodes, seen, verdict=verdict, detail=detail)


def _fitting(row: Row, part: slice, seen: Seen, question: Question) -> tuple[Ints, int] | None:
    """Give the nodes to take and the way to share them; None if there aren't enough."""
    offers, at = row.offers, row.row
    if offers.tolerance[at].max() < 0:
        return None
    hinted = _hinted(row, part, seen, question)
    if hinted is not None:
        return hinted
    bears = np.minimum(offers.tolerance[at], row.ask.limit - offers.used[at])
    fits = (
        (seen.used[part, np.newaxis] <= bears + TINY)
        & (offers.used[at] <= seen.room[part, np.newaxis] + TINY)
        & (offers.memory_bytes[at] <= seen.left_bytes[part, np.newaxis])
    )
    wanted = int(offers.nodes[at])
    if wanted == 1:
        score = np.where(fits.any(axis=1), seen.preference[part], -1.0)
        index = int(score.argmax())
        if score[index] < 0:
            return None
        ways = np.nonzero(fits[index])[0].tolist()
        node = part.start + index
        return np.array([node]), _fastest(row, ways, float(seen.used[node]), question)
    best = None
    for way in range(fits.shape[1]):
        able = np.nonzero(fits[:, way])[0] + part.start
        if len(able) >= wanted:
            nodes = able[np.argsort(-seen.preference[able], kind="stable")[:wanted]]
            opened = int((~seen.running[nodes]).sum())
            if best is None or opened < best[0]:
                best = opened, nodes, way
    return None if best is None else (best[1], best[2])


def _hinted(row: Row, part: slice, seen: Seen, question: Question) -> tuple[Ints, int] | None:
    """Give what was found for many together, if it is of this kind and still fits."""
    hint = question.hint
    if hint is None or hint.way < 0 or not part.start <= hint.nodes[0] < part.stop:
        return None
    nodes = np.array(hint.nodes)
    offers, at, way = row.offers, row.row, hint.way
    bears = min(float(offers.tolerance[at, way]), row.ask.limit - float(offers.used[at, way]))
    fits = (
        (seen.used[nodes] <= bears + TINY)
        & (offers.used[at, way] <= seen.room[nodes] + TINY)
        & (offers.memory_bytes[at, way] <= seen.left_bytes[nodes])
    )
    return (nodes, way) if fits.all() else None


def _fastest(row: Row, ways: list[int], others: float, question: Question) -> int:
    """Take the way with the least latency, where the rule is about latency; else the first."""
    if question.policy.sharing is not SharingRule.LANES or len(ways) == 1:
        return ways[0]
    return min(ways, key=lambda way: (row.offers.foretold(row.row, way, others)[0], way))


def _unfitting(question: Question, row: Row, part: slice, seen: Seen) -> Found:
    """Say what stands in the way, and where it would run nevertheless: as idle as can be."""
    offers, at = row.offers, row.row
    hardware = seen.fleet.at(part.start).hardware.name
    fewest = int(offers.lanes[at].argmin())
    left_bytes = seen.left_bytes[part]
    usable = seen.usable[part]
    held = usable & (offers.memory_bytes[at, fewest] <= left_bytes)
    if not held.any():
        free_bytes = float(left_bytes[usable].max())
        detail = verdicts.of_memory(float(offers.memory_bytes[at, fewest]), free_bytes)
        return Found(Candidate(hardware, Verdict.MEMORY, detail))
    wanted = int(offers.nodes[at])
    way = 0 if (usable & (offers.memory_bytes[at, 0] <= left_bytes)).sum() >= wanted else fewest
    held = usable & (offers.memory_bytes[at, way] <= left_bytes)
    nodes = np.nonzero(held)[0] + part.start
    hurts = offers.used[at, way] > seen.room[nodes] + TINY
    nodes = nodes[np.lexsort((nodes, seen.used[nodes], hurts))][:wanted]
    others = float(seen.used[nodes].max())
    if len(nodes) < wanted:
        row = _on_fewer(row, len(nodes), float(seen.left_bytes[nodes].min()), seen)
        offers, at, way = row.offers, row.row, 0
    verdict, detail = verdicts.on_load(offers, at, way, others)
    if len(nodes) < wanted and verdict is not Verdict.FEASIBLE:
        detail = f"{len(nodes)} with room, {wanted} needed; {detail}"
    if verdict is Verdict.FEASIBLE:
        tight = [n for n in nodes.tolist() if offers.used[at, way] > seen.room[n] + TINY]
        if len(nodes) < wanted:
            verdict = Verdict.NOT_ENOUGH_NODES
            detail = f"{len(nodes)} with room, {wanted} needed; {detail}"
        elif tight:
            hurt = seen.fleet.first_hurt(tight[0], seen.model)
            verdict = Verdict.NEIGHBOUR
            detail = f"would break the SLO of {hurt} on {seen.fleet.ids[tight[0]]}"
    return candidate(question, row, way, nodes, seen, verdict=verdict, detail=detail)


def _on_fewer(row: Row, nodes: int, left_bytes: float, seen: Seen) -> Row:
    """Judge what was meant for several nodes on so many of them, which is all that there are."""
    ask, meant = row.ask, int(row.offers.nodes[row.row])
    demand = replace(
        ask.demand,
        requests_per_second=ask.demand.requests_per_second * meant / nodes,
        backlog=math.ceil(ask.demand.backlog * meant / nodes),
    )
    lanes = max(1, min(ask.most_lanes, int(left_bytes // max(1, ask.profile.memory_bytes))))
    asked = replace(ask, demand=demand, most_lanes=lanes)
    return Row(judged([asked], seen.rule, seen.config), 0)


def candidate(
    question: Question,
    row: Row,
    way: int,
    nodes: Ints,
    seen: Seen,
    *,
    verdict: Verdict,
    detail: str,
) -> Found:
    """Describe a way on some nodes of one kind, which divide the model's work evenly."""
    offers, at = row.offers, row.row
    fleet, model = seen.fleet, question.view.model
    hardware = fleet.at(int(nodes[0])).hardware
    others = float(seen.used[nodes].max())
    latency_s, capacity, _ = offers.foretold(at, way, others)
    used, memory_bytes = float(offers.used[at, way]), float(offers.memory_bytes[at, way])
    tolerance = float(offers.tolerance[at, way])
    keeps_slo = others <= tolerance + TINY and used + others <= seen.limit + TINY
    if len(nodes) < model.min_replicas:
        verdict = Verdict.NOT_ENOUGH_NODES
        detail = f"{len(nodes)} usable, {model.min_replicas} replicas wanted; {detail}"
    batch, lanes = int(offers.batch[at, way]), int(offers.lanes[at, way])
    shares = {a.node_id: a.sm_percent for a in question.current}
    ids = [fleet.ids[index] for index in nodes.tolist()]
    return Found(
        Candidate(
            hardware=hardware.name,
            verdict=verdict,
            detail=detail,
            keeps_slo=keeps_slo,
            assignments=tuple(
                Assignment(
                    node_id,
                    hardware.name,
                    model.artifact_digest,
                    lanes,
                    batch,
                    shares.get(node_id, 100),
                )
                for node_id in ids
            ),
            latency_s=latency_s,
            throughput=capacity * len(nodes),
            price_usd_per_hour=hardware.price_usd_per_hour * len(nodes),
            added_usd_per_hour=hardware.price_usd_per_hour * int((~seen.running[nodes]).sum()),
            utilisation=used + others,
            share=max(used / seen.limit, memory_bytes / max(1, hardware.memory_bytes)),
        ),
        Load(model.name, used, memory_bytes, tolerance),
    )
