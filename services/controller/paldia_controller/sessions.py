"""Who is connected: agents and frontends, as they introduced themselves and last reported."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from paldia.api import convert
from paldia.api.v1 import agent_pb2, routing_pb2
from paldia.core.errors import InvalidArgumentError
from paldia.core.types import NAME_LIMIT


@dataclass
class AgentSession:
    """A node as its agent last reported it."""

    info: agent_pb2.NodeInfo
    last_report_s: float
    report: agent_pb2.NodeReport = field(default_factory=agent_pb2.NodeReport)
    reported_wall_s: float = 0.0
    connected: bool = True
    heard: bool = False
    """Whether it has said how it is, not only who."""


@dataclass
class FrontendSession:
    """A connected frontend."""

    info: routing_pb2.FrontendInfo


def check_info(info: agent_pb2.NodeInfo) -> None:
    """Check what an agent says of its node.

    Raises:
        InvalidArgumentError: it doesn't say who it is, or its figures make no sense.
    """
    hardware = info.hardware
    for name in (info.node_id, hardware.name):
        if not 0 < len(name) <= NAME_LIMIT or "/" in name:
            raise InvalidArgumentError(
                f"{name[:NAME_LIMIT]!r} is no name for a node or its hardware; use 1 to "
                f"{NAME_LIMIT} characters without '/'"
            )
    for figure, unit, value in (
        ("price", "USD/h", hardware.price_usd_per_hour),
        ("activation time", "s", convert.seconds(hardware.activation)),
        ("idle power", "W", hardware.idle_watts),
        ("rated power", "W", hardware.rated_watts),
    ):
        if not 0 <= value < math.inf:
            raise InvalidArgumentError(f"a node's {figure} must be 0 {unit} or more, not {value:g}")
