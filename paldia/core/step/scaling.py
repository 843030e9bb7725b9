"""When a model is held ready at all: keep-alive, scale to zero, and warming up ahead."""

from __future__ import annotations

from paldia.core.observation import ModelMemory, ModelView


def last_used_s(view: ModelView, memory: ModelMemory, now_s: float, horizon_s: float) -> float:
    """When a request was last seen, in seconds of the observation's clock; now if one is due.

    One is due if in past hours requests began to come in a minute that the next `horizon_s`
    seconds touch: an unloaded model has to be ready by then. Those who stopped for good are
    not waited for, for nothing began there.
    """
    demand = view.demand
    in_use = demand.arrivals > 0 or demand.backlog > 0 or demand.in_flight > 0
    due = memory.recurrence.begins(now_s, now_s + horizon_s, view.model.keep_alive_s)
    return now_s if in_use or due else memory.last_used_s


def wanted(view: ModelView, memory: ModelMemory, now_s: float) -> bool:
    """Whether the model should be loaded somewhere."""
    return view.model.min_replicas > 0 or now_s - memory.last_used_s <= view.model.keep_alive_s
