"""Profiles corrected by what is seen: each completed batch tells how right they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paldia.core.errors import InvalidArgumentError
from paldia.core.profiles import Profile

MEMORY_BATCHES = 200
"""Batches over which an observation fades to 1/e; and how many it takes to call a profile stale."""
STALE_ERROR = 0.25
"""A profile this far off, as a share, has to be measured anew."""
RATIO_LIMIT = 10.0
"""Most that one batch may be off: a pause of the machine is no property of the model."""


@dataclass(frozen=True, slots=True)
class Correction:
    """How much longer batches of one model take on one kind of hardware than its profile says.

    Attributes:
        ratio: exponentially weighted mean of observed over predicted time.
        batches: how many it rests on.
    """

    ratio: float = 1.0
    batches: int = 0

    def after(self, observed_s: float, predicted_s: float) -> Correction:
        """Give the correction updated by a batch; `predicted_s` is by the profile uncorrected.

        The first batches count alike, until there are enough to fade.

        Raises:
            InvalidArgumentError: a time isn't above 0 s.
        """
        if not (observed_s > 0 and predicted_s > 0):
            raise InvalidArgumentError("a batch takes more than 0 s")
        seen = min(max(observed_s / predicted_s, 1 / RATIO_LIMIT), RATIO_LIMIT)
        weight = max(1 / MEMORY_BATCHES, 1 / (self.batches + 1))
        return Correction(self.ratio + weight * (seen - self.ratio), self.batches + 1)

    @property
    def error(self) -> float:
        """How far off the profile is, as a share of what it says."""
        return abs(self.ratio - 1)

    @property
    def is_stale(self) -> bool:
        """Whether the profile has to be measured anew."""
        return self.batches >= MEMORY_BATCHES and self.error > STALE_ERROR


def corrected(profile: Profile, correction: Correction) -> Profile:
    """Give the profile with every latency multiplied by what was observed."""
    if correction.ratio == 1:
        return profile
    points = tuple((batch, latency_s * correction.ratio) for batch, latency_s in profile.points)
    return replace(profile, points=points)
