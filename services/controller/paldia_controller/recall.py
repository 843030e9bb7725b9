"""Finds the record of a model that was in force at some time, and the step that made it."""

from __future__ import annotations

from datetime import UTC, datetime

from paldia.api.v1 import control_pb2, types_pb2
from paldia.core.errors import NotFoundError
from paldia_controller.records import STEPS_KEPT, STEPS_LIMIT_BYTES
from paldia_controller.state import State, decision_key, decisions_of, step_key


def record_at(
    state: State, model: str, at_s: float | None, *, with_step: bool
) -> control_pb2.GetDecisionResponse:
    """Give the newest record of a model that is no younger than `at_s`, in seconds since 1970.

    Raises:
        NotFoundError: there is none; the message names the oldest there is.
    """
    keys = sorted({*decisions_of(state.decisions, model), *decisions_of(state.reviews, model)})
    if not keys:
        raise NotFoundError(f"nothing has been decided on {model!r} yet; paldia models says why")
    past = keys
    if at_s is not None:
        # To the nearest, as keys are: a record's own time must find it.
        latest = decision_key(model, max(0, round(at_s * 1e3)))
        past = [key for key in keys if key <= latest]
    if not past:
        oldest = datetime.fromtimestamp(_ms_of(keys[0]) / 1e3, tz=UTC).isoformat(timespec="seconds")
        raise NotFoundError(
            f"no record of {model!r} is as old as that; the oldest that is kept is of {oldest}, "
            "so ask for that time or a later one"
        )
    changed = state.decisions.get(past[-1])
    response = control_pb2.GetDecisionResponse(
        decision=changed or state.reviews.get(past[-1]), unchanged=changed is None
    )
    if with_step:
        step = state.steps.get(step_key(_ms_of(past[-1])))
        response.step.CopyFrom(step or types_pb2.RecordedStep(not_kept=_FORGOTTEN))
    return response


_FORGOTTEN = (
    f"only the newest {STEPS_KEPT} steps are kept, and {STEPS_LIMIT_BYTES >> 20} MiB of them, and "
    "this one is no longer there"
)


def _ms_of(key: str) -> int:
    return int(key.rpartition("/")[2])
