"""What a node of a cluster on this machine is to be, and how that is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from paldia_nodeagent.cores import parse_cores
from paldia_nodeagent.emulator.figures import machine_of

from paldia.core.errors import InvalidArgumentError

_EMULATED = "emulated"


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """A node to start; no `cores` leaves it all, `slowdown` 2.0 halves its speed.

    `device` is what the node agent takes as `--device`.
    """

    node_id: str
    hardware: str
    price_usd_per_hour: float
    cores: tuple[int, ...] = ()
    slowdown: float = 1.0
    device: str = "auto"


def emulated_node(node_id: str, kind: str) -> NodeOptions:
    """Give a node that emulates a GPU machine of the catalog, under its name and at its price.

    Raises:
        InvalidArgumentError: there is none of that kind; lists those there are.
    """
    hardware = machine_of(kind).hardware
    price = hardware.price_usd_per_hour
    return NodeOptions(node_id, kind, price, device=f"{_EMULATED}:{kind}")


def default_nodes(cores: Sequence[int] | None = None) -> tuple[NodeOptions, ...]:
    """Give two nodes of different kinds: one full core, and a cheaper half.

    Args:
        cores: those that may be used; by default this process's own.
    """
    usable = sorted(os.sched_getaffinity(0)) if cores is None else [*cores]
    return (
        NodeOptions("cpu-full", "cpu-full", 0.10, (usable[min(1, len(usable) - 1)],)),
        NodeOptions("cpu-half", "cpu-half", 0.04, (usable[0],), slowdown=2.0),
    )


def parse_node(text: str) -> NodeOptions:
    """Read `ID:HARDWARE:PRICE[:CORES[:SLOWDOWN]]`, CORES such as `0,2-3`, or `ID:emulated:KIND`.

    Raises:
        InvalidArgumentError: it isn't of that form, or there is no such KIND.
    """
    parts = text.split(":")
    if len(parts) == 3 and parts[0] and parts[1] == _EMULATED:
        return emulated_node(parts[0], parts[2])
    try:
        node_id, hardware, price, *rest = parts
        cores, slowdown = [*rest, "", ""][:2]
        if not (node_id and hardware) or len(rest) > 2:
            raise ValueError
        parsed = tuple(sorted(parse_cores(cores))) if cores else ()
        return NodeOptions(
            node_id, hardware, float(price), parsed, float(slowdown) if slowdown else 1.0
        )
    except (ValueError, InvalidArgumentError):
        raise InvalidArgumentError(
            f"{text!r} is no node; write ID:HARDWARE:PRICE[:CORES[:SLOWDOWN]], "
            "for instance small:cpu-half:0.04:0,2-3:2.0, or ID:emulated:KIND, for instance "
            "fast:emulated:p3.2xlarge"
        ) from None
