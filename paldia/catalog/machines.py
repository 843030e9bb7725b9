"""Kinds of machine as a file describes them: `hardware.yaml`, or one of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paldia.catalog.document import Entry, read_parts
from paldia.catalog.figures import Figure
from paldia.core.types import Hardware

GIB = 1024**3
_REQUIRED = ("price_usd_per_hour", "memory_gib", "cores")
_OPTIONAL = (
    *("gpus", "sm_shares", "activation_s", "idle_watts", "rated_watts"),
    *("accelerator", "core_speed", "triton_image", "tritonserver"),
)
_TEXTS = ("triton_image", "tritonserver")


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of hardware with what the rules need to know of it.

    Attributes:
        accelerator: the GPU's name, which says whose figures hold; empty without one.
        core_speed: speed of one core against the one that the CPU table was measured on; 0 if
            unknown or beside the point.
        triton_image: container image whose Triton supports the kind; empty if none is named.
        tritonserver: whole path of Triton's program on such a machine; empty if none is named.
    """

    hardware: Hardware
    accelerator: str
    core_speed: float
    figures: tuple[Figure, ...]
    triton_image: str = ""
    tritonserver: str = ""


def machine(name: str, entry: Entry) -> Machine:
    """Read one kind of machine.

    Raises:
        InvalidArgumentError: with the file, the line, the key and what was expected.
    """
    fields = entry.fields(_REQUIRED, _OPTIONAL)
    shown: list[Figure] = []
    numbers: dict[str, float] = {}
    for key in (*_REQUIRED, *_OPTIONAL):
        if key in fields and key not in ("sm_shares", "accelerator", *_TEXTS):
            fact = fields[key].fact(Entry.number)
            numbers[key] = fact.value
            shown.append(Figure.of(key, f"{fact.value:g}", fact))
    shares = False
    if "sm_shares" in fields:
        flag = fields["sm_shares"].fact(Entry.flag)
        shares = flag.value
        shown.append(Figure.of("sm_shares", "yes" if shares else "no", flag))
    texts: dict[str, str] = {}
    for key in _TEXTS:
        if key in fields:
            said = fields[key].fact(Entry.text)
            texts[key] = said.value
            shown.append(Figure.of(key, said.value, said))
    if not texts.get("tritonserver", "/").startswith("/"):
        raise fields["tritonserver"].fault(f"expected a whole path, not {texts['tritonserver']!r}")
    for key in ("cores", "gpus"):
        if numbers.get(key, 0) != int(numbers.get(key, 0)):
            raise fields[key].fault(f"expected a whole number, not {numbers[key]:g}")
    kind = Hardware(
        name=name,
        price_usd_per_hour=numbers["price_usd_per_hour"],
        memory_bytes=int(numbers["memory_gib"] * GIB),
        cores=int(numbers["cores"]),
        gpus=int(numbers.get("gpus", 0)),
        sm_shares=shares,
        activation_s=numbers.get("activation_s", 0.0),
        idle_watts=numbers.get("idle_watts", 0.0),
        rated_watts=numbers.get("rated_watts", 0.0),
    )
    accelerator = fields["accelerator"].text() if "accelerator" in fields else ""
    return Machine(kind, accelerator, numbers.get("core_speed", 0.0), tuple(shown), **texts)


def load_machines(path: Path) -> Mapping[str, Machine]:
    """Read a file of hardware; the nodes of a fleet may stand beside it, and are left alone.

    Raises:
        InvalidArgumentError: with the file, the line, the key and what was expected.
    """
    kinds = read_parts(path, ("hardware",), ("nodes",))["hardware"]
    return {name: machine(name, entry) for name, entry in kinds.items()}
