"""The policies that are compared: how each shares a device, and how it chooses hardware.

`PALDIA` is the product's. The others are what it is measured against: time sharing and space
sharing as earlier systems do them, each with a cheap and a fast choice of hardware, two that
differ from it in one thing, the source paper's split, and two that know the future.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.profiles import Profile
from paldia.core.sharing.prediction import SharingRule


class HardwareRule(enum.Enum):
    """How hardware is chosen."""

    PLANNED = "planned"
    """The cheapest that keeps the SLO at the demand that is expected."""
    CHEAPEST_GPU = "cheapest GPU"
    """The cheapest GPU on which one request alone keeps the SLO, whatever the load."""
    FASTEST = "fastest"
    """The hardware that gets most requests done in batches that keep the SLO, always."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to serve.

    Attributes:
        foresight: demand is known beforehand, for as long as a change of hardware takes.
        instant: hardware changes and models load in no time.
        linger_share: how long a batch waits for more to join it at most, as a share of the SLO; it
            starts earlier where it would be late otherwise (`dispatch.types`).
    """

    name: str
    sharing: SharingRule = SharingRule.LANES
    hardware: HardwareRule = HardwareRule.PLANNED
    foresight: bool = False
    instant: bool = False
    linger_share: float = 0.0

    @property
    def late_yields(self) -> bool:
        """Whether requests that are late already let others pass; see `dispatch.types`."""
        return self.sharing is SharingRule.LANES

    @property
    def moves(self) -> bool:
        """Whether it leaves hardware that serves for other hardware."""
        return self.hardware is HardwareRule.PLANNED

    @property
    def sees_interference(self) -> bool:
        """Whether it knows that batches slow each other."""
        return self.sharing is not SharingRule.SPACE

    @property
    def is_told(self) -> bool:
        """Whether it is told what can't be seen: what comes, or a trace's mean rate."""
        return self.foresight or self.instant or self.sharing is SharingRule.FIXED

    def linger_s(self, slo_s: float) -> float:
        """Seconds that a batch of a model with that SLO waits for more to join it at most."""
        return self.linger_share * slo_s

    def slowdowns(self, profile: Profile, demand: float, lanes: int) -> tuple[float, ...]:
        """Give the slowdown that it expects of each of 1, 2, ... `lanes` batches at once.

        Args:
            demand: share of the device that one batch takes.
        """
        if not self.sees_interference:
            return (1.0,) * lanes
        return tuple(float(profile.slowdown(count, demand)) for count in range(1, lanes + 1))


PALDIA = Policy("paldia")
POLICIES = (
    Policy("molecule-cost", SharingRule.TIME, HardwareRule.CHEAPEST_GPU),
    Policy("molecule-perf", SharingRule.TIME, HardwareRule.FASTEST),
    Policy("infless-llama-cost", SharingRule.SPACE, HardwareRule.CHEAPEST_GPU, linger_share=1.0),
    Policy("infless-llama-perf", SharingRule.SPACE, HardwareRule.FASTEST, linger_share=1.0),
    Policy("triton-dynamic", SharingRule.DYNAMIC),
    Policy("static-lanes", SharingRule.FIXED),
    Policy("paldia-paper", SharingRule.PAPER),
    PALDIA,
    Policy("oracle-delay", foresight=True),
    Policy("oracle", foresight=True, instant=True),
)
LIVE_POLICIES = tuple(policy for policy in POLICIES if not policy.is_told)
"""Those that can serve for real."""


def policy_named(name: str) -> Policy:
    """Give the policy of that name.

    Raises:
        NotFoundError: there is none; the message lists all.
    """
    for policy in POLICIES:
        if policy.name == name:
            return policy
    names = ", ".join(policy.name for policy in POLICIES)
    raise NotFoundError(f"no policy named {name!r}; there are {names}")


def live_policy_named(name: str) -> Policy:
    """Give the policy of that name, if it can serve for real.

    Raises:
        InvalidArgumentError: there is none, or it is told what can't be seen; the message lists
            those that can.
    """
    for policy in LIVE_POLICIES:
        if policy.name == name:
            return policy
    names = ", ".join(policy.name for policy in LIVE_POLICIES)
    if any(policy.name == name for policy in POLICIES):
        cause = f"policy {name!r} is told beforehand what comes, so it can only be simulated"
    else:
        cause = f"no policy named {name!r}"
    raise InvalidArgumentError(f"{cause}; those that can serve are {names}")
