"""Whatever a step is made of is written whole, and read back as it was."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.api import values
from paldia.api.recording import Recording
from paldia.core import types
from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError
from paldia.core.forecast.base import Forecaster
from paldia.core.forecast.choice import FORECASTERS
from paldia.core.profiles import Profile
from tests.api.steps import eventful

numbers = st.floats(allow_nan=False, width=64)
shares = st.floats(0, 1, exclude_min=True, exclude_max=True)


def by_batch(amounts):
    """Give amounts at ascending batch sizes."""
    points = st.dictionaries(st.integers(1, 512), amounts, min_size=1, max_size=3)
    return points.map(lambda found: tuple(sorted(found.items())))


@st.composite
def forecasters(draw) -> Forecaster:
    seen = draw(st.sampled_from(FORECASTERS))()
    for arrivals in draw(st.lists(st.integers(0, 400), max_size=4)):
        seen = seen.after(arrivals, draw(st.floats(0.5, 90)), PolicyConfig())
    return seen


VALID = {
    types.Slo: st.builds(types.Slo, st.floats(1e-6, types.SLO_LIMIT_S), shares),
    Forecaster: forecasters(),
    PolicyConfig: st.builds(
        PolicyConfig, payback_s=st.floats(1e-3, 1e9), lanes_limit=st.integers(1, 99)
    ),
}
"""Values whose fields go together; of all others any will do."""
LIMITED = {
    (types.Model, "max_batch"): st.integers(0, types.COUNT_LIMIT),
    (types.Model, "min_replicas"): st.integers(0, types.COUNT_LIMIT),
    (types.Model, "keep_alive_s"): st.floats(0, types.KEEP_ALIVE_LIMIT_S),
    (Profile, "points"): by_batch(st.floats(1e-9, 1e9)),
    (Profile, "demand"): by_batch(shares),
    (Profile, "sm_share"): by_batch(shares),
    (Profile, "colocation_penalty"): st.floats(0, 9),
    (Profile, "interference"): st.lists(st.floats(1, 9), max_size=3).map(tuple),
    (Profile, "watts"): st.floats(0, 999),
}


def any_of(kind):
    """Give any value of a type: every field of it, so also those that are added later."""
    if kind in VALID:
        return VALID[kind]
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        names = [each.name for each in dataclasses.fields(kind)]
        fields = {name: any_of(hints[name]) for name in names if (kind, name) not in LIMITED}
        return st.builds(
            kind, **fields, **{name: LIMITED[kind, name] for name in names if name not in fields}
        )
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(any_of(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(any_of, arguments))
    if origin is Mapping:
        return st.dictionaries(*map(any_of, arguments), max_size=2)
    return st.one_of(st.none(), any_of(arguments[0]))


PLAIN = {
    bool: st.booleans(),
    int: st.integers(-(2**62), 2**62),
    float: numbers,
    str: st.text(max_size=5),
}


def there_and_back(kind, value):
    return values.read(kind, json.loads(json.dumps(values.written(kind, value))))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_field_of_a_recording_comes_back_as_it_was(data):
    recording = data.draw(any_of(Recording))
    back = there_and_back(Recording, recording)
    assert back == recording
    # Digests are taken of how values print, so even a whole number must stay one.
    assert repr(back) == repr(recording)


def test_real_steps_come_back_as_they_were():
    for recording in eventful():
        assert repr(there_and_back(Recording, recording)) == repr(recording)


def test_the_order_of_a_mapping_is_kept():
    kind = Mapping[str, int]
    assert list(there_and_back(kind, {"b": 1, "a": 2})) == ["b", "a"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.1 + 0.2, 5e-324, -0.0, 7])
def test_numbers_keep_their_last_digit(value):
    assert repr(there_and_back(float, value)) == repr(value)


def test_numbers_of_arrays_are_written_as_numbers():
    assert values.written(int, np.int64(3)) == 3
    assert values.written(float, np.float64(0.1)) == 0.1
    assert values.written(bool, np.bool_(True)) is True
    with pytest.raises(TypeError):
        values.written(int, 3.5)


@dataclass(frozen=True)
class Before:
    count: int


@dataclass(frozen=True)
class After:
    count: int
    rate: float = 0.0


@dataclass(frozen=True)
class Strange:
    seen: set[str]


def test_a_field_that_is_added_is_part_of_the_description_and_of_what_is_written():
    assert "rate: float" in values.described(After)
    assert "rate" not in values.described(Before)
    assert values.written(After, After(1, 2.5)) == [1, 2.5]


def test_a_type_without_a_rule_is_refused_and_not_left_out():
    with pytest.raises(TypeError, match="no rule"):
        values.described(Strange)


def test_another_type_in_a_field_is_refused():
    with pytest.raises(TypeError, match="Before expected"):
        values.written(Before, After(1))


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (Before, [1, 2]),
        (Before, []),
        (Before, 1),
        (Before, [1.5]),
        (int, True),
        (str, 3),
        (bool, 0),
        (float, "1"),
        (types.NodeState, "flying"),
        (tuple[int, ...], 3),
        (tuple[int, str], [1]),
        (Mapping[str, int], [["a"]]),
        (types.Slo, [0.0, 0.5]),
        (Forecaster, ["ewma", 1.0]),
        (Forecaster, []),
    ],
)
def test_what_is_no_such_value_is_refused(kind, plain):
    with pytest.raises(InvalidArgumentError):
        values.read(kind, plain)


def test_a_forecaster_that_is_not_known_is_refused():
    with pytest.raises(InvalidArgumentError, match="crystal ball"):
        values.read(Forecaster, ["crystal ball", 1.0])
