"""Plans, and what the planner remembers, as they are stored."""

from __future__ import annotations

from collections.abc import Iterable

from paldia.api import convert
from paldia.api.v1 import state_pb2
from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.forecast.base import Forecaster
from paldia.core.forecast.choice import DEFAULT, forecaster_named
from paldia.core.forecast.recurrence import Recurrence
from paldia.core.ledger import FORMER_MODELS, Energy, Ledger
from paldia.core.observation import Memory, ModelMemory, ModelPlan


def memory_to_proto(model: str, kept: ModelMemory) -> state_pb2.StoredMemory:
    """Encode what is remembered of a model."""
    return state_pb2.StoredMemory(
        model=model,
        requests_per_second=kept.rate.requests_per_second,
        dispersion=kept.rate.dispersion,
        forecaster=kept.rate.name,
        forecast=kept.rate.state(),
        recurrence=kept.recurrence.state(),
        saving_since=(
            None if kept.saving_since_s is None else convert.timestamp(kept.saving_since_s)
        ),
        last_used=convert.timestamp(kept.last_used_s),
        avoid={node_id: convert.timestamp(until_s) for node_id, until_s in kept.avoid},
    )


def _forecaster(kept: state_pb2.StoredMemory) -> Forecaster:
    """Decode a forecast; one by a forecaster that isn't known here starts anew."""
    try:
        return forecaster_named(kept.forecaster).from_state(kept.forecast)
    except (NotFoundError, InvalidArgumentError):
        return DEFAULT()


def _recurrence(kept: state_pb2.StoredMemory) -> Recurrence:
    try:
        return Recurrence.from_state(kept.recurrence)
    except InvalidArgumentError:
        return Recurrence()


def memory_from_proto(stored: Iterable[state_pb2.StoredMemory]) -> Memory:
    """Decode what is remembered of each model."""
    return {
        kept.model: ModelMemory(
            rate=_forecaster(kept),
            recurrence=_recurrence(kept),
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
        model_usd=ledger.model_usd,
        idle_usd=ledger.idle_usd,
        energy={
            node: state_pb2.StoredEnergy(
                measured_joules=energy.measured_j, estimated_joules=energy.estimated_j
            )
            for node, energy in ledger.energy.items()
        },
    )


def ledger_from_proto(stored: state_pb2.StoredLedger) -> Ledger:
    """Decode the bill; what was charged before models were told apart is of former ones."""
    model_usd = dict(stored.model_usd)
    if not model_usd and not stored.idle_usd and stored.cost_usd:
        model_usd = {FORMER_MODELS: sum(stored.cost_usd.values())}
    return Ledger(
        convert.wall_s(stored.accounted_until),
        cost_usd=dict(stored.cost_usd),
        running=dict(stored.running),
        model_usd=model_usd,
        idle_usd=stored.idle_usd,
        energy={
            node: Energy(energy.measured_joules, energy.estimated_joules)
            for node, energy in stored.energy.items()
        },
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
