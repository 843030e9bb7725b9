"""Text that others wrote."""

from hypothesis import given
from hypothesis import strategies as st

from paldia.kit.text import printable, shorten


@given(st.text(max_size=500), st.integers(30, 200))
def test_what_is_shortened_fits_and_keeps_its_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short.encode()) <= limit
    if len(text.encode()) <= limit:
        assert short == text
    else:
        head, tail = short.split("\n[...]\n", 1)[0], short.rsplit("\n[...]\n", 1)[-1]
        assert text.startswith(head)
        assert text.endswith(tail)


def test_nothing_is_left_that_steers_a_terminal() -> None:
    assert printable("a\x1b[31mred\x1b[0m\r\x07\x9b2J\n\tb") == "ared2J\n\tb"
