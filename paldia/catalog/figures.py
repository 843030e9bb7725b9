"""A figure is never without where it comes from.

`measured`: by this project. `imported`: published by others, named in the source. `estimated`:
by a rule, named in the source, or by judgement, which the source then says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from paldia.core.profiles import Provenance

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """A value with its origin."""

    value: T
    source: str
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Figure:
    """A fact as it is shown: `value` is text and carries its unit."""

    name: str
    value: str
    source: str
    provenance: Provenance

    @classmethod
    def of(cls, name: str, shown: str, fact: Fact[T]) -> Figure:
        """Show a fact as `shown`."""
        return cls(name, shown, fact.source, fact.provenance)


def estimated(value: T, source: str) -> Fact[T]:
    """Say that a value was worked out."""
    return Fact(value, source, Provenance.ESTIMATED)
