"""How much of the machine's memory one Triton may hold, its stubs included.

Before it reaches its limit another is started and takes its place; at the limit it is
ended, before the system picks a process to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paldia.core.errors import UnavailableError

_REPLACED_AT = 0.9
"""Share of the limit at which it is replaced; the rest is for the time that takes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from what a Triton holds.

    `replace` says that another should take its place, `obstacle` why none can although it
    should, with what can be done about it.
    """

    held_bytes: int
    replace: bool = False
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """The limit of each Triton on a machine, and the memory that is free there."""

    limit_bytes: int
    free_bytes: Callable[[], int]

    def judge(self, held_bytes: int, loaded_bytes: int) -> Verdict:
        """Say what is to be done about a Triton that holds `held_bytes`.

        Args:
            held_bytes: resident memory of it and its stubs.
            loaded_bytes: what that was when it had loaded.

        Raises:
            UnavailableError: it is at its limit, so it has to go.
        """
        if held_bytes >= self.limit_bytes:
            raise UnavailableError(
                f"it holds {_mib(held_bytes)}, and {_mib(self.limit_bytes)} is the limit of one "
                "model here (--memory-limit-share); it held "
                f"{_mib(loaded_bytes)} when it had loaded"
            )
        if held_bytes < _REPLACED_AT * self.limit_bytes:
            return Verdict(held_bytes)
        near = (
            f"it holds {_mib(held_bytes)} of the {_mib(self.limit_bytes)} that one model may take "
            "here"
        )
        if loaded_bytes >= _REPLACED_AT * self.limit_bytes:
            return Verdict(
                held_bytes,
                obstacle=f"{near}, and nearly as much when it has just loaded; give a larger "
                "--memory-limit-share, or fewer lanes",
            )
        if (free_bytes := self.free_bytes()) < loaded_bytes:
            return Verdict(
                held_bytes,
                obstacle=f"{near} and should be replaced, but another takes "
                f"{_mib(loaded_bytes)} and {_mib(free_bytes)} are free",
            )
        return Verdict(held_bytes, replace=True)

    def excess(self, held_bytes: int) -> str:
        """Say what is wrong with a load that holds `held_bytes`; empty if nothing."""
        if held_bytes < self.limit_bytes:
            return ""
        return (
            f"it needs more memory than a model may take on this node: {_mib(held_bytes)} so far, "
            f"limit {_mib(self.limit_bytes)} (--memory-limit-share)"
        )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.0f} MiB"
