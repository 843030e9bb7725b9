"""A device that several batches share: how fast each goes on, and when it is done.

Processor sharing: of `n` batches that run together, with summed demand `F`, each progresses at
1 / S of its speed alone, S = max(1, F)(1 + eps (n - 1)), or by its model's measured curve where
it is alone with its own kind (`Profile.slowdown`). Speeds change only when a batch starts or
ends, so completion times are exact. Sans-IO: the caller says what starts and what time it is,
and comes back when the next batch is due.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush

from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile


class Tenant:
    """One model's process on one device; its batches all go on at one speed.

    That is why a single number, the work that each of its batches has got done since the
    first of them started, tells the progress of all: a batch is done when that number has
    grown by the batch's own work.
    """

    __slots__ = ("_curve", "_demand", "_heap", "_penalty", "_progress_s", "_slowdown")

    def __init__(self, profile: Profile) -> None:
        self._penalty = profile.colocation_penalty
        self._curve = profile.interference
        # (progress at which it is done, batch, its demand)
        self._heap: list[tuple[float, int, float]] = []
        self._progress_s = 0.0
        self._demand = 0.0
        self._slowdown = 1.0

    @property
    def running(self) -> int:
        """Batches of its own that run."""
        return len(self._heap)

    def measured_over_modelled(self) -> float:
        """Factor by which its own batches slow each other more than the formula says.

        Beyond the end of the measured curve the factor is that of its end.
        """
        running = len(self._heap)
        known = min(running, len(self._curve))
        demand = self._demand / running * known
        return self._curve[known - 1] / (max(1.0, demand) * (1 + self._penalty * (known - 1)))


class Device:
    """The batches that run on one device.

    Attributes:
        running: how many.
        next_completion_s: when the next of them is done if nothing changes; infinity when idle.
    """

    __slots__ = (
        "_as_of_s",
        "_demand",
        "_first",
        "_speed",
        "_tenants",
        "next_completion_s",
        "running",
    )

    def __init__(self) -> None:
        self.running = 0
        self.next_completion_s = math.inf
        self._as_of_s = -math.inf
        self._demand = 0.0
        self._speed = 1.0
        # Those with batches, in the order in which they came.
        self._tenants: list[Tenant] = []
        self._first: Tenant | None = None

    @property
    def demand(self) -> float:
        """Summed demand of what runs: the utilisation where it is up to 1."""
        return self._demand

    def start(
        self, tenant: Tenant, batch_id: int, work_s: float, demand: float, now_s: float
    ) -> None:
        """Start a batch that takes `work_s` alone and `demand` of the device meanwhile.

        Args:
            batch_id: the caller's name for it; batches that end together end in its order.
            now_s: not before any time given so far, nor after `next_completion_s`.
        """
        self._advance(now_s)
        if not tenant._heap:
            self._tenants.append(tenant)
        heappush(tenant._heap, (tenant._progress_s + work_s, batch_id, demand))
        tenant._demand += demand
        self._demand += demand
        self.running += 1
        self._foresee()

    def finish_due(self, now_s: float) -> list[int]:
        """Take the batches out that are done by `now_s`, in the order of their ends."""
        done = []
        while self.next_completion_s <= now_s and (tenant := self._first) is not None:
            self._advance(self.next_completion_s)
            heap = tenant._heap
            # The time was computed from this very number; rounding must not keep it waiting.
            tenant._progress_s = max(tenant._progress_s, heap[0][0])
            while heap and heap[0][0] <= tenant._progress_s:
                _, batch_id, demand = heappop(heap)
                done.append(batch_id)
                tenant._demand -= demand
                self._demand -= demand
                self.running -= 1
            if not heap:
                self._leave(tenant)
            self._foresee()
        return done

    def withdraw(self, tenant: Tenant, batch_id: int, now_s: float) -> None:
        """Take a batch out that isn't done; the others get on without it.

        Args:
            now_s: as for `start`.

        Raises:
            InvalidArgumentError: the tenant has no such batch.
        """
        self._advance(now_s)
        heap = tenant._heap
        found = next((entry for entry in heap if entry[1] == batch_id), None)
        if found is None:
            raise InvalidArgumentError(f"no batch {batch_id} runs here")
        heap.remove(found)
        heapify(heap)
        tenant._demand -= found[2]
        self._demand -= found[2]
        self.running -= 1
        if not heap:
            self._leave(tenant)
        self._foresee()

    def set_speed(self, factor: float, now_s: float) -> None:
        """Let everything go at `factor` of its normal speed from now on.

        Raises:
            InvalidArgumentError: the factor isn't above 0.
        """
        if not 0 < factor < math.inf:
            raise InvalidArgumentError(f"a device's speed must lie above 0, not at {factor:g}")
        self._advance(now_s)
        self._speed = factor
        self._foresee()

    def foreseen(self) -> list[tuple[float, int]]:
        """Give each batch with the time when it is done if nothing changes: (seconds, batch)."""
        return [
            (self._as_of_s + (due_s - it._progress_s) * it._slowdown / self._speed, batch_id)
            for it in self._tenants
            for due_s, batch_id, _ in it._heap
        ]

    def clear(self) -> list[int]:
        """Drop everything that runs, done or not; give what it was."""
        dropped = sorted(batch_id for tenant in self._tenants for _, batch_id, _ in tenant._heap)
        for tenant in tuple(self._tenants):
            tenant._heap.clear()
            self._leave(tenant)
        self.running = 0
        self._foresee()
        return dropped

    def _leave(self, tenant: Tenant) -> None:
        """Start its sums anew at zero, so that rounding doesn't add up over a life."""
        self._tenants.remove(tenant)
        tenant._progress_s = tenant._demand = 0.0
        if not self._tenants:
            self._demand = 0.0

    def _advance(self, now_s: float) -> None:
        elapsed_s = now_s - self._as_of_s
        if elapsed_s <= 0:
            return
        self._as_of_s = now_s
        for tenant in self._tenants:
            tenant._progress_s += elapsed_s * self._speed / tenant._slowdown

    def _foresee(self) -> None:
        """Set every tenant's speed by who runs now, and find the next batch to end."""
        soonest_s, first = math.inf, None
        running, demand = self.running, self._demand
        for tenant in self._tenants:
            slowdown = 1 + tenant._penalty * (running - 1)
            if demand > 1:
                slowdown *= demand
            if tenant._curve:
                slowdown *= tenant.measured_over_modelled()
            tenant._slowdown = slowdown
            left_s = (tenant._heap[0][0] - tenant._progress_s) * slowdown / self._speed
            if left_s < soonest_s:
                soonest_s, first = left_s, tenant
        self._first = first
        self.next_completion_s = math.inf if first is None else self._as_of_s + soonest_s
