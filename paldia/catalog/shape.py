"""How a batch's time grows with its size: L(b) = (floor^p + (slope b)^p)^(1/p).

The floor is what launching the operators takes, however small the batch; the slope is what one
more item takes once the device is full. p says how sharply one gives way to the other: PyTorch's
image networks, launched by the host while the device runs, come out at 2.5; TensorFlow's language
networks, where little overlaps, at 1.5; TensorRT's, where nothing does, at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARPNESS = {"vision": 2.5, "language": 1.5}
TENSORRT_SHARPNESS = 1.0
LARGEST_FITTED_BATCH = 128
"""Beyond it caches and clocks give way, which this shape doesn't know."""
_STEPS = 25


@dataclass(frozen=True, slots=True)
class Shape:
    """L(b) in milliseconds."""

    floor_ms: float
    slope_ms: float
    sharpness: float

    def latency_ms(self, batch: float) -> float:
        """Milliseconds that a batch takes alone."""
        floor, work = self.floor_ms**self.sharpness, (self.slope_ms * batch) ** self.sharpness
        return float((floor + work) ** (1 / self.sharpness))

    def growing_share(self, batch: float) -> float:
        """Share of L(b) that one would save with a floor of 0: how full the device is."""
        return self.slope_ms * batch / self.latency_ms(batch)


def fit(points: Sequence[tuple[int, float]], sharpness: float) -> Shape:
    """Fit floor and slope to (batch, milliseconds), equal relative errors counting equally.

    Each step solves the linear problem around the last answer (Gauss-Newton in logarithms): the
    share of L(b)^p that the floor makes is also how much of a change in it shows in L(b).
    """
    used = [point for point in points if point[0] <= LARGEST_FITTED_BATCH]
    batch = np.array([size for size, _ in used], dtype=float)
    logs = np.log([ms for _, ms in used])
    floor, slope = float(logs[0]) - 0.1, float(logs[-1] - np.log(batch[-1])) - 0.05
    for _ in range(_STEPS):
        powers = np.exp(sharpness * np.array([np.full_like(batch, floor), slope + np.log(batch)]))
        total = powers.sum(axis=0)
        missing = logs - np.log(total) / sharpness
        step = np.linalg.lstsq((powers / total).T, missing, rcond=1e-6)[0]
        floor += float(np.clip(step[0], -0.5, 0.5))
        slope += float(np.clip(step[1], -0.5, 0.5))
    return Shape(float(np.exp(floor)), float(np.exp(slope)), sharpness)


def straight_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line to (x, y) and give y at 0 and at 1."""
    rise, start = np.polyfit([x for x, _ in points], [y for _, y in points], 1)
    return float(start), float(start + rise)


def along(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear between (x, y) by ascending x, level beyond both ends."""
    return float(np.interp(x, [at for at, _ in points], [value for _, value in points]))
