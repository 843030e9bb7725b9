"""A world that does as the planner says: what was planned is ready at the next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.planner import inside
from bench.planner.instances import Instance
from paldia.core import engine
from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    DemandView,
    DeploymentState,
    DeploymentView,
    Memory,
    ModelView,
    NodeView,
    Observation,
    Plan,
)
from paldia.core.types import Hardware, NodeState

START_S = 1_000_000.0
_READY = DeploymentView(DeploymentState.READY)
_DIGITS = 9


@dataclass
class World:
    """An instance, the planner's plan for it, and a clock.

    Attributes:
        foreseen: the planner knows that the demand stays as it is, and holds nothing more ready
            for what chance may add; else it has to expect that.
        rates: requests per second by model.
    """

    instance: Instance
    config: PolicyConfig
    foreseen: bool
    now_s: float = START_S
    plan: Plan = field(default_factory=dict)
    memory: Memory = field(init=False)
    rates: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        cases = self.instance.cases
        self.memory = {case.model.name: inside.settled_memory(case, self.now_s) for case in cases}
        self.rates = {case.model.name: case.requests_per_second for case in cases}

    def observation(self, rates: Mapping[str, float], interval_s: float) -> Observation:
        """Give what the planner sees now; `rates` over `interval_s` seconds are news to it.

        With an interval of 0 s models count as in use, and their demand as already known.
        """
        deployments: dict[str, dict[tuple[str, str], DeploymentView]] = {}
        for name, model_plan in self.plan.items():
            for spot in model_plan.assignments:
                deployments.setdefault(spot.node_id, {})[name, spot.artifact_digest] = _READY
        return Observation(
            self.now_s,
            tuple(
                ModelView(
                    case.model,
                    DemandView(
                        rates[case.model.name] * (interval_s or 1.0),
                        interval_s,
                        future_requests_per_second=(
                            rates[case.model.name] if self.foreseen else None
                        ),
                    ),
                    case.profiles,
                )
                for case in self.instance.cases
            ),
            tuple(
                _node(node_id, kind, deployments.get(node_id, {}))
                for node_id, kind in self.instance.nodes.items()
            ),
            self.plan,
        )

    def obey(self, step: engine.Step) -> None:
        """Do as a step says; a second goes by."""
        self.plan, self.memory = step.plan, step.memory
        self.now_s += 1

    def settle(self, quiet_s: int, limit_s: int) -> int:
        """Step until nothing has changed for `quiet_s` seconds.

        Gives:
            the seconds until the last change, or `limit_s` if there was no end to it.
        """
        last_change_s = 0
        for elapsed_s in range(1, limit_s + 1):
            before = self.plan
            self.obey(engine.step(self.observation(self.rates, 0.0), self.memory, self.config))
            if self.plan != before or inside.has_pending_savings(self.memory):
                last_change_s = elapsed_s
            if elapsed_s - last_change_s >= quiet_s:
                return last_change_s
        return limit_s

    def cost_usd_per_hour(self) -> float:
        """Price of all nodes that hold something."""
        return price_usd_per_hour(
            self.instance.nodes[node_id]
            for node_id in {
                spot.node_id for model_plan in self.plan.values() for spot in model_plan.assignments
            }
        )


def price_usd_per_hour(nodes: Iterable[Hardware]) -> float:
    """Give the price of nodes together, rid of what adding floats leaves behind."""
    return round(sum(node.price_usd_per_hour for node in nodes), _DIGITS)


def _node(node_id: str, kind: Hardware, held: Mapping[tuple[str, str], DeploymentView]) -> NodeView:
    return NodeView(node_id, kind, NodeState.ACTIVE if held else NodeState.PARKED, held)
