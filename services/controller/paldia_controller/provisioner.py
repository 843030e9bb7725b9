"""What gets machines and gives them back: a small contract, and the provisioner that needs neither.

Calls are repeated: after a failure, and after a restart of the controller that doesn't know
whether the last one came through. So asking for a machine that is there, and giving back one that
is gone, must be a success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from paldia.api.v1 import types_pb2
from paldia.core.errors import PaldiaError


class ProvisionError(PaldiaError):
    """A machine was not asked for, or not given back; the message is the provisioner's own."""


class Provisioner(Protocol):
    """Gets machines and gives them back."""

    @property
    def machines(self) -> Mapping[str, types_pb2.Hardware]:
        """Those that may be had, by the id of the node that each becomes."""

    async def activate(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        """Ask for a machine whose agent will connect as `node_id`; asked again, change nothing.

        Raises:
            ProvisionError: it could not be asked for, or not within `limit_s` seconds.
        """

    async def release(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        """Give a machine back, whether it is there or not; asked again, change nothing.

        Raises:
            ProvisionError: it could not be given back, or not within `limit_s` seconds.
        """


@dataclass(frozen=True, slots=True)
class StaticProvisioner:
    """The machines whose agents connect are all there are; none is asked for or given back."""

    machines: Mapping[str, types_pb2.Hardware] = field(default_factory=dict)

    async def activate(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        """Leave a machine as it is: it is there already."""

    async def release(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        """Leave a machine as it is: it stays."""
