"""Steps of a planner with everything in them: moves, a failed start, a lost node, counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from paldia.api.recording import Recording
from paldia.core import engine
from paldia.core.baselines import PALDIA
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
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, NodeState, Slo

SLOW = Hardware("slow", 0.04, 4 << 30)
FAST = Hardware("fast", 0.10, 4 << 30, gpus=1, sm_shares=True, activation_s=1.5)
PROFILES = {
    "slow": Profile(((1, 0.020), (2, 0.040)), 3.0, 100 << 20),
    "fast": Profile(((1, 0.010), (2, 0.020)), 3.0, 100 << 20, sm_share=((1, 0.4), (2, 0.5))),
    "odd": None,
}
START_S = 1_790_000_000.1239
"""Not a whole number of milliseconds, and nearer to the next."""


@dataclass
class Planner:
    """Decides each second, for agents that do as told unless a test says otherwise."""

    nodes: dict[str, Hardware] = field(default_factory=lambda: {"s0": SLOW, "s1": SLOW, "f0": FAST})
    models: tuple[Model, ...] = (
        Model("m", "a" * 64, Slo(0.1)),
        Model("idle", "b" * 64, Slo(0.1), min_replicas=0, keep_alive_s=2.0),
    )
    config: PolicyConfig = field(
        default_factory=lambda: PolicyConfig(backlog_limit_s=4.0, review_s=3.0)
    )
    states: dict[str, NodeState] = field(default_factory=dict)
    running: dict[str, dict[tuple[str, str], DeploymentView]] = field(default_factory=dict)
    now_s: float = START_S
    plan: Plan = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)

    def step(self, rates: Mapping[str, float], *, backlog: int = 0, obey: bool = True) -> Recording:
        self.now_s += 1.0
        observation = Observation(
            self.now_s,
            tuple(
                ModelView(model, DemandView(rates.get(model.name, 0.0), 1.0, backlog), PROFILES)
                for model in self.models
            ),
            tuple(map(self._node, self.nodes)),
            self.plan,
        )
        outcome = engine.step(observation, self.memory, self.config)
        made = Recording(observation, self.memory, self.config, PALDIA.name, outcome)
        self.plan, self.memory = outcome.plan, outcome.memory
        if obey:
            self.running = {node_id: {} for node_id in self.nodes}
            for name, plan in self.plan.items():
                for place in plan.assignments:
                    held = self.running[place.node_id]
                    held[name, place.artifact_digest] = DeploymentView(DeploymentState.READY)
        return made

    def fail(self, model: str) -> None:
        """Let every place of a model fail."""
        for held in self.running.values():
            for key in held:
                if key[0] == model:
                    held[key] = DeploymentView(DeploymentState.FAILED, "out of memory")

    def _node(self, node_id: str) -> NodeView:
        held = self.running.get(node_id, {})
        state = NodeState.ACTIVE if held else NodeState.PARKED
        return NodeView(
            node_id, self.nodes[node_id], self.states.get(node_id, state), held, problem=""
        )


@cache
def eventful() -> tuple[Recording, ...]:
    """Give the steps of a minute in which all that counts seconds has to."""
    planner = Planner()
    planner.states |= {"s0": NodeState.DRAINING, "s1": NodeState.DRAINING}
    made = [planner.step({"m": 10}) for _ in range(4)]
    planner.states.clear()
    made += [planner.step({"m": 10}) for _ in range(12)]
    made += [planner.step({"m": 45 + second % 7}, obey=second > 3) for second in range(10)]
    made += [planner.step({"m": 2}) for _ in range(12)]
    planner.fail("m")
    made += [planner.step({"m": 12}, obey=second > 2) for second in range(6)]
    made += [planner.step({"m": 12, "idle": 3}, backlog=4) for _ in range(8)]
    planner.states["s0"] = NodeState.LOST
    made += [planner.step({"m": 12}) for _ in range(4)]
    planner.states |= {"s1": NodeState.LOST, "f0": NodeState.LOST}
    made += [planner.step({"m": 12}) for _ in range(2)]
    return tuple(made)
