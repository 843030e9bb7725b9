"""A virtual accelerator: who is on it, what they run, how full and how busy it is.

Sans-IO, around the core's device: the caller says what comes and what time it is, in seconds
of a clock that never goes back. A process is on the card as long as one of its instances is;
each instance runs a batch at a time.

What Triton itself takes for a batch is time that the model's figures don't know. So a batch is
answered that much before its end: the caller has the answer when the batch is done, and the next
batch comes when its lane is free. The device is busy for all of it, whoever shares it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paldia.core.device import Device, Tenant
from paldia.core.errors import InvalidArgumentError, OverloadedError
from paldia.core.profiles import Profile
from paldia.core.types import Hardware

INSTANCES_LIMIT = 256
ROWS_LIMIT = 1 << 20
EARLY_LIMIT_S = 0.1
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Process:
    """A model's process as it comes to the card.

    Attributes:
        pid: names it; all of its instances give the same.
        sm_percent: share of the SMs that it is held to, 1 to 100.
    """

    pid: int
    model: str
    profile: Profile
    sm_percent: int = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """What the card's meters show.

    Attributes:
        busy_s: seconds for which it was busy so far, part of it counting as that part.
        joules: energy it took so far.
        memory_bytes: memory in use by process id.
    """

    busy_s: float
    joules: float
    memory_bytes: dict[int, int]


@dataclass(slots=True)
class _Batch:
    """A batch on the device, to be answered `early_s` before its end.

    `answered` and not at its end, its lane may be given the next one, (rows, early_s), to wait.
    """

    demand: float
    early_s: float
    answered: bool = False
    next: tuple[int, float] | None = None


@dataclass(slots=True)
class _Resident:
    """A process on the card, with its instances."""

    process: Process
    tenant: Tenant
    instances: set[int] = field(default_factory=set)

    def watts_beyond(self, idle_watts: float, rated_watts: float) -> float:
        """Give the power that it adds while it has the whole device."""
        return max(0.0, (self.process.profile.watts or rated_watts) - idle_watts)


class Card:
    """One accelerator of a kind of hardware."""

    def __init__(self, hardware: Hardware, speed: float, now_s: float) -> None:
        """Be idle; batches run at `speed` of what their profiles say."""
        self._hardware = hardware
        self._device = Device()
        self._device.set_speed(speed, now_s)
        self._residents: dict[int, _Resident] = {}
        self._of_instance: dict[int, _Resident] = {}
        self._batches: dict[int, _Batch] = {}
        """Those that run, by instance."""
        self._done: list[int] = []
        self._metered_s = now_s
        self._busy_s = 0.0
        self._joules = 0.0

    @property
    def next_event_s(self) -> float:
        """When something happens if nobody comes; infinity when idle."""
        answers_s = (
            end_s - batch.early_s
            for end_s, instance in self._device.foreseen()
            if not (batch := self._batches[instance]).answered
        )
        return min((self._device.next_completion_s, *answers_s))

    def enter(self, instance: int, process: Process, now_s: float) -> None:
        """Let an instance of a process onto the card; the first brings the process's memory.

        Raises:
            InvalidArgumentError: it is there already, or differs from its process's others.
            OverloadedError: there is no memory left, or the card has too many instances.
        """
        self._advance(now_s)
        if instance in self._of_instance:
            raise InvalidArgumentError("this instance is on the card already")
        if len(self._of_instance) >= INSTANCES_LIMIT:
            raise OverloadedError(f"the card holds {INSTANCES_LIMIT} instances, and no more")
        if not 1 <= process.sm_percent <= 100:
            raise InvalidArgumentError(
                f"a share of the SMs lies between 1 and 100 %, not at {process.sm_percent}"
            )
        resident = self._residents.get(process.pid)
        if resident is None:
            self._check_memory(process)
            resident = _Resident(process, Tenant(process.profile))
            self._residents[process.pid] = resident
        elif resident.process != process:
            raise InvalidArgumentError(f"process {process.pid} came to the card as another before")
        resident.instances.add(instance)
        self._of_instance[instance] = resident

    def _check_memory(self, process: Process) -> None:
        """Refuse what doesn't fit, in a real card's words."""
        held = [it.process for it in self._residents.values()]
        total = self._hardware.memory_bytes
        free = total - sum(it.profile.memory_bytes for it in held)
        wanted = process.profile.memory_bytes
        if wanted > free:
            others = ", ".join(f"{it.model} {_gib(it.profile.memory_bytes)}" for it in held)
            raise OverloadedError(
                f"CUDA out of memory: {process.model} needs {_gib(wanted)}, and {_gib(free)} of "
                f"this {self._hardware.name}'s {_gib(total)} are free"
                + (f"; in use by {others}" if others else "")
            )

    def run(self, instance: int, rows: int, early_s: float, now_s: float) -> None:
        """Start an instance's next batch, to be answered `early_s` before its end.

        Raises:
            InvalidArgumentError: it isn't on the card, runs one, or a figure makes no sense.
        """
        self._advance(now_s)
        if instance not in self._of_instance:
            raise InvalidArgumentError("this instance isn't on the card")
        if not 1 <= rows <= ROWS_LIMIT:
            raise InvalidArgumentError(f"a batch has 1 to {ROWS_LIMIT} rows, not {rows}")
        if not 0 <= early_s <= EARLY_LIMIT_S:
            raise InvalidArgumentError(f"early is 0 to {EARLY_LIMIT_S:g} s, not {early_s:g}")
        running = self._batches.get(instance)
        if running is None:
            self._start(instance, rows, early_s, now_s)
        elif running.answered and running.next is None:
            running.next = rows, early_s
        else:
            raise InvalidArgumentError("an instance runs one batch at a time")
        # It may be so short that its answer is due at once.
        self._advance(now_s)

    def _start(self, instance: int, rows: int, early_s: float, now_s: float) -> None:
        resident = self._of_instance[instance]
        profile, sm_percent = resident.process.profile, resident.process.sm_percent
        demand = profile.demand_fraction(rows, sm_percent)
        self._batches[instance] = _Batch(demand, early_s)
        work_s = profile.latency_s(rows, sm_percent)
        self._device.start(resident.tenant, instance, work_s, demand, now_s)

    def take_done(self, now_s: float) -> list[int]:
        """Give the instances whose batches are to be answered by now, each once, in order."""
        self._advance(now_s)
        done, self._done = self._done, []
        return done

    def leave(self, instance: int, now_s: float) -> None:
        """Take an instance off the card, done or not; with the last goes its process's memory."""
        self._advance(now_s)
        resident = self._of_instance.pop(instance, None)
        if resident is None:
            return
        if self._batches.pop(instance, None) is not None:
            self._device.withdraw(resident.tenant, instance, now_s)
        self._done = [it for it in self._done if it != instance]
        resident.instances.discard(instance)
        if not resident.instances:
            del self._residents[resident.process.pid]

    def read(self, now_s: float) -> Reading:
        """Read the meters."""
        self._advance(now_s)
        memory = {pid: it.process.profile.memory_bytes for pid, it in self._residents.items()}
        return Reading(self._busy_s, self._joules, memory)

    def _advance(self, now_s: float) -> None:
        """Take note of all that is over by now, metering each stretch between two ends."""
        while (end_s := self._device.next_completion_s) <= now_s:
            self._answer_due(end_s)
            self._meter(end_s)
            for instance in self._device.finish_due(end_s):
                self._end(instance, end_s)
        self._answer_due(now_s)
        self._meter(now_s)

    def _end(self, instance: int, now_s: float) -> None:
        batch = self._batches.pop(instance)
        if not batch.answered:
            self._done.append(instance)
        if batch.next is not None:
            self._start(instance, *batch.next, now_s)

    def _answer_due(self, now_s: float) -> None:
        for end_s, instance in sorted(self._device.foreseen()):
            batch = self._batches[instance]
            if not batch.answered and end_s - batch.early_s <= now_s:
                batch.answered = True
                self._done.append(instance)

    def _meter(self, now_s: float) -> None:
        span_s = max(0.0, now_s - self._metered_s)
        self._metered_s += span_s
        crowd = max(1.0, self._device.demand)
        idle_watts, rated_watts = self._hardware.idle_watts, self._hardware.rated_watts
        watts = idle_watts
        for instance, batch in self._batches.items():
            resident = self._of_instance[instance]
            watts += batch.demand / crowd * resident.watts_beyond(idle_watts, rated_watts)
        self._busy_s += span_s * min(1.0, self._device.demand)
        self._joules += span_s * watts


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.2f} GiB"
