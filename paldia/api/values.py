"""Core values as JSON and back, exactly, by their declared types.

What is recorded to be run again must be the very value: every field, every digit. So nothing is
listed here field by field: a dataclass is written as the list of its fields, and a field added
to it is written, too. Whatever has no rule is refused, rather than left out.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.forecast.base import Forecaster
from paldia.core.forecast.choice import forecaster_named


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one type are written.

    Attributes:
        write: gives what JSON knows.
        read: undoes `write`; raises ValueError or TypeError for what it can't have given.
        described: the type with all its fields; two types of equal description read each other.
    """

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    described: str


def written(kind: Any, value: Any) -> Any:
    """Give a value of type `kind` as lists, numbers and strings.

    Raises:
        TypeError: there is no rule for a type in it.
    """
    return form_of(kind).write(value)


def read(kind: Any, plain: Any) -> Any:
    """Undo `written`.

    Raises:
        InvalidArgumentError: it is no such value.
    """
    try:
        return form_of(kind).read(plain)
    except (ValueError, TypeError, NotFoundError) as error:
        raise InvalidArgumentError(f"this is no {_name(kind)}: {error}") from None


def described(kind: Any) -> str:
    """Give a type with all its fields, down to numbers and strings."""
    return form_of(kind).described


@functools.cache
def form_of(kind: Any) -> Form:
    """Find the rule for a type.

    Raises:
        TypeError: there is none.
    """
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain
    if kind is Forecaster:
        return Form(lambda value: [value.name, *value.state()], _forecaster, "forecaster")
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        names = ", ".join(str(member.value) for member in kind)
        return Form(operator.attrgetter("value"), kind, f"{kind.__name__}({names})")
    if dataclasses.is_dataclass(kind):
        return _fields_form(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _tuple_form(arguments)
    if origin is Mapping:
        return _mapping_form(*map(form_of, arguments))
    if origin in (typing.Union, types.UnionType) and arguments[1:] == (types.NoneType,):
        return _optional_form(form_of(arguments[0]))
    raise TypeError(f"there is no rule for writing {kind}; add one to {__name__}")


def _fields_form(kind: Any) -> Form:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    forms = [form_of(hints[name]) for name in names]

    def write(value: Any) -> list[Any]:
        if type(value) is not kind:
            raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
        return [form.write(getattr(value, name)) for name, form in zip(names, forms, strict=True)]

    def back(plain: Any) -> Any:
        return kind(*(form.read(item) for form, item in _paired(forms, plain)))

    fields = ", ".join(f"{name}: {form.described}" for name, form in zip(names, forms, strict=True))
    return Form(write, back, f"{kind.__name__}({fields})")


def _tuple_form(arguments: tuple[Any, ...]) -> Form:
    if arguments[-1] is Ellipsis:
        item = form_of(arguments[0])
        return Form(
            lambda value: [item.write(each) for each in value],
            lambda plain: tuple(item.read(each) for each in _listed(plain)),
            f"[{item.described}]",
        )
    forms = [form_of(argument) for argument in arguments]
    return Form(
        lambda value: [form.write(each) for form, each in zip(forms, value, strict=True)],
        lambda plain: tuple(form.read(each) for form, each in _paired(forms, plain)),
        f"({', '.join(form.described for form in forms)})",
    )


def _mapping_form(key: Form, item: Form) -> Form:
    """Write pairs, in the order in which they are held: a step may see it."""
    return Form(
        lambda value: [[key.write(at), item.write(each)] for at, each in value.items()],
        lambda plain: {key.read(at): item.read(each) for at, each in _listed(plain)},
        f"{{{key.described}: {item.described}}}",
    )


def _optional_form(inner: Form) -> Form:
    return Form(
        lambda value: None if value is None else inner.write(value),
        lambda plain: None if plain is None else inner.read(plain),
        f"{inner.described}?",
    )


def _paired(forms: list[Form], plain: Any) -> Iterator[tuple[Form, Any]]:
    return zip(forms, _listed(plain), strict=True)


def _listed(plain: Any) -> list[Any]:
    if not isinstance(plain, list):
        raise TypeError(f"a list expected, not {type(plain).__name__}")
    return plain


def _forecaster(plain: Any) -> Forecaster:
    name, *state = _listed(plain)
    return forecaster_named(name).from_state(state)


def _number(value: Any) -> int | float:
    """Take a float as it is, and a whole number as one: `1` and `1.0` print differently."""
    return value if type(value) is int else float(value)


def _exactly(kind: type) -> Callable[[Any], Any]:
    def back(plain: Any) -> Any:
        if type(plain) is not kind:
            raise TypeError(f"{kind.__name__} expected, not {type(plain).__name__}")
        return plain

    return back


def _read_number(plain: Any) -> int | float:
    if type(plain) not in (int, float):
        raise TypeError(f"a number expected, not {type(plain).__name__}")
    return typing.cast(int | float, plain)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


_PLAIN: dict[Any, Form] = {
    bool: Form(bool, _exactly(bool), "bool"),
    # numpy's whole numbers are taken, a fraction is not.
    int: Form(operator.index, _exactly(int), "int"),
    float: Form(_number, _read_number, "float"),
    str: Form(_exactly(str), _exactly(str), "str"),
}
