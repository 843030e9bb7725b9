"""YAML files read with line numbers, so that an error says where it is and what was expected.

Every access names what it expects; what nobody asked for is an error too, since a misspelt key
would otherwise be a figure that silently isn't there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import yaml

from paldia.catalog.figures import Fact
from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Provenance

SIZE_LIMIT_BYTES = 4_000_000
BATCH_LIMIT = 4096
INPUT_LIMIT = 2**31
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser reads the built-in files some ten times faster; it isn't in every build."""

T = TypeVar("T")


class Entry:
    """One value of a YAML document, with its place."""

    def __init__(self, file: str, key: str, node: yaml.Node, sources: dict[str, str]) -> None:
        self.key = key
        self._file, self._node, self._sources = file, node, sources

    def fault(self, expected: str) -> InvalidArgumentError:
        """An error that names this place."""
        line = self._node.start_mark.line + 1
        return InvalidArgumentError(f"{self._file}:{line}: {self.key or 'the file'}: {expected}")

    def _shown(self) -> str:
        node = self._node
        if isinstance(node, yaml.ScalarNode):
            return repr(node.value)
        return "a list" if isinstance(node, yaml.SequenceNode) else "keys with values"

    @property
    def is_scalar(self) -> bool:
        """Whether this is a plain value."""
        return isinstance(self._node, yaml.ScalarNode)

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Give keys and values of a mapping; a key that comes twice is an error."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.fault(f"expected keys with values, not {self._shown()}")
        seen: set[str] = set()
        for key_node, node in self._node.value:
            key = str(key_node.value)
            inner = Entry(self._file, f"{self.key}.{key}".lstrip("."), node, self._sources)
            if key in seen:
                raise inner.fault("stands here a second time; leave one")
            seen.add(key)
            yield key, inner

    def fields(self, required: Collection[str], optional: Collection[str]) -> dict[str, Entry]:
        """Give the values of a mapping whose keys are known."""
        found = dict(self.items())
        known = [*required, *optional]
        for key, inner in found.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise inner.fault(f"unknown key{hint} Known here: {', '.join(known)}".strip())
        for key in required:
            if key not in found:
                raise self.fault(f"{key} is missing")
        return found

    def text(self) -> str:
        """A plain value as text."""
        if not isinstance(self._node, yaml.ScalarNode) or not self._node.value:
            raise self.fault(f"expected text, not {self._shown()}")
        return str(self._node.value)

    def number(self, least: float = 0.0, most: float = math.inf) -> float:
        """A number from `least` to `most`."""
        bounds = f"a number from {least:g}" + ("" if most == math.inf else f" to {most:g}")
        try:
            value = float(self._node.value if self.is_scalar else "")
        except ValueError:
            raise self.fault(f"expected {bounds}, not {self._shown()}") from None
        if not least <= value <= most or value == math.inf:
            raise self.fault(f"expected {bounds}, not {value:g}")
        return value

    def whole(self, least: int = 0, most: int = 2**53) -> int:
        """A whole number from `least` to `most`."""
        value = self.number(least, most)
        if value != int(value):
            raise self.fault(f"expected a whole number, not {value:g}")
        return int(value)

    def flag(self) -> bool:
        """True or false."""
        value = self._node.value if self.is_scalar else ""
        if value not in ("true", "false"):
            raise self.fault(f"expected true or false, not {self._shown()}")
        return bool(value == "true")

    def points(
        self, least: float = 0.0, most: float = math.inf, *, what: str = "batch size"
    ) -> tuple[tuple[int, float], ...]:
        """Numbers by batch size, or by what else is counted, ascending."""
        limit = BATCH_LIMIT if what == "batch size" else INPUT_LIMIT
        found = []
        for key, inner in self.items():
            if not key.isdigit() or not 1 <= int(key) <= limit:
                raise inner.fault(f"expected a {what} from 1 to {limit}, not {key!r}")
            found.append((int(key), inner.number(least, most)))
        if not found:
            raise self.fault(f"expected at least one {what} with its number")
        if found != sorted(found, key=lambda point: point[0]):
            raise self.fault(f"each {what} must be above the one before")
        return tuple(found)

    def fact(self, read: Callable[[Entry], T]) -> Fact[T]:
        """A value with its source and provenance, or a bare one: then this file vouches for it."""
        bare = self.is_scalar or "value" not in dict(self.items())
        if bare:
            return Fact(read(self), self._file, Provenance.MEASURED)
        fields = self.fields(("value", "source", "provenance"), ())
        source = fields["source"].text()
        name = fields["provenance"].text()
        if name not in {it.value for it in Provenance}:
            raise fields["provenance"].fault(
                f"expected {' or '.join(it.value for it in Provenance)}, not {name!r}"
            )
        if self._sources and source not in self._sources:
            near = difflib.get_close_matches(source, self._sources, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise fields["source"].fault(f"no source of that name stands under sources{hint}")
        return Fact(read(fields["value"]), self._sources.get(source, source), Provenance(name))


def read(path: Path, top: str) -> dict[str, Entry]:
    """Give the entries under the key `top` of a file.

    Raises:
        InvalidArgumentError: the file can't be read, isn't YAML or isn't laid out like this.
    """
    return dict(read_parts(path, (top,))[top].items())


def read_parts(
    path: Path, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Entry]:
    """Give what stands under the keys of a file, `sources` aside.

    Raises:
        InvalidArgumentError: the file can't be read, isn't YAML or isn't laid out like this.
    """
    try:
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise InvalidArgumentError(f"{path}: more than {SIZE_LIMIT_BYTES} bytes")
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except OSError as error:
        raise InvalidArgumentError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path}: not a text file in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidArgumentError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InvalidArgumentError(f"{path}: not YAML: {error}") from error
    if node is None:
        expected = ", ".join(required)
        raise InvalidArgumentError(f"{path}:1: the file is empty; expected the key {expected}")
    sources: dict[str, str] = {}
    fields = Entry(str(path), "", node, sources).fields(required, ("sources", *optional))
    if "sources" in fields:
        sources.update((key, inner.text()) for key, inner in fields.pop("sources").items())
    return fields
