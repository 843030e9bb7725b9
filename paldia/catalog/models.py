"""Workloads as a file describes them: `workloads.yaml`, or one of the user's own.

A file says what is known; what it leaves out is filled by rules (`fill`), if it says what the
network costs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paldia.catalog.document import Entry, read
from paldia.catalog.figures import Fact
from paldia.catalog.tables import Costs, Points, networks
from paldia.core.profiles import Provenance

KINDS = ("vision", "language")
_COSTS = ("gmacs", "mactivations", "mparameters", "operators")
_CURVES = ("latency_ms", "demand", "sm_share")
_NUMBERS = ("memory_mib", "load_s", "watts", "colocation_penalty", "threads")
_LEAST_LATENCY_MS = 1e-3
_LEAST_SHARE = 1e-4
_LEAST = {"memory_mib": 1.0, "threads": 1.0}


@dataclass(frozen=True, slots=True)
class InputSize:
    """How work grows with the size of an input.

    Attributes:
        unit: what is counted, such as tokens.
        work: (size, work against that of the inputs that the profiles hold for), ascending.
    """

    unit: str
    work: tuple[tuple[int, float], ...]
    source: str
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Known:
    """What a file says of a workload on one kind of hardware, by field; where it says so."""

    curves: Mapping[str, Fact[Points]]
    numbers: Mapping[str, Fact[float]]
    place: Entry | None


NOTHING_KNOWN = Known({}, {}, None)


@dataclass(frozen=True, slots=True)
class Described:
    """What a file says of a workload.

    Attributes:
        network: its row in the tables of known networks; empty if it has none.
        costs: None if nothing is said of them: then every profile must be complete.
        known: by kind of hardware.
    """

    name: str
    title: str
    network: str
    costs: Costs | None
    known: Mapping[str, Known]
    input_size: InputSize | None


def _network(entry: Entry) -> str:
    name = entry.text()
    if name not in networks():
        near = difflib.get_close_matches(name, networks(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise entry.fault(f"no network named {name}{hint} Known: {', '.join(networks())}")
    return name


def _costs(entry: Entry) -> Costs:
    fields = entry.fields(("kind", *_COSTS), ())
    kind = fields["kind"].text()
    if kind not in KINDS:
        raise fields["kind"].fault(f"expected {' or '.join(KINDS)}, not {kind!r}")
    numbers = {name: fields[name].number(1e-6) for name in _COSTS[:-1]}
    return Costs(kind, **numbers, operators=fields["operators"].whole(1))


def _curve(entry: Entry, field: str) -> Fact[Points]:
    def read_points(inner: Entry) -> Points:
        if field == "latency_ms":
            return inner.points(_LEAST_LATENCY_MS)
        return inner.points(_LEAST_SHARE, 1.0)

    return entry.fact(read_points)


def _number(entry: Entry, field: str) -> Fact[float]:
    def read_number(inner: Entry) -> float:
        return inner.number(_LEAST.get(field, 0.0))

    return entry.fact(read_number)


def _known(entry: Entry) -> Known:
    fields = entry.fields((), (*_CURVES, *_NUMBERS))
    curves = {name: _curve(fields[name], name) for name in _CURVES if name in fields}
    numbers = {name: _number(fields[name], name) for name in _NUMBERS if name in fields}
    return Known(curves, numbers, entry)


def _input_size(entry: Entry) -> InputSize:
    fields = entry.fields(("unit", "work"), ())
    work = fields["work"].fact(lambda it: it.points(1e-6, what="input size"))
    return InputSize(fields["unit"].text(), work.value, work.source, work.provenance)


def _described(name: str, entry: Entry) -> Described:
    fields = entry.fields((), ("title", "network", "costs", "profiles", "input_size"))
    if "network" in fields and "costs" in fields:
        raise fields["costs"].fault("network gives the costs already; leave one of the two")
    if "profiles" not in fields and "network" not in fields and "costs" not in fields:
        raise entry.fault("expected network, costs or profiles: nothing is known of it")
    network = _network(fields["network"]) if "network" in fields else ""
    costs = networks()[network] if network else None
    if "costs" in fields:
        costs = _costs(fields["costs"])
    places = fields["profiles"].items() if "profiles" in fields else ()
    return Described(
        name=name,
        title=fields["title"].text() if "title" in fields else name,
        network=network,
        costs=costs,
        known={hardware: _known(inner) for hardware, inner in places},
        input_size=_input_size(fields["input_size"]) if "input_size" in fields else None,
    )


def read_models(path: Path) -> Mapping[str, Described]:
    """Read a file of workloads.

    Raises:
        InvalidArgumentError: with the file, the line, the key and what was expected.
    """
    return {name: _described(name, entry) for name, entry in read(path, "workloads").items()}
