"""What is kept of the planner's steps, so that they can be explained and run again later.

A step that changes a model's plan is kept with all that it was made from, in the commit that
makes it true: whatever is carried out can be run again, and nothing else is there. Now and then a
model that stays where it is gets a record, too: a review. Everything is bounded, and the oldest
goes first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from paldia.api import recording
from paldia.api.decisions import decision_to_proto
from paldia.api.recording import Recording
from paldia.api.v1 import types_pb2
from paldia.core.errors import TooLargeError
from paldia.core.observation import Action, Decision
from paldia.store.base import Delete, Put
from paldia_controller.room import Room
from paldia_controller.state import State, decision_key, decisions_of, step_key

REVIEWS_KEPT = 12
"""Reviews remembered of each model: an hour of them, while nothing changes."""
REVIEW_EVERY_S = 300.0
"""How long a model goes without a record of any kind."""
REVIEW_GAP_S = 10.0
"""Least time between two steps that are kept only for the reviews in them."""
REVIEWS_LIMIT = 32
"""Most models that are reviewed in one step; the others' turn comes with the next."""
STEPS_KEPT = 256
STEPS_LIMIT_BYTES = 16 << 20
"""Most that all recorded steps take together: 32 of the largest."""
FORGOTTEN_AT_ONCE = 8
"""Most recorded steps that make room for one; a larger one leaves some to the next."""
RECORD_WRITES = 2 * FORGOTTEN_AT_ONCE
"""Writes of each commit that are left to the records of its step."""
_KEYS_BYTES = 1 << 10
"""Room for the keys of a recorded step and of those it takes the place of."""

Writes = list[Put | Delete]


class Recorder:
    """Says what has to be written so that a step is remembered."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._recorded_s: dict[str, float] = {}
        """When a model last got a record, of either kind."""
        self._reviewed_s = -math.inf

    def restore(self) -> None:
        """Take up when each model last got a record."""
        # Now: later the sources on disk may no longer be those that run.
        recording.core_digest()
        for table in (self._state.decisions, self._state.reviews):
            for key in table.rows:
                model, _, decided_ms = key.rpartition("/")
                recorded_s = int(decided_ms) / 1e3
                self._recorded_s[model] = max(recorded_s, self._recorded_s.get(model, 0.0))

    def reviews(self, made: Recording, changed: Collection[str]) -> tuple[Decision, ...]:
        """Give the decisions that left a model where it is and get a record all the same.

        They are those on models whose plan changed otherwise, and on models that have had no
        record for long.

        Args:
            changed: models whose plans this step's commit changes.
        """
        seen, step = made.observation, made.outcome
        kept = [d for d in step.decisions if d.model in changed and d.action is Action.KEEP]
        # Times may lie ahead of now: clocks are set back.
        if abs(seen.now_s - self._reviewed_s) >= REVIEW_GAP_S:
            kept += [
                decision
                for decision in step.decisions
                if decision.model not in changed
                and step.plan[decision.model] == seen.plan.get(decision.model)
                and abs(seen.now_s - self._recorded_s.get(decision.model, 0.0)) >= REVIEW_EVERY_S
            ]
        return tuple(kept[:REVIEWS_LIMIT])

    def writes(
        self,
        made: Recording,
        decided: Collection[str],
        reviews: Sequence[Decision],
        beside: Sequence[Put | Delete],
    ) -> Writes:
        """Give the writes that record a step, as far as there is room for them.

        Args:
            decided: models whose plans this step changed by a decision.
            beside: what else is in the commit, the records of those decisions among it.
        """
        if not decided and not reviews:
            return []
        room = Room(beside)
        room.add(self._step(made, room.left_bytes - _KEYS_BYTES))
        for decision in reviews:
            room.add(self._review(made, decision))
        return room.taken

    def written(
        self, made: Recording, decided: Collection[str], reviews: Sequence[Decision]
    ) -> None:
        """Note that a step has been recorded."""
        now_s = made.observation.now_s
        self._recorded_s = {
            name: at_s for name, at_s in self._recorded_s.items() if name in made.outcome.plan
        } | dict.fromkeys((*decided, *(decision.model for decision in reviews)), now_s)
        if reviews:
            self._reviewed_s = now_s

    def _step(self, made: Recording, room_bytes: int) -> Writes:
        """Store the step, or why it isn't, and forget what is over the limits then."""
        try:
            stored = recording.packed(made)
        except (TooLargeError, TypeError) as error:
            # Whatever can't be written down, the plan is carried out.
            stored = types_pb2.RecordedStep(not_kept=str(error))
        if stored.ByteSize() > room_bytes:
            stored = types_pb2.RecordedStep(
                not_kept=f"the step takes {stored.ByteSize()} bytes, and beside the plans that it "
                f"changed there was room for {max(0, room_bytes)}"
            )
        key = step_key(_ms(made.observation.now_s))
        return [self._state.steps.put(key, stored), *self._over_limit(key, stored.ByteSize())]

    def _over_limit(self, new: str, size_bytes: int) -> Iterator[Delete]:
        rows = self._state.steps.rows
        kept = sorted(rows.keys() - {new})
        count, total_bytes = len(kept) + 1, size_bytes
        total_bytes += sum(rows[key].message.ByteSize() for key in kept)
        for key in kept[:FORGOTTEN_AT_ONCE]:
            if count <= STEPS_KEPT and total_bytes <= STEPS_LIMIT_BYTES:
                return
            count, total_bytes = count - 1, total_bytes - rows[key].message.ByteSize()
            yield self._state.steps.delete(key)

    def _review(self, made: Recording, decision: Decision) -> Writes:
        key = decision_key(decision.model, _ms(decision.decided_s))
        message = decision_to_proto(decision, made.outcome.memory[decision.model])
        kept = [
            known for known in decisions_of(self._state.reviews, decision.model) if known != key
        ]
        gone = kept[: max(0, len(kept) + 1 - REVIEWS_KEPT)]
        return [self._state.reviews.put(key, message), *map(self._state.reviews.delete, gone)]


def _ms(wall_s: float) -> int:
    return round(wall_s * 1e3)
