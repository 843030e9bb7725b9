"""The machines that can be had: what the file says of them, and how it stands with each.

A node of the fleet is known before its agent is, so that plans can count on it. What its agent
says counts only while it is active: what is left of an earlier life must not pass for the present.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from paldia.api.v1 import agent_pb2, types_pb2
from paldia.api.v1.state_pb2 import PROVISION_PHASE_PARKED
from paldia.core.errors import InvalidArgumentError
from paldia.core.types import NodeState
from paldia_controller.provisions import Phase, Provision, provision_from_proto
from paldia_controller.state import State

_AWAY = {
    Phase.PARKED: NodeState.PARKED,
    Phase.ACTIVATING: NodeState.ACTIVATING,
    Phase.RELEASING: NodeState.DRAINING,
}


class Fleet:
    """The nodes whose machines are asked for when they are needed.

    Without any that are listed there is no fleet, whatever the store remembers of one.
    """

    def __init__(self, state: State, listed: Mapping[str, types_pb2.Hardware]) -> None:
        self._state = state
        self.listed = listed

    @property
    def ids(self) -> set[str]:
        """All its nodes; those that are no longer listed, until they have been given back."""
        return {*self.listed, *self._state.provisions.rows} if self.listed else set()

    @property
    def provisions(self) -> dict[str, Provision]:
        """What is remembered, by node; nothing of those that are parked and never failed."""
        if not self.listed:
            return {}
        rows = sorted(self._state.provisions.rows.items())
        return {node_id: provision_from_proto(record.message) for node_id, record in rows}

    def provision(self, node_id: str) -> Provision | None:
        """How it stands with a node's machine; None if the node isn't of the fleet."""
        stored = self._state.provisions.get(node_id) if self.listed else None
        if stored is not None:
            return provision_from_proto(stored)
        return Provision() if node_id in self.listed else None

    def hardware(self, node_id: str) -> types_pb2.Hardware | None:
        """Give the figures of a node of the fleet: those it was asked for with, once it was."""
        stored = self._state.provisions.get(node_id) if self.listed else None
        listed = self.listed.get(node_id)
        if stored is not None and (listed is None or stored.phase != PROVISION_PHASE_PARKED):
            return stored.hardware
        return listed

    def check(self, info: agent_pb2.NodeInfo) -> None:
        """Check that an agent is on the kind of machine that its node is said to be.

        Raises:
            InvalidArgumentError: it isn't.
        """
        hardware = self.hardware(info.node_id)
        if hardware is not None and hardware.name != info.hardware.name:
            raise InvalidArgumentError(
                f"node {info.node_id!r} is {hardware.name!r} in the fleet's file, not "
                f"{info.hardware.name!r}; start its agent with --hardware {hardware.name}"
            )

    def is_expected(self, node_id: str) -> bool:
        """Whether an agent should be heard of: not where there is no machine yet."""
        provision = self.provision(node_id)
        return provision is None or provision.phase is Phase.ACTIVE

    def is_leaving(self, node_id: str) -> bool:
        """Whether a node of the fleet is no longer listed, or as another kind of machine."""
        hardware, listed = self.hardware(node_id), self.listed.get(node_id)
        return hardware is not None and (listed is None or listed.name != hardware.name)

    def away(self, node_id: str) -> NodeState | None:
        """Give the state of a node whose machine isn't there; None if its agent's word counts."""
        provision = self.provision(node_id)
        return None if provision is None else _AWAY.get(provision.phase)

    def problem(self, node_id: str, now_s: float) -> str:
        """Say why a node can't be counted on at a time, in UTC seconds; empty if it can."""
        provision = self.provision(node_id)
        if provision is None:
            return ""
        if provision.phase is Phase.RELEASING:
            return "is being given back" + (f": {provision.reason}" if provision.reason else "")
        if provision.phase is Phase.PARKED and now_s < provision.avoid_until_s:
            until = datetime.fromtimestamp(provision.avoid_until_s, UTC)
            return f"{provision.reason}; left alone until {until:%H:%M:%S} UTC"
        return ""

    def note(self, node_id: str, now_s: float) -> str:
        """Say what whoever runs the fleet should know of a node; empty if nothing."""
        provision = self.provision(node_id)
        if provision is not None and provision.phase is Phase.ACTIVATING:
            return provision.reason
        return self.problem(node_id, now_s)

    def merged(self, node_id: str, told: types_pb2.Hardware) -> types_pb2.Hardware:
        """Give what an agent tells of its machine, with what only the fleet's file knows of it."""
        known = self.hardware(node_id)
        if known is None:
            return told
        hardware = types_pb2.Hardware()
        hardware.CopyFrom(told)
        hardware.price_usd_per_hour = known.price_usd_per_hour
        hardware.activation.CopyFrom(known.activation)
        hardware.idle_watts, hardware.rated_watts = known.idle_watts, known.rated_watts
        return hardware

    def prices(self, changes: Mapping[str, Provision]) -> dict[str, float]:
        """Give the price in dollars per hour of each machine that is paid for, after `changes`."""
        paid = {}
        for node_id, provision in sorted((self.provisions | dict(changes)).items()):
            hardware = self.hardware(node_id)
            if provision.is_paid and hardware is not None:
                paid[node_id] = hardware.price_usd_per_hour
        return paid
