"""Which forecasters there are, and which answers which question unless told otherwise."""

from __future__ import annotations

from paldia.core.errors import NotFoundError
from paldia.core.forecast.base import Forecaster, RateEstimate
from paldia.core.forecast.past import BlockQuantile, WindowMax
from paldia.core.forecast.surprise import Surprise
from paldia.core.forecast.trend import Holt

FORECASTERS: tuple[type[Forecaster], ...] = (
    RateEstimate,
    Holt,
    WindowMax,
    BlockQuantile,
    Surprise,
)

DEFAULT: type[Forecaster] = Surprise
"""The best of `make bench-forecast` at both questions; see docs/forecast.md."""


def forecaster_named(name: str) -> type[Forecaster]:
    """Find a forecaster.

    Raises:
        NotFoundError: there is none of that name; the message lists those there are.
    """
    for forecaster in FORECASTERS:
        if forecaster.name == name:
            return forecaster
    names = ", ".join(forecaster.name for forecaster in FORECASTERS)
    raise NotFoundError(f"no forecaster named {name!r}; there are {names}")
