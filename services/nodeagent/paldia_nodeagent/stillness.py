"""Whether processes get on: what can be seen of that from outside, without disturbing them.

While a model loads, work is processor time had or waited for, and bytes read or written.
While it serves, a Python stub that waits for its next batch wakes about once a second, and
one that runs batches waits between them: either way its main thread gives up its core by
itself. One that is deadlocked, asleep, stopped or in an endless loop doesn't.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_CPU_LEAST = 0.05
"""Share of a core below which processes only keep time."""
_STEP_MOST_S = 2.0
"""A longer time between two looks is the fault of who looks, or of the machine."""
_COUNTED_LEAST = 1 / 3
"""Of time spent waiting for a core, so that a hang ends on an overloaded machine, too."""
_REST_MOST_PER_S = 4.0
"""Wake-ups of a stub that only waits; it takes one, and a little more around batches."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a process and all below it have done so far.

    `cpu_s` is processor time; `waits_s`, by thread, time that it was able to run and others
    ran; `moved_bytes` what they read and wrote; `on_disk` says that one waits for a disk now.
    """

    cpu_s: float
    waits_s: Mapping[int, float]
    moved_bytes: int
    on_disk: bool = False

    @property
    def demanded_s(self) -> float:
        """Processor time had or waited for."""
        return self.cpu_s + sum(self.waits_s.values())

    def starved_s(self, before: Work) -> dict[int, float]:
        """Give how long each thread has waited since `before`."""
        return {t: waited_s - before.waits_s.get(t, 0.0) for t, waited_s in self.waits_s.items()}


class Stillness:
    """How long nothing has been done, as far as it could have been.

    Time that the machine gave to others doesn't count, but for a third of it, nor does time in
    which nobody looked.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._seen_s: float | None = None

    def see(self, now_s: float, *, moved: bool, starved_s: float = 0.0) -> float:
        """Take a look at `now_s`, seconds on one clock; give how long it is still by now."""
        since_s, self._seen_s = self._seen_s, now_s
        if moved or since_s is None:
            self.seconds = 0.0
        else:
            step_s = min(now_s - since_s, _STEP_MOST_S)
            self.seconds += max(step_s - starved_s, step_s * _COUNTED_LEAST)
        return self.seconds

    def shorten(self, seconds: float) -> None:
        """Forget all but the last `seconds`."""
        self.seconds = min(self.seconds, seconds)


class WorkWatch:
    """Watches whether any work is done at all."""

    def __init__(self) -> None:
        self._still = Stillness()
        self._last: Work | None = None
        self._seen_s = 0.0

    def see(self, now_s: float, work: Work) -> float:
        """Take a look; give the seconds in which nothing has been done."""
        last, self._last = self._last, work
        elapsed_s, self._seen_s = now_s - self._seen_s, now_s
        # Sums fall when a process ends, which is something done as well.
        moved = last is None or (
            work.on_disk
            or work.moved_bytes != last.moved_bytes
            or abs(work.demanded_s - last.demanded_s) > _CPU_LEAST * elapsed_s
        )
        return self._still.see(now_s, moved=moved)


class Gait(Enum):
    """How a lane looks from outside."""

    STILL = "still"
    AT_REST = "at rest"
    BUSY = "busy"


class Lanes:
    """Watches the stubs that are a model's lanes, by pid."""

    def __init__(self) -> None:
        self._switches: dict[int, int] = {}
        self._still: dict[int, Stillness] = {}
        self._gaits: dict[int, Gait] = {}
        self._seen_s = 0.0
        self._tick = False

    def see(
        self,
        now_s: float,
        switches: Mapping[int, int],
        starved_s: Mapping[int, float],
        *,
        answered: bool,
    ) -> None:
        """Take a look.

        Args:
            now_s: seconds on one clock.
            switches: how often each stub's main thread gave up its core by itself so far.
            starved_s: seconds since the last look that each of these threads, and maybe others,
                was able to run and others ran.
            answered: whether any request was answered since then.
        """
        elapsed_s, self._seen_s = now_s - self._seen_s, now_s
        for pid, count in switches.items():
            more = count - self._switches.get(pid, 0)
            fits = more <= _REST_MOST_PER_S * max(elapsed_s, 1.0)
            self._gaits[pid] = Gait.BUSY if not fits else Gait.AT_REST if more else Gait.STILL
            still = self._still.setdefault(pid, Stillness())
            still.see(now_s, moved=more != 0, starved_s=starved_s.get(pid, 0.0))
        for pid in self._gaits.keys() - switches.keys():
            del self._gaits[pid], self._still[pid]
        self._switches = dict(switches)
        # That stubs wake by themselves is seen before it is relied on.
        self._tick = self._tick or (not answered and self.at_rest)

    @property
    def at_rest(self) -> bool:
        """Whether every lane is seen to wait for its next batch."""
        return bool(self._gaits) and all(gait is Gait.AT_REST for gait in self._gaits.values())

    def still_s(self) -> float:
        """Give the seconds for which the stillest lane shows no life; 0 if that can't be told."""
        if not self._tick:
            return 0.0
        return max((still.seconds for still in self._still.values()), default=0.0)
