"""How a machine that can be had comes and goes: its phases, and what leads from one to the next.

Parked until something needs it; activating from then until its agent connects; active until
nothing has needed it for a while; releasing until it is gone, and parked again. One that doesn't
come in time is given back and left alone for a while. Pure: from what is remembered and seen to
what is remembered next. What is remembered is in the store, and with it when each phase began.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from google.protobuf.timestamp_pb2 import Timestamp

from paldia.api import convert
from paldia.api.v1 import state_pb2, types_pb2

ACTIVATION_FACTOR = 1.5
"""A machine may take so many times as long as its kind is said to take, and some slack."""
TRIES_LIMIT = 3
"""Calls for one activation that may fail; giving back is never given up."""
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 300.0
FIRST_AVOID_S = 60.0
LAST_AVOID_S = 3600.0
"""A machine that didn't come is left alone, for longer each time."""
GONE_S = 3.0
"""How long the agent of a machine that was given back must have been away for it to be gone."""
LEAVE_LIMIT_S = 120.0
"""How long it may still be there before the machine is given back again."""


class Phase(enum.Enum):
    """Whether a machine is had."""

    PARKED = "parked"
    ACTIVATING = "activating"
    ACTIVE = "active"
    RELEASING = "releasing"


_PHASE = {
    Phase.PARKED: state_pb2.PROVISION_PHASE_PARKED,
    Phase.ACTIVATING: state_pb2.PROVISION_PHASE_ACTIVATING,
    Phase.ACTIVE: state_pb2.PROVISION_PHASE_ACTIVE,
    Phase.RELEASING: state_pb2.PROVISION_PHASE_RELEASING,
}
_PHASE_OF = {code: phase for phase, code in _PHASE.items()}


@dataclass(frozen=True, slots=True)
class Provision:
    """What is remembered of a machine. Times are UTC seconds.

    Attributes:
        since_s: when the phase began.
        done_s: when the provisioner said yes to what the phase asks of it; None until then.
        tries: calls to it that failed in this phase; the next is made at `retry_s`.
        unused_since_s: since when nothing needs the machine; None while something does.
        failures: activations in a row that came to nothing; it isn't asked for again before
            `avoid_until_s`.
        reason: what last went wrong.
    """

    phase: Phase = Phase.PARKED
    since_s: float = 0.0
    done_s: float | None = None
    tries: int = 0
    retry_s: float = 0.0
    unused_since_s: float | None = None
    failures: int = 0
    avoid_until_s: float = 0.0
    reason: str = ""

    @property
    def is_paid(self) -> bool:
        """Whether the machine is paid for: from its activation until it has been given back."""
        if self.phase is Phase.RELEASING:
            return self.done_s is None
        return self.phase is not Phase.PARKED

    def call_is_due(self, now_s: float) -> bool:
        """Whether the provisioner should be called for what the phase asks of it."""
        asks = self.phase in (Phase.ACTIVATING, Phase.RELEASING)
        return asks and self.done_s is None and now_s >= self.retry_s


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a machine at one moment.

    Attributes:
        listed: whether it may be had still.
        needed: whether a model is planned on it, measured on it, or still there.
        here: whether its agent is connected and has said how it is.
        silent_s: how long it has not been heard of.
        in_doubt: whether so many nodes seem lost that they are rather out of sight.
    """

    listed: bool
    needed: bool
    here: bool
    silent_s: float
    in_doubt: bool = False


def advanced(
    before: Provision, seen: Sight, now_s: float, *, limit_s: float, release_after_s: float
) -> Provision:
    """Give what is to be remembered next; the same if nothing changes.

    Args:
        limit_s: how long the machine may take to come.
        release_after_s: how long it is kept although nothing needs it.
    """
    provision = _not_from_the_future(before, now_s)
    match provision.phase:
        case Phase.PARKED:
            return _parked(provision, seen, now_s)
        case Phase.ACTIVATING:
            if seen.here:
                return Provision(Phase.ACTIVE, now_s)
            if provision.tries >= TRIES_LIMIT:
                why = f"asked for {provision.tries} times in vain"
                return _given_up(provision, f"{why}: {provision.reason}", now_s)
            if now_s - provision.since_s > limit_s:
                why = f"no agent connected within {limit_s:g} s"
                last = f": {provision.reason}" if provision.reason else ""
                return _given_up(provision, why + last, now_s)
        case Phase.ACTIVE:
            if seen.needed and seen.silent_s > limit_s and not seen.in_doubt:
                why = f"its agent has been silent for {limit_s:g} s"
                return _given_up(provision, why, now_s)
        case Phase.RELEASING:
            return _releasing(provision, seen, now_s)
    return _while_unused(provision, seen, now_s, release_after_s if seen.listed else 0.0)


def answered(provision: Provision, failure: str, now_s: float) -> Provision:
    """Give what is to be remembered once the provisioner has answered; no `failure` is a yes."""
    if failure:
        retry_s = now_s + _doubled(FIRST_RETRY_S, provision.tries, LAST_RETRY_S)
        return replace(provision, tries=provision.tries + 1, retry_s=retry_s, reason=failure)
    kept = provision.reason if provision.failures else ""
    return replace(provision, done_s=now_s, tries=0, retry_s=0.0, reason=kept)


def _parked(provision: Provision, seen: Sight, now_s: float) -> Provision:
    if not seen.listed:
        return Provision()
    if seen.here:
        # Nobody asked for it, but it is there: it costs, and it is given back if nothing needs it.
        return Provision(Phase.ACTIVE, now_s)
    if seen.needed and now_s >= provision.avoid_until_s:
        return Provision(Phase.ACTIVATING, now_s, failures=provision.failures)
    return provision


def _while_unused(
    provision: Provision, seen: Sight, now_s: float, release_after_s: float
) -> Provision:
    if seen.needed:
        return replace(provision, unused_since_s=None)
    since_s = now_s if provision.unused_since_s is None else provision.unused_since_s
    if now_s - since_s >= release_after_s:
        return Provision(Phase.RELEASING, now_s, failures=provision.failures)
    return replace(provision, unused_since_s=since_s)


def _given_up(provision: Provision, reason: str, now_s: float) -> Provision:
    """Give a machine back that didn't come: it may still be on its way, and it costs."""
    return Provision(
        Phase.RELEASING,
        now_s,
        failures=provision.failures + 1,
        avoid_until_s=now_s + _doubled(FIRST_AVOID_S, provision.failures, LAST_AVOID_S),
        reason=reason,
    )


