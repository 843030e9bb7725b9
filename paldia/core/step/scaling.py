"""When a model is held ready at all: keep-alive and scale to zero."""

from __future__ import annotations

from paldia.core.observation import ModelMemory, ModelView


def last_used_s(view: ModelView, memory: ModelMemory, now_s: float) -> float:
    """When a request was last seen, in seconds of the observation's clock."""
    demand = view.demand
    in_use = demand.arrivals > 0 or demand.backlog > 0 or demand.in_flight > 0
    return now_s if in_use else memory.last_used_s


def wanted(view: ModelView, memory: ModelMemory, now_s: float) -> bool:
    """Whether the model should be loaded somewhere."""
    return view.model.min_replicas > 0 or now_s - memory.last_used_s <= view.model.keep_alive_s
