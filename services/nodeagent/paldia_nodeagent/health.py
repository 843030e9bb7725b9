"""Whether a serving Triton gets on: a hang is told from a long batch by time alone.

It is hung once one of these has lasted longer than its patience: a lane whose process shows
no life, or a request of our own that isn't answered while no other is. Patience is
`stall_s`, or longer where what the model is known to take explains more: several times its
longest mean batch, or twice a batch of 1 for each item of its largest. A model with lanes that are
seen to wait for work isn't asked anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import grpc

from paldia.core.errors import UnavailableError
from paldia_nodeagent import processes
from paldia_nodeagent.admin import TritonAdmin
from paldia_nodeagent.stillness import Lanes, Stillness

_CHECKED_EVERY_S = 1.0
_SILENCES_MOST = 2
_TIMES_LONGEST = 5.0
"""Others on the device slow a batch down, too."""
_TIMES_RECKONED = 2.0
"""An item of a large batch hardly takes more than one alone."""
_PROBE_SHARE = 0.05
"""Of a lane's time, for asking a model that nobody else asks."""
_PROBE_LIMIT_S = 3600.0


class HungError(UnavailableError):
    """It doesn't get on, and didn't for longer than anything known of it explains."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model has answered so far: how many requests, and its longest mean batch."""

    count: int
    longest_s: float
    largest: int


def read_statistics(statistics: Any) -> Answers:
    """Read the answer to a ModelStatistics call."""
    count, longest_s, largest = 0, 0.0, 0
    for model in statistics.model_stats:
        count += model.inference_stats.success.count + model.inference_stats.fail.count
        for batch in model.batch_stats:
            if batch.compute_infer.count:
                longest_s = max(longest_s, batch.compute_infer.ns / batch.compute_infer.count / 1e9)
                largest = max(largest, batch.batch_size)
    return Answers(count, longest_s, largest)


def patience_s(stall_s: float, answers: Answers, single_s: float, largest: int) -> float:
    """Give how long a model may show no life.

    Args:
        stall_s: seconds granted to each.
        answers: what it has answered so far.
        single_s: seconds that a batch of 1 took; 0 if unknown.
        largest: the largest batch that it takes.
    """
    unseen_s = single_s * max(largest, 1) if answers.largest < largest else 0.0
    return max(stall_s, _TIMES_LONGEST * answers.longest_s, _TIMES_RECKONED * unseen_s)


class Health:
    """Watches one Triton that serves."""

    def __init__(
        self,
        admin: TritonAdmin,
        pid: int,
        model: str,
        probe: Any,
        *,
        largest: int,
        single_s: float,
        stall_s: float,
    ) -> None:
        """Watch `model` in process `pid`.

        Args:
            admin: calls to its server.
            pid: the server's process.
            model: the model's name there.
            probe: a request to ask it with; None if none can be made.
            largest: the largest batch that it takes.
            single_s: seconds that a batch of 1 took; 0 if unknown.
            stall_s: seconds that any model may show no life.
        """
        self._admin, self._pid, self._model, self._probe = admin, pid, model, probe
        self._largest, self._single_s, self._stall_s = largest, single_s, stall_s
        self._silences = 0
        self._answers = Answers(-1, 0.0, 0)
        self._work = processes.work(pid)
        self._lanes = Lanes()
        self._quiet = Stillness()
        self._asked: asyncio.Task[None] | None = None
        self._asked_s = 0.0
        self._ask_after_s = 0.0

    async def check(self, stubs: list[int]) -> bool:
        """Look once, about once a second; give whether all is as it should be.

        Args:
            stubs: the processes that are its lanes, where it has such.

        Raises:
            UnavailableError: the server doesn't answer.
            HungError: the model hangs.
        """
        statistics = await self._admin.statistics(self._model)
        # Once may be the machine's fault: a paused one wakes up past every deadline.
        self._silences = self._silences + 1 if statistics is None else 0
        if self._silences >= _SILENCES_MOST:
            raise UnavailableError("Triton doesn't answer that it is ready")
        if statistics is None:
            return False
        now_s = time.monotonic()
        before, self._answers = self._answers, read_statistics(statistics)
        answered = self._answers.count != before.count or self._take_answer(now_s)
        last, self._work = self._work, processes.work(self._pid)
        starved_s = self._work.starved_s(last)
        switches = processes.voluntary_switches(stubs)
        self._lanes.see(now_s, switches, starved_s, answered=answered)
        # Of a model without stubs any thread may be the one that works.
        workers = stubs or starved_s
        quiet_s = self._quiet.see(
            now_s,
            moved=answered,
            starved_s=max((starved_s.get(thread, 0.0) for thread in workers), default=0.0),
        )
        limit_s = patience_s(self._stall_s, self._answers, self._single_s, self._largest)
        if (still_s := self._lanes.still_s()) >= limit_s:
            raise HungError(
                f"a lane's Python process shows no life for {still_s:.0f} s; {_advice(limit_s)}"
            )
        if self._asked is not None and quiet_s >= limit_s:
            raise HungError(f"it answers nothing for {quiet_s:.0f} s; {_advice(limit_s)}")
        if not answered and not self._lanes.at_rest and now_s >= self._ask_after_s:
            self._ask(now_s)
        return answered or self._lanes.at_rest

    def _ask(self, now_s: float) -> None:
        if self._asked is None and self._probe is not None:
            self._asked = asyncio.create_task(self._answered())
            self._asked_s = now_s
            # Before, nobody may have asked.
            self._quiet.shorten(_CHECKED_EVERY_S)

    async def _answered(self) -> None:
        # A refusal is an answer, too.
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._admin.infer(self._probe, _PROBE_LIMIT_S)

    def _take_answer(self, now_s: float) -> bool:
        """Whether our own request has been answered."""
        if self._asked is None or not self._asked.done():
            return False
        self._asked = None
        self._ask_after_s = now_s + (now_s - self._asked_s) * (1 / _PROBE_SHARE - 1)
        return True

    def close(self) -> None:
        """Ask nothing any more."""
        if self._asked is not None:
            self._asked.cancel()


def _advice(limit_s: float) -> str:
    return (
        f"a batch may take {limit_s:.1f} s of what is known of it, and --stall-s gives all models "
        "more"
    )
