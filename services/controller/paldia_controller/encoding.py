"""Plans, and what the planner remembers, as they are stored."""

from __future__ import annotations

from collections.abc import Iterable

from paldia.api import convert
from paldia.api.v1 import state_pb2
from paldia.core.forecast import RateEstimate
from paldia.core.ledger import Ledger
from paldia.core.observation import Memory, ModelMemory, ModelPlan


def memory_to_proto(memory: Memory) -> list[state_pb2.StoredMemory]:
    """Encode what is remembered of each model."""
    return [
        state_pb2.StoredMemory(
            model=name,
            requests_per_second=kept.rate.requests_per_second,
            dispersion=kept.rate.dispersion,
            seen_seconds=kept.rate.seen_s,
            last_requests_per_second=kept.rate.last_rate,
            last_interval_seconds=kept.rate.last_interval_s,
            saving_since=(
                None if kept.saving_since_s is None else convert.timestamp(kept.saving_since_s)
            ),
            last_used=convert.timestamp(kept.last_used_s),
            avoid={node_id: convert.timestamp(until_s) for node_id, until_s in kept.avoid},
        )
        for name, kept in sorted(memory.items())
    ]


def memory_from_proto(stored: Iterable[state_pb2.StoredMemory]) -> Memory:
    """Decode what is remembered of each model."""
    return {
        kept.model: ModelMemory(
            rate=RateEstimate(
                kept.requests_per_second,
                kept.dispersion,
                kept.seen_seconds,
                kept.last_requests_per_second,
                kept.last_interval_seconds,
            ),
            saving_since_s=(
                convert.wall_s(kept.saving_since) if kept.HasField("saving_since") else None
            ),
            last_used_s=convert.wall_s(kept.last_used),
            avoid=tuple(sorted((n, convert.wall_s(until)) for n, until in kept.avoid.items())),
        )
        for kept in stored
    }


def ledger_to_proto(ledger: Ledger) -> state_pb2.StoredLedger:
    """Encode the bill."""
    return state_pb2.StoredLedger(
        accounted_until=convert.timestamp(ledger.accounted_until_s),
        cost_usd=ledger.cost_usd,
        running=ledger.running,
    )


def ledger_from_proto(stored: state_pb2.StoredLedger) -> Ledger:
    """Decode the bill."""
    return Ledger(
        convert.wall_s(stored.accounted_until), dict(stored.cost_usd), dict(stored.running)
    )


def plan_to_proto(plan: ModelPlan) -> state_pb2.StoredPlan:
    """Encode a plan."""
    return state_pb2.StoredPlan(
        model=plan.model,
        generation=plan.generation,
        target=[convert.assignment_to_proto(assignment) for assignment in plan.target],
        retiring=[convert.assignment_to_proto(assignment) for assignment in plan.retiring],
        slo_unreachable=plan.slo_unreachable,
        since=convert.timestamp(plan.since_s),
    )


def plan_from_proto(stored: state_pb2.StoredPlan) -> ModelPlan:
    """Decode a plan."""
    return ModelPlan(
        model=stored.model,
        generation=stored.generation,
        target=tuple(map(convert.assignment_from_proto, stored.target)),
        retiring=tuple(map(convert.assignment_from_proto, stored.retiring)),
        slo_unreachable=stored.slo_unreachable,
        since_s=convert.wall_s(stored.since),
    )
