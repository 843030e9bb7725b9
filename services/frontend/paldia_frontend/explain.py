"""Why there is no answer, in words that name the cause and the cure. Pure."""

from __future__ import annotations

from paldia.core.dispatch.types import Fail, FailCause, Refuse, RefuseCause
from paldia.core.errors import (
    ExpiredError,
    InternalError,
    NotFoundError,
    NotServableError,
    OverloadedError,
    PaldiaError,
    TooLargeError,
    UnavailableError,
)
from paldia_frontend.routes import Route


def refused(refuse: Refuse, route: Route) -> OverloadedError:
    """Say why a request wasn't let in, and when to try again."""
    why = (
        "its queue is full"
        if refuse.cause is RefuseCause.QUEUE_FULL
        else f"an answer within its {route.plan.slo.latency_s:g} s can't be expected"
    )
    return OverloadedError(
        f"model {route.model!r} is overloaded: {why}; try again in {refuse.retry_after_s:.1f} s",
        refuse.retry_after_s,
    )


def expired(route: Route, waited_s: float) -> ExpiredError:
    """Say that the caller's time was up."""
    return ExpiredError(
        f"the request's time was up after {waited_s:.3f} s in the queue of {route.model!r}"
    )


def failed(
    fail: Fail,
    route: Route,
    waited_s: float,
    *,
    batch_error: PaldiaError | None,
    gone: PaldiaError | None,
) -> PaldiaError:
    """Say why a request that was let in got no answer.

    `batch_error` is what its last batch died of, `gone` why its model is served no more.
    """
    if fail.cause is FailCause.COLD:
        return UnavailableError(
            f"model {route.model!r} was not ready on any node within {waited_s:.0f} s: "
            f"{route.reason or 'it is loading'}"
        )
    if fail.cause is FailCause.REMOVED:
        return gone or NotFoundError.of("model", route.model)
    return batch_error or InternalError(f"a batch of {route.model!r} failed without a reason")


def not_servable(route: Route) -> NotServableError:
    """Say why a model takes no requests."""
    return NotServableError(f"model {route.model!r} can't be served: {route.reason}")


def too_large(what: str, size_bytes: int, limit_bytes: int) -> TooLargeError:
    """Say that a message is over the limit, and how to raise that."""
    return TooLargeError(
        f"the {what} has {size_bytes / (1 << 20):.1f} MiB, this frontend takes at most "
        f"{limit_bytes >> 20} MiB; raise it with --message-limit-mib (PALDIA_MESSAGE_LIMIT_MIB)"
    )
