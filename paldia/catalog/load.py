"""Where the catalog is asked: built-in figures, a user's own files, or names.

Nothing is read before it is asked for, and built-in files are read once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from paldia.catalog.figures import Figure
from paldia.catalog.fill import filled, own_shapes
from paldia.catalog.machines import Machine, load_machines
from paldia.catalog.models import Described, InputSize, read_models
from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.profiles import Profile
from paldia.core.types import Hardware

HERE = Path(__file__).parent
PAPER_NODES = (
    *("p3.2xlarge", "p2.xlarge", "g3s.xlarge"),
    *("c6i.4xlarge", "c6i.2xlarge", "m4.xlarge"),
)
"""The six nodes of the PALDIA paper's cluster, as far as known: one of each kind."""
_FILE_ENDINGS = (".yaml", ".yml")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Workload:
    """A model with what is known of it.

    Attributes:
        profiles: by kind of hardware; kinds that are missing can't run it.
        figures: the same figures with their origins, by kind of hardware.
    """

    name: str
    title: str
    profiles: Mapping[str, Profile]
    figures: Mapping[str, tuple[Figure, ...]]
    input_size: InputSize | None


@cache
def machines() -> Mapping[str, Machine]:
    """Give the built-in kinds of machine with the origins of their figures."""
    return MappingProxyType(dict(load_machines(HERE / "hardware.yaml")))


def hardware() -> dict[str, Hardware]:
    """Give the built-in kinds of hardware by name."""
    return {name: machine.hardware for name, machine in machines().items()}


def load_hardware(path: Path) -> dict[str, Hardware]:
    """Read kinds of hardware from a file laid out as `hardware.yaml` is.

    Raises:
        InvalidArgumentError: with the file, the line, the key and what was expected.
    """
    return {name: machine.hardware for name, machine in load_machines(path).items()}


def _workload(described: Described, on: Mapping[str, Machine]) -> Workload:
    own = own_shapes(described, on)
    kinds = {name: filled(described, machine, own) for name, machine in on.items()}
    found = {name: result for name, result in kinds.items() if result}
    return Workload(
        name=described.name,
        title=described.title,
        profiles=MappingProxyType({name: it.profile for name, it in found.items()}),
        figures=MappingProxyType({name: it.figures for name, it in found.items()}),
        input_size=described.input_size,
    )


@cache
def _built_in() -> Mapping[str, Described]:
    return read_models(HERE / "workloads.yaml")


def workloads(on: Mapping[str, Machine] | None = None) -> dict[str, Workload]:
    """Give the built-in workloads by name, with profiles for the machines `on` (built-in)."""
    return choose_workloads(_built_in(), on)


def choose_workloads(
    names: Iterable[str], on: Mapping[str, Machine] | None = None
) -> dict[str, Workload]:
    """Give some of the built-in workloads.

    Raises:
        NotFoundError: one is unknown; the message lists those there are.
    """
    chosen = _chosen("workload", names, _built_in())
    return {name: _workload(it, machines() if on is None else on) for name, it in chosen.items()}


def load_workloads(path: Path, on: Mapping[str, Machine] | None = None) -> dict[str, Workload]:
    """Read workloads from a file laid out as `workloads.yaml` is.

    Rules fill what the file leaves out, for the machines `on` (built-in ones if not given).

    Raises:
        InvalidArgumentError: with the file, the line, the key and what was expected; or a
            profile is for a kind of hardware that isn't among the machines.
    """
    on = machines() if on is None else on
    described = read_models(path)
    for it in described.values():
        for name, known in it.known.items():
            if name not in on and known.place:
                raise known.place.fault(f"no hardware named {name}. {_hint(name, on)}")
    found = {name: _workload(it, on) for name, it in described.items()}
    for name, workload in found.items():
        if not workload.profiles:
            raise InvalidArgumentError(
                f"{path}: {name} has no profile on any of {', '.join(on)}; give it profiles "
                "there, or network or costs and hardware that the rules know"
            )
    return found


def choose_machines(names: Iterable[str]) -> dict[str, Machine]:
    """Give some of the built-in machines.

    Raises:
        NotFoundError: one is unknown; the message lists those there are.
    """
    return _chosen("hardware", names, machines())


def machines_from(text: str) -> Mapping[str, Machine]:
    """Give machines by what a user wrote: a YAML file, or names divided by commas.

    Raises:
        InvalidArgumentError: the file is wrong.
        NotFoundError: a name is unknown.
    """
    if _is_file(text):
        return load_machines(Path(text))
    return choose_machines(_names(text))


def workloads_from(text: str, on: Mapping[str, Machine] | None = None) -> dict[str, Workload]:
    """Give workloads by what a user wrote: a YAML file, or names divided by commas.

    Raises:
        InvalidArgumentError: the file is wrong.
        NotFoundError: a name is unknown.
    """
    if _is_file(text):
        return load_workloads(Path(text), on)
    return choose_workloads(_names(text), on)


def _is_file(text: str) -> bool:
    return text.endswith(_FILE_ENDINGS) or "/" in text


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"{meant}There are: {', '.join(known)}"


def _chosen(kind: str, names: Iterable[str], known: Mapping[str, T]) -> dict[str, T]:
    chosen: dict[str, T] = {}
    for name in names:
        if name not in known:
            raise NotFoundError(
                f"no {kind} named {name!r} in the catalog. {_hint(name, known)} "
                "(or give a YAML file)"
            )
        chosen[name] = known[name]
    if not chosen:
        raise InvalidArgumentError(f"expected a YAML file or names of {kind}, divided by commas")
    return chosen
