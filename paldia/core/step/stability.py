"""When nothing needs deciding, and when what is seen is not to be believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paldia.core.config import PolicyConfig
from paldia.core.observation import (
    DeploymentState,
    ModelMemory,
    ModelPlan,
    ModelView,
    NodeView,
    state_of,
)
from paldia.core.placement.occupancy import demand_of
from paldia.core.types import NodeState

_REVIEW_SPREAD = 16
"""Parts of the review interval that models are spread over, so that they aren't due at once."""


def is_settled(
    plan: ModelPlan,
    view: ModelView,
    memory: ModelMemory,
    nodes: Mapping[str, NodeView],
    config: PolicyConfig,
    *,
    now_s: float,
    rank: int,
) -> bool:
    """Whether a model serves, as planned, a demand like the one it was last judged for.

    `rank` is its place among all models; it spreads the reviews over time.
    """
    part = rank % _REVIEW_SPREAD / _REVIEW_SPREAD
    if now_s - memory.judged_s >= config.review_s * (1 - part / 2):
        return False
    if memory.saving_since_s is not None or plan.retiring or memory.backlog:
        return False
    if plan.generation != view.model.generation or memory.last_used_s < now_s:
        return False
    # A node for a replica that is missing may come at any time.
    if len(plan.target) < view.model.min_replicas:
        return False
    rate = demand_of(view, memory, 1).requests_per_second
    if abs(rate - memory.judged_rate) > config.settled_band * memory.judged_rate:
        return False
    return all(
        a.artifact_digest == view.model.artifact_digest
        and (node := nodes.get(a.node_id)) is not None
        and node.usable
        and state_of(node, plan.model, a) is DeploymentState.READY
        for a in plan.target
    )


def is_lost(node_id: str, nodes: Mapping[str, NodeView]) -> bool:
    """Whether a node is out of sight."""
    node = nodes.get(node_id)
    return node is None or node.state is NodeState.LOST


def loss_in_doubt(
    plans: Iterable[ModelPlan], nodes: Mapping[str, NodeView], config: PolicyConfig
) -> str:
    """Say why lost nodes are not given up: too many of those in use would be gone at once.

    A single node is always believed to be lost.
    """
    in_use = sorted({a.node_id for plan in plans for a in plan.target})
    lost = [node_id for node_id in in_use if is_lost(node_id, nodes)]
    if len(lost) <= max(1.0, config.lost_share_limit * len(in_use)):
        return ""
    return (
        f"{len(lost)} of {len(in_use)} nodes in use seem lost, more than "
        f"{config.lost_share_limit:.0%}: rather out of sight than gone; nothing is moved off them"
    )