def _releasing(provision: Provision, seen: Sight, now_s: float) -> Provision:
    if provision.done_s is None:
        return provision
    waited_s = now_s - provision.done_s
    if seen.here and waited_s > LEAVE_LIMIT_S:
        reason = f"given back, but its agent was still there {LEAVE_LIMIT_S:g} s later"
        return replace(provision, done_s=None, reason=reason)
    if not seen.here and waited_s >= GONE_S:
        if not provision.failures:
            return Provision()
        return replace(provision, phase=Phase.PARKED, since_s=now_s, done_s=None)
    return provision


def _doubled(first_s: float, times: int, last_s: float) -> float:
    return min(first_s * 2.0 ** min(times, 32), last_s)


def _not_from_the_future(provision: Provision, now_s: float) -> Provision:
    """Bound remembered times by the present, in case the clock was set back."""
    done_s, unused_s = provision.done_s, provision.unused_since_s
    return replace(
        provision,
        since_s=min(provision.since_s, now_s),
        done_s=None if done_s is None else min(done_s, now_s),
        retry_s=min(provision.retry_s, now_s + LAST_RETRY_S),
        unused_since_s=None if unused_s is None else min(unused_s, now_s),
        avoid_until_s=min(provision.avoid_until_s, now_s + LAST_AVOID_S),
    )


def provision_to_proto(
    provision: Provision, hardware: types_pb2.Hardware
) -> state_pb2.StoredProvision:
    """Encode what is remembered of a machine."""

    def moment(at_s: float | None) -> Timestamp | None:
        return None if not at_s else convert.timestamp(at_s)

    return state_pb2.StoredProvision(
        phase=_PHASE[provision.phase],
        since=convert.timestamp(provision.since_s),
        hardware=hardware,
        done=moment(provision.done_s),
        tries=provision.tries,
        retry=moment(provision.retry_s),
        unused_since=moment(provision.unused_since_s),
        failures=provision.failures,
        avoid_until=moment(provision.avoid_until_s),
        reason=provision.reason,
    )


def provision_from_proto(stored: state_pb2.StoredProvision) -> Provision:
    """Decode it; a phase that is unknown here may cost money, and is given back."""
    return Provision(
        phase=_PHASE_OF.get(stored.phase, Phase.RELEASING),
        since_s=convert.wall_s(stored.since),
        done_s=convert.wall_s(stored.done) if stored.HasField("done") else None,
        tries=stored.tries,
        retry_s=convert.wall_s(stored.retry),
        unused_since_s=(
            convert.wall_s(stored.unused_since) if stored.HasField("unused_since") else None
        ),
        failures=stored.failures,
        avoid_until_s=convert.wall_s(stored.avoid_until),
        reason=stored.reason,
    )
