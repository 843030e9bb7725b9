"""The place that a model has: whether it can go on there, and what newcomers leave to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paldia.core.config import PolicyConfig
from paldia.core.observation import Candidate
from paldia.core.placement import verdicts
from paldia.core.placement.occupancy import Fleet
from paldia.core.placement.questions import Found, Question, Row, Seen
from paldia.core.placement.selection import candidate
from paldia.core.sharing.asks import TINY
from paldia.core.sharing.prediction import SharingRule
from paldia.core.sharing.ways import least_sm_share


def standing(question: Question, fleet: Fleet, config: PolicyConfig) -> Found | None:
    """Judge the nodes the model is on now; None if it can't go on there.

    It takes the best way there is, unless that would break the SLO of a neighbour who bears
    the present way.
    """
    present = [fleet.index.get(assignment.node_id) for assignment in question.current]
    nodes = [index for index in present if index is not None and fleet.usable[index]]
    row = question.present
    if row is None or not nodes or len(nodes) < len(present):
        return None
    seen = Seen(question, fleet, config)
    if any(index in seen.avoided for index in nodes):
        return None
    if question.tuned is not None and _fits(question.tuned, row, nodes, seen):
        row = question.tuned
    elif not (row.offers.memory_bytes[row.row, 0] <= seen.left_bytes[nodes]).all():
        return None
    at = np.array(nodes)
    others = float(seen.used[at].max())
    verdict, detail = verdicts.on_load(row.offers, row.row, 0, others)
    return candidate(question, row, 0, at, seen, verdict=verdict, detail=detail)


def _fits(tuned: Row, present: Row, nodes: list[int], seen: Seen) -> bool:
    """Whether a way fits beside the others, or at least takes no more than the present one."""
    used = float(tuned.offers.used[tuned.row, 0])
    no_more = used <= float(present.offers.used[present.row, 0])
    fits = (used <= seen.room[nodes] + TINY) & (used + seen.used[nodes] <= seen.limit + TINY)
    held = tuned.offers.memory_bytes[tuned.row, 0] <= seen.left_bytes[nodes]
    return bool((held & (no_more | fits)).all())


def held_to_share(
    question: Question, found: Candidate, fleet: Fleet, config: PolicyConfig
) -> Candidate:
    """Hold a newcomer beside others to the least share of the SMs that keeps its SLO.

    It keeps it even beside as many as the model bears unheld, so that holding it costs its
    neighbours nothing. A process that runs keeps its share, which is set when it starts.
    """
    row = question.kinds.get(found.hardware)
    model = question.view.model.name
    here = {assignment.place for assignment in question.current}
    crowded = {
        a.node_id
        for a in found.assignments
        if a.place not in here
        and any(load.model != model for load in fleet.loads(fleet.index[a.node_id]))
    }
    if not crowded or row is None or question.policy.sharing is not SharingRule.LANES:
        return found
    if not (found.feasible and fleet.nodes[found.assignments[0].node_id].hardware.sm_shares):
        return found
    first = found.assignments[0]
    offers, at = row.offers, row.row
    same = (offers.batch[at] == first.batch) & (offers.lanes[at] == first.lanes)
    way = int(same.argmax())
    others = min(
        float(offers.tolerance[at, way]), config.utilisation_limit - float(offers.used[at, way])
    )
    percent = least_sm_share(row.ask, first.batch, first.lanes, others, config)
    if percent == 100:
        return found
    return replace(
        found,
        detail=f"{found.detail}, held to {percent} % of the SMs",
        assignments=tuple(
            replace(a, sm_percent=percent) if a.node_id in crowded else a for a in found.assignments
        ),
    )
