"""How good forecasts of arrivals are: pinball loss against what came."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError
from paldia.core.forecast import noise
from paldia.core.forecast.base import Forecaster

Rates = npt.NDArray[np.float64]

QUANTILES = (0.5, 0.9, 0.99)
WINDOW_S = 0.2
"""The objective's latency: how many requests come within it decides how many wait."""
RATE_HORIZONS_S = (WINDOW_S, 1.0)
PEAK_HORIZONS_S = (10.0, 60.0)
HORIZONS_S = RATE_HORIZONS_S + PEAK_HORIZONS_S
SETTLING_S = 60
"""The first minute isn't scored: nobody has seen anything yet."""

REFERENCE = "last value"

Key = tuple[float, float]
"""(horizon_s, quantile)."""


@dataclass(frozen=True, slots=True)
class Load:
    """Arrivals of one model.

    Attributes:
        counts: requests in each `WINDOW_S` seconds, shape (windows,), whole seconds.
    """

    name: str
    counts: npt.NDArray[np.int64]

    @property
    def per_second(self) -> Rates:
        """Requests of each second, shape (seconds,)."""
        seconds: Rates = self.counts.reshape(-1, round(1 / WINDOW_S)).sum(axis=1).astype(np.float64)
        return seconds


def pinball(truth: Rates, forecast: Rates, quantile: float) -> float:
    """Mean pinball loss: least where `forecast` is the `quantile` of `truth`.

    Too low by one costs `quantile`, too high by one costs `1 - quantile`. Shapes are equal;
    rows where `truth` isn't known (NaN) don't count.

    Raises:
        InvalidArgumentError: nothing is known.
    """
    short = (truth - forecast)[~np.isnan(truth)]
    if not len(short):
        raise InvalidArgumentError("no forecast can be scored: there is no truth to compare with")
    return float(np.mean(np.maximum(quantile * short, (quantile - 1) * short)))


def truth(load: Load, horizon_s: float) -> Rates:
    """What a forecast made at the end of each second should have said, shape (seconds,).

    Up to 1 s: the rate of the next `horizon_s` seconds. Beyond: the highest one-second rate
    within them. NaN where the trace ends before, and in the first minute.
    """
    rates = load.per_second
    actual = np.full(len(rates), np.nan)
    if horizon_s < 1:
        actual[:-1] = load.counts.reshape(len(rates), -1)[1:, 0] / horizon_s
    else:
        seconds = round(horizon_s)
        windows = np.lib.stride_tricks.sliding_window_view(rates[1:], seconds)
        actual[: len(windows)] = windows.max(axis=1)
    actual[:SETTLING_S] = np.nan
    return actual


def forecasts(
    forecaster: Forecaster, load: Load, progress: Callable[[int], None] = lambda _: None
) -> dict[Key, Rates]:
    """Let a forecaster see a load second by second; give what it said after each.

    Up to 1 s it is what the queue's bound makes of the rate and the dispersion, beyond it is
    the forecaster's own peak. `progress` gets the seconds done since it was last called.
    """
    config = PolicyConfig()
    keys = [(horizon_s, quantile) for horizon_s in HORIZONS_S for quantile in QUANTILES]
    rates = load.per_second.tolist()
    said = np.empty((len(keys), len(rates)))
    for second, arrivals in enumerate(rates):
        forecaster = forecaster.after(arrivals, 1.0, config)
        rate, dispersion = forecaster.requests_per_second, forecaster.dispersion
        for row, (horizon_s, quantile) in enumerate(keys):
            if horizon_s > 1:
                said[row, second] = forecaster.peak(horizon_s, quantile)
            else:
                deviations = noise.normal_quantile(quantile)
                said[row, second] = rate + deviations * math.sqrt(rate * dispersion / horizon_s)
        if second % 1000 == 999:
            progress(1000)
    return {key: np.maximum(said[row], 0.0) for row, key in enumerate(keys)}


def last_value(load: Load) -> dict[Key, Rates]:
    """Give the reference: what comes is what came in the last second, at every confidence."""
    rates = load.per_second
    return {(horizon_s, q): rates for horizon_s in HORIZONS_S for q in QUANTILES}


def losses(said: dict[Key, Rates], load: Load) -> dict[Key, float]:
    """Pinball loss of each forecast over the load's mean rate."""
    mean = float(load.per_second.mean())
    return {
        (horizon_s, quantile): pinball(truth(load, horizon_s), forecast, quantile) / mean
        for (horizon_s, quantile), forecast in said.items()
    }


def coverage(said: dict[Key, Rates], load: Load) -> dict[Key, float]:
    """Share of the forecasts that weren't surpassed; the quantile, if all is well."""
    shares = {}
    for (horizon_s, quantile), forecast in said.items():
        actual = truth(load, horizon_s)
        known = ~np.isnan(actual)
        shares[horizon_s, quantile] = float(np.mean(actual[known] <= forecast[known]))
    return shares


def microseconds_per_update(kind: type[Forecaster], load: Load) -> float:
    """Processor time of one update, the least of three passes over at most 3000 seconds."""
    rates, config, best_s = load.per_second[:3000].tolist(), PolicyConfig(), math.inf
    for _ in range(3):
        forecaster, began_s = kind(), time.process_time()
        for arrivals in rates:
            forecaster = forecaster.after(arrivals, 1.0, config)
        best_s = min(best_s, time.process_time() - began_s)
    return best_s / len(rates) * 1e6


def state_size(kind: type[Forecaster], load: Load) -> int:
    """Numbers that have to be stored after a whole load."""
    forecaster, config = kind(), PolicyConfig()
    for arrivals in load.per_second.tolist():
        forecaster = forecaster.after(arrivals, 1.0, config)
    return len(forecaster.state())


def described(load: Load) -> dict[str, str | float]:
    """Say what kind of load it is."""
    rates = load.per_second
    return {
        "name": load.name,
        "hours": len(rates) / 3600,
        "mean_rps": float(rates.mean()),
        "highest_rps": float(rates.max()),
        "silent": float(np.mean(rates == 0)),
    }
