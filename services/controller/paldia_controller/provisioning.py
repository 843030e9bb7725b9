"""Has machines asked for when plans need them, and given back when nothing does.

The planner commits what changes, with the bill from that very moment; only then the provisioner is
called. Whatever ends this process in between, the calls that the store says are due are made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from paldia.api import convert
from paldia.api.v1 import types_pb2
from paldia.core.config import PolicyConfig
from paldia.core.step.stability import loss_in_doubt
from paldia.kit.clock import Clock
from paldia.kit.observability import logger
from paldia.store.base import Delete, Expect, Put
from paldia_controller.encoding import plan_from_proto
from paldia_controller.observer import Observer
from paldia_controller.provisioner import Provisioner, ProvisionError
from paldia_controller.provisions import (
    ACTIVATION_FACTOR,
    Phase,
    Provision,
    Sight,
    advanced,
    answered,
    provision_to_proto,
)
from paldia_controller.state import State

CALLS_LIMIT = 8
"""Calls of the provisioner at once."""
CHANGES_LIMIT = 64
"""Machines that change in one commit; the others' turn comes with the next."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what.

    Attributes:
        call_s: seconds that one call of the provisioner may take.
        slack_s: seconds that a machine may take to come, besides the time of its kind.
        unused_s: seconds that a machine is kept although nothing needs it.
    """

    call_s: float
    slack_s: float
    unused_s: float


@dataclass(slots=True)
class _Call:
    """A call under way, for what was remembered when it began."""

    provision: Provision
    hardware: types_pb2.Hardware
    task: asyncio.Task[None] = field(init=False)
    failure: str | None = None
    """Why it failed, empty if it didn't; None while it is under way."""


