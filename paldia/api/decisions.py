"""Decisions to protobuf: the candidates, what was chosen, and the demand it was decided for."""

from __future__ import annotations

from paldia.api import convert
from paldia.api.v1 import types_pb2 as pb
from paldia.core import observation as obs
from paldia.core.forecast.recurrence import MINUTE_S, MINUTES


def held_for(memory: obs.ModelMemory, now_s: float) -> str:
    """Say why hardware is held for `memory.expected_rate`: `rate`, `recurrence` or `peak`.

    It is the highest of the three, so it equals one of them.
    """
    held = memory.expected_rate
    if held <= memory.rate.requests_per_second:
        return "rate"
    coming = (now_s + minute * MINUTE_S for minute in range(MINUTES))
    if any(memory.recurrence.expected(at_s, at_s) == held for at_s in coming):
        return "recurrence"
    return "peak"


def candidate_to_proto(candidate: obs.Candidate) -> pb.Candidate:
    """Encode a judged kind of hardware; an unknown latency is left out."""
    encoded = pb.Candidate(
        hardware=candidate.hardware,
        node_ids=[assignment.node_id for assignment in candidate.assignments],
        throughput=candidate.throughput,
        price_usd_per_hour=candidate.price_usd_per_hour,
        added_usd_per_hour=candidate.added_usd_per_hour,
        utilisation=candidate.utilisation,
        verdict=candidate.verdict.value,
        detail=candidate.detail,
    )
    if candidate.servable:
        encoded.batch_size = candidate.assignments[0].batch
        encoded.lanes = candidate.assignments[0].lanes
        encoded.sm_percent = convert.sm_percent_to_proto(candidate.assignments[0].sm_percent)
        encoded.predicted_latency.CopyFrom(convert.duration(candidate.latency_s))
    return encoded


def decision_to_proto(decision: obs.Decision, memory: obs.ModelMemory) -> pb.Decision:
    """Encode a decision; a choice that is no kind's best (the nodes it is on) joins the list.

    Args:
        memory: what was remembered of the model once it was decided on.
    """
    candidates = list(decision.candidates)
    chosen = -1
    if decision.chosen is not None:
        same = [
            index
            for index, candidate in enumerate(candidates)
            if candidate.assignments == decision.chosen.assignments
        ]
        if not same:
            candidates.append(decision.chosen)
        chosen = same[0] if same else len(candidates) - 1
    return pb.Decision(
        decided_at=convert.timestamp(decision.decided_s),
        model=decision.model,
        generation=decision.generation,
        action=decision.action.value,
        reason=decision.reason,
        demand=pb.Demand(
            requests_per_second=decision.rate.requests_per_second,
            dispersion=decision.rate.dispersion,
            backlog=decision.backlog,
            held_requests_per_second=memory.expected_rate,
            held_for=held_for(memory, decision.decided_s),
        ),
        candidates=[candidate_to_proto(candidate) for candidate in candidates],
        chosen=chosen,
        slo_unreachable=decision.slo_unreachable,
        inputs_digest=decision.inputs_digest,
        from_node_ids=[assignment.node_id for assignment in decision.before],
        to_node_ids=[assignment.node_id for assignment in decision.after],
    )
