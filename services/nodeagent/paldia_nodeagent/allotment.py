"""What the controller wants of a node: deployments, and what each has of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from paldia.api import convert
from paldia.api.v1 import agent_pb2
from paldia.kit.observability import logger

DEPLOYMENTS_LIMIT = 256


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What names a deployment: an update runs beside what it replaces."""

    model: str
    digest: str


@dataclass(frozen=True, slots=True)
class Allotment:
    """What a deployment has of its node.

    Attributes:
        lanes: batches that may run at once; 0 for a deployment that is to go.
        sm_percent: share of a GPU's streaming multiprocessors that it is held to.
    """

    lanes: int
    sm_percent: int = 100


NOTHING = Allotment(0)


def allotments(response: agent_pb2.ConnectAgentResponse) -> dict[Key, Allotment]:
    """Read what the controller wants by deployment, bounded in number, each at least a lane."""
    listed = response.deployments[:DEPLOYMENTS_LIMIT]
    if len(response.deployments) > len(listed):
        logger().error("desired.cut", wanted=len(response.deployments), limit=DEPLOYMENTS_LIMIT)
    return {
        Key(item.model, item.artifact_digest): Allotment(
            max(1, item.lanes), convert.sm_percent_from_proto(item.sm_percent)
        )
        for item in listed
    }
