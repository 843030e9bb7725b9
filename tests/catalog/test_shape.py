"""Floor and slope of L(b): the formula's laws, and that a fit gives back what made the points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paldia.catalog.shape import Shape, along, fit, straight_line

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
shapes = st.builds(
    Shape, st.floats(0.1, 100.0), st.floats(0.01, 20.0), st.sampled_from([1.0, 1.5, 2.5])
)


@given(shapes, st.integers(1, 512))
def test_a_batch_takes_longer_than_a_smaller_one_and_less_than_its_parts(shape: Shape, batch: int):
    one, more = shape.latency_ms(batch), shape.latency_ms(batch + 1)
    assert one < more < one + shape.latency_ms(1)


@given(shapes, st.integers(1, 512))
def test_it_lies_between_its_greater_part_and_the_sum_of_both(shape: Shape, batch: int):
    work = shape.slope_ms * batch
    ms = shape.latency_ms(batch)
    assert max(shape.floor_ms, work) <= ms * (1 + 1e-12)
    assert ms <= (shape.floor_ms + work) * (1 + 1e-12)
    assert 0 < shape.growing_share(batch) <= 1


@given(shapes)
def test_a_fit_gives_back_what_made_the_points(shape: Shape):
    made = [(batch, shape.latency_ms(batch)) for batch in BATCHES]
    found = fit(made, shape.sharpness)
    # A part that shows nowhere can't be found; the times it makes are.
    for batch, ms in made:
        assert found.latency_ms(batch) == pytest.approx(ms, rel=0.02)
    if shape.floor_ms / shape.latency_ms(1) > 0.2 and shape.growing_share(128) > 0.8:
        assert found.floor_ms == pytest.approx(shape.floor_ms, rel=0.05)
        assert found.slope_ms == pytest.approx(shape.slope_ms, rel=0.05)


def test_batches_beyond_what_the_shape_knows_are_left_out_of_a_fit():
    made = [(batch, Shape(10.0, 1.0, 2.5).latency_ms(batch)) for batch in BATCHES]
    assert fit([*made, (256, 5000.0)], 2.5) == fit(made, 2.5)


def test_a_line_is_given_by_its_ends_and_points_are_joined():
    start, end = straight_line([(0.25, 1.5), (0.5, 2.0), (0.75, 2.5)])
    assert (start, end) == pytest.approx((1.0, 3.0))
    points = [(1, 10.0), (3, 30.0)]
    assert [along(points, x) for x in (0, 1, 2, 3, 4)] == [10.0, 10.0, 20.0, 30.0, 30.0]
