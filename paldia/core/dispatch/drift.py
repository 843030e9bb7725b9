"""How much longer batches take on a lane than its profile says, by the batches that were done.

Neighbours, heat, a machine in a bad state, an old profile: whatever it is, predictions by the
profile alone would call in time what is late.
"""

from __future__ import annotations

import math

from paldia.core.correction import followed

WEIGHT = 0.1
"""What one batch counts against all before it."""
STEP_MOST = 2.0
"""Most that one batch may differ from those before it: a pause is no property of the lane."""
FADE_S = 30.0
"""Idle time in which it fades to 1/e: who is refused for a slow lane never sees it recover."""


class Drift:
    """What was seen of a lane.

    Attributes:
        ratio: weighted mean of observed over predicted time, of the latest batches most.
        factor: what predictions are multiplied by; at least 1, for small batches may be faster
            than foretold and full ones then not.
    """

    __slots__ = ("factor", "ratio")

    def __init__(self) -> None:
        self.ratio = 1.0
        self.factor = 1.0

    def learn(self, observed_s: float, predicted_s: float) -> None:
        """Take a batch in that was done; `predicted_s`, above 0, is by the profile alone."""
        ratio = followed(self.ratio, observed_s / predicted_s, WEIGHT, STEP_MOST)
        self.ratio, self.factor = ratio, max(1.0, ratio)

    def fade(self, idle_s: float) -> None:
        """Reckon with less delay after so much more time without a batch."""
        if self.factor > 1.0:
            self.ratio = self.factor = 1.0 + (self.factor - 1.0) * math.exp(-idle_s / FADE_S)
