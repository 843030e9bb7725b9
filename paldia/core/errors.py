"""Errors that callers are meant to handle.

Each is a type with the facts as fields and a message that names the cause and, where
there is one, the cure. `paldia.kit.rpc` maps them to gRPC status codes, and back.
"""

from __future__ import annotations


class PaldiaError(Exception):
    """Base of all errors that PALDIA reports to a caller."""


class InvalidArgumentError(PaldiaError):
    """The request is wrong and will be wrong again."""


class NotFoundError(PaldiaError):
    """There is no such model, node or artifact."""

    @classmethod
    def of(cls, kind: str, name: str) -> NotFoundError:
        """Say that no `kind` of that name exists."""
        return cls(f"no {kind} named {name!r}")


class NotServableError(PaldiaError):
    """Known, but it can't be served now; the message gives the reason."""


class ConflictError(PaldiaError):
    """Somebody else changed it first; read again and retry."""


class OverloadedError(PaldiaError):
    """Refused to protect the requests already accepted.

    Attributes:
        retry_after_s: when it is worth trying again, in seconds.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLargeError(PaldiaError):
    """Over a size limit; the message names the limit and how to raise it."""


class ExpiredError(PaldiaError):
    """The caller's own deadline passed."""


class UnavailableError(PaldiaError):
    """Nothing ran; safe to retry."""


class UnsupportedError(PaldiaError):
    """Part of the protocol that can't work here, with the reason."""


class InternalError(PaldiaError):
    """A component failed in a way that the caller can't cure."""
