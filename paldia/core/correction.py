"""Profiles corrected by what is seen: each completed batch tells how right they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile

MEMORY_BATCHES = 200
"""Batches over which an observation fades to 1/e; and how many it takes to call a profile stale."""
STALE_ERROR = 0.25
"""A profile this far off, as a share, has to be measured anew."""
TRUSTED_BATCHES = 20
"""Batches before a profile is corrected at all."""
STEP = 0.05
"""A correction that differs by less from the one in use, as a share, changes nothing."""
RATIO_LIMIT = 10.0
"""Most that one batch may be off: a pause of the machine is no property of the model."""


def batch_ratio(observed_s: float, predicted_s: float) -> float:
    """Give how much longer a batch took than its profile says, within limits.

    Raises:
        InvalidArgumentError: a time isn't above 0 s.
    """
    if not (observed_s > 0 and predicted_s > 0):
        raise InvalidArgumentError("a batch takes more than 0 s")
    return min(max(observed_s / predicted_s, 1 / RATIO_LIMIT), RATIO_LIMIT)


def followed(ratio: float, seen: float, weight: float, step_most: float) -> float:
    """Give a mean of observed over predicted time after one more batch of that weight.

    The batch counts as no further off than `step_most` times the mean, up or down, nor than
    `RATIO_LIMIT`.
    """
    if seen > ratio:
        bounded = min(seen, ratio * step_most, RATIO_LIMIT)
    else:
        bounded = max(seen, ratio / step_most, 1 / RATIO_LIMIT)
    return ratio + weight * (bounded - ratio)


@dataclass(frozen=True, slots=True)
class Correction:
    """How much longer batches of one model take on one kind of hardware than its profile says.

    Attributes:
        ratio: exponentially weighted mean of observed over predicted time.
        batches: how many it rests on.
    """

    ratio: float = 1.0
    batches: int = 0

    def after(self, mean_ratio: float, batches: int = 1) -> Correction:
        """Give the correction updated by so many batches, whose mean ratio that was.

        The first batches count alike, until there are enough to fade. A ratio is to the profile
        uncorrected: what is predicted by a corrected one says nothing about it.

        Raises:
            InvalidArgumentError: the ratio isn't above 0, or batches are below 0.
        """
        if not (0 < mean_ratio < math.inf and batches >= 0):
            raise InvalidArgumentError("batches took a time above 0 s, and there are none below 0")
        alike = max(0, min(batches, MEMORY_BATCHES - self.batches))
        ratio = self.ratio
        if alike:
            ratio += (mean_ratio - ratio) * alike / (self.batches + alike)
        fading = batches - alike
        ratio = mean_ratio + (ratio - mean_ratio) * (1 - 1 / MEMORY_BATCHES) ** fading
        return Correction(ratio, self.batches + batches)

    @property
    def error(self) -> float:
        """How far off the profile is, as a share of what it says."""
        return abs(self.ratio - 1)

    @property
    def is_stale(self) -> bool:
        """Whether the profile has to be measured anew."""
        return self.batches >= MEMORY_BATCHES and self.error > STALE_ERROR


def applied_ratio(applied: float, correction: Correction) -> float:
    """Give the factor to correct by, while `applied` is the one in use.

    It changes in steps, for each change is told to all who plan with it; and only on the word
    of enough batches.
    """
    known = correction.batches >= TRUSTED_BATCHES
    return correction.ratio if known and abs(correction.ratio / applied - 1) > STEP else applied


def corrected(profile: Profile, ratio: float) -> Profile:
    """Give the profile with every latency multiplied by what was observed."""
    if ratio == 1:
        return profile
    points = tuple((batch, latency_s * ratio) for batch, latency_s in profile.points)
    return replace(profile, points=points)