class Provisioning:
    """Drives the machines of the fleet."""

    def __init__(
        self,
        provisioner: Provisioner,
        state: State,
        observer: Observer,
        *,
        patience: Patience,
        config: PolicyConfig,
        clock: Clock,
    ) -> None:
        self._provisioner = provisioner
        self._fleet = observer.fleet
        self._state = state
        self._observer = observer
        self._patience = patience
        self._config = config
        self._clock = clock
        self._calls: dict[str, _Call] = {}

    def restore(self) -> None:
        """Take up what a controller before this one left; without a fleet, say what it left."""
        left = sorted(self._state.provisions.rows)
        if left and not self._fleet.listed:
            logger().warning(
                "machines.left",
                nodes=left,
                reason="a controller with --provisioner command asked for them; start it so again "
                "to have them given back, or see to it yourself",
            )

    def changes(self, now_s: float) -> dict[str, Provision]:
        """Give what is to be remembered of machines from `now_s` on, UTC seconds, if it changes."""
        ids = sorted(self._fleet.ids)
        if not ids:
            return {}
        in_doubt = any(map(self._is_silent, ids)) and self._losses_are_in_doubt()
        occupied = self._observer.occupied_nodes()
        changed: dict[str, Provision] = {}
        for node_id in ids:
            before = self._fleet.provision(node_id) or Provision()
            call = self._calls.get(node_id)
            provision = before
            if call is not None and call.failure is not None and _is_same(call.provision, before):
                provision = answered(before, call.failure, now_s)
            after = advanced(
                provision,
                self._sight(node_id, node_id in occupied, in_doubt=in_doubt),
                now_s,
                limit_s=self._activation_limit_s(node_id),
                release_after_s=self._patience.unused_s,
            )
            if after != before and len(changed) < CHANGES_LIMIT:
                changed[node_id] = after
        return changed

    def writes(self, changes: Mapping[str, Provision]) -> tuple[list[Put | Delete], list[Expect]]:
        """Give the writes that make changes last, and the conditions under which they hold."""
        table = self._state.provisions
        writes: list[Put | Delete] = []
        for node_id, provision in changes.items():
            hardware = self._fleet.hardware(node_id)
            if provision == Provision() or hardware is None:
                writes.append(table.delete(node_id))
            else:
                writes.append(table.put(node_id, provision_to_proto(provision, hardware)))
        return writes, [table.unchanged(node_id) for node_id in changes]

    def committed(self, before: Mapping[str, Provision], changes: Mapping[str, Provision]) -> None:
        """Note that changes last; `before` is what was remembered then."""
        for node_id, after in changes.items():
            was = before.get(node_id, Provision())
            call = self._calls.get(node_id)
            if call is not None and call.failure is not None:
                del self._calls[node_id]
            if after.phase is not was.phase:
                logger().info("machine." + after.phase.value, node=node_id, reason=after.reason)
            elif after.reason and after.reason != was.reason:
                logger().warning("machine.trouble", node=node_id, reason=after.reason)
            given_back = after.done_s is not None and was.done_s is None
            if after.phase is Phase.PARKED or (after.phase is Phase.RELEASING and given_back):
                # What was said before must not pass for what is; who is there connects anew.
                self._observer.agent_forgotten(node_id)

    def carry_out(self) -> None:
        """Begin the calls that are due, and end those that no longer are."""
        provisions, now_s = self._fleet.provisions, self._clock.wall_s()
        for node_id, call in list(self._calls.items()):
            if not _is_same(call.provision, provisions.get(node_id, Provision())):
                call.task.cancel()
                del self._calls[node_id]
        for node_id, provision in provisions.items():
            under_way = sum(call.failure is None for call in self._calls.values())
            if under_way >= CALLS_LIMIT:
                return
            hardware = self._fleet.hardware(node_id)
            if hardware and node_id not in self._calls and provision.call_is_due(now_s):
                call = self._calls[node_id] = _Call(provision, hardware)
                call.task = asyncio.create_task(self._make(node_id, call))

    async def close(self) -> None:
        """End the calls under way; they are made anew after the next start."""
        tasks = [call.task for call in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, node_id: str, call: _Call) -> None:
        asks = call.provision.phase is Phase.ACTIVATING
        ask = self._provisioner.activate if asks else self._provisioner.release
        try:
            await ask(node_id, call.hardware, self._patience.call_s)
            call.failure = ""
        except ProvisionError as error:
            call.failure = str(error)
        except Exception as error:
            # However it went wrong, it counts as made, or it would be made at once again.
            logger().exception("provisioner.failed", node=node_id)
            call.failure = f"the provisioner broke: {error!r}"
        self._observer.changed.fire()

    def _sight(self, node_id: str, is_occupied: bool, *, in_doubt: bool) -> Sight:
        session = self._observer.agents.get(node_id)
        here = self._observer.is_here(node_id)
        holds = here and session is not None and bool(session.report.deployments)
        return Sight(
            listed=not self._fleet.is_leaving(node_id),
            needed=is_occupied or holds,
            here=here,
            silent_s=self._observer.silent_s(node_id),
            in_doubt=in_doubt,
        )

    def _is_silent(self, node_id: str) -> bool:
        limit_s = self._activation_limit_s(node_id)
        is_expected = self._fleet.is_expected(node_id)
        return is_expected and self._observer.silent_s(node_id) > limit_s

    def _losses_are_in_doubt(self) -> bool:
        plans = [plan_from_proto(record.message) for record in self._state.plans.rows.values()]
        nodes = {node.node_id: node for node in self._observer.nodes()}
        return bool(loss_in_doubt(plans, nodes, self._config))

    def _activation_limit_s(self, node_id: str) -> float:
        hardware = self._fleet.hardware(node_id)
        activation_s = convert.seconds(hardware.activation) if hardware else 0.0
        return ACTIVATION_FACTOR * activation_s + self._patience.slack_s


def _is_same(one: Provision, other: Provision) -> bool:
    """Whether a call for the one is a call for the other."""

    def key(provision: Provision) -> tuple[Phase, float, int, bool]:
        done = provision.done_s is not None
        return provision.phase, provision.since_s, provision.tries, done

    return key(one) == key(other)
