"""What an agent asks of its machine's accelerators, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from paldia.api.v1 import types_pb2 as pb


class Accelerators(Protocol):
    """The accelerators of a node."""

    @property
    def sm_shares(self) -> bool:
        """Whether a process can be held to a share of the streaming multiprocessors."""

    @property
    def problem(self) -> str:
        """Why no model can run on them; empty if one can, or there are none."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Look after them, from before anything uses them until nothing does any more.

        Raises:
            UnavailableError: they can't be had at all.
        """

    def describe(self) -> list[pb.Gpu]:
        """Describe each card."""

    def utilisation(self) -> list[pb.GpuUtilisation]:
        """Say how busy each card is; figures that it doesn't tell are left out."""

    def warnings(self) -> list[str]:
        """Say what doesn't work as it should and is no obstacle."""

    def memory_used_bytes(self, pid: int) -> int | None:
        """Give the memory of theirs that a Triton has; None if it has none or nobody knows."""

    def environment(self, sm_percent: int) -> Mapping[str, str]:
        """Give what a model's Triton needs in its environment to run on them.

        A process that was given something else is replaced, so it changes only for that.

        Args:
            sm_percent: the share of the streaming multiprocessors that it is held to, 1 to 100.

        Raises:
            NotServableError: it couldn't run on them.
            UnavailableError: it can't just now.
        """
