"""The policies that are compared: how each shares a device, and how it chooses hardware.

`PALDIA` is the product's. The others are what it is measured against: time sharing and space
sharing as earlier systems do them, each with a cheap and a fast choice of hardware, two that
differ from it in one thing, the source paper's split, and two that know the future.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from paldia.core.errors import NotFoundError
from paldia.core.observation import Candidate, ModelView
from paldia.core.placement.occupancy import Fleet
from paldia.core.sharing.prediction import SharingRule


class HardwareRule(enum.Enum):
    """How hardware is chosen."""

    PLANNED = "planned"
    """The cheapest that keeps the SLO at the demand that is expected."""
    CHEAPEST_GPU = "cheapest GPU"
    """The cheapest GPU on which one request alone keeps the SLO, whatever the load."""
    FASTEST = "fastest"
    """The hardware on which one request alone is answered first, always."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to serve.

    Attributes:
        foresight: demand is known beforehand, for as long as a change of hardware takes.
        instant: hardware changes and models load in no time.
    """

    name: str
    sharing: SharingRule = SharingRule.LANES
    hardware: HardwareRule = HardwareRule.PLANNED
    foresight: bool = False
    instant: bool = False

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


PALDIA = Policy("paldia")
POLICIES = (
    Policy("molecule-cost", SharingRule.TIME, HardwareRule.CHEAPEST_GPU),
    Policy("molecule-perf", SharingRule.TIME, HardwareRule.FASTEST),
    Policy("infless-llama-cost", SharingRule.SPACE, HardwareRule.CHEAPEST_GPU),
    Policy("infless-llama-perf", SharingRule.SPACE, HardwareRule.FASTEST),
    Policy("triton-dynamic", SharingRule.DYNAMIC),
    Policy("static-lanes", SharingRule.FIXED),
    Policy("paldia-paper", SharingRule.PAPER),
    PALDIA,
    Policy("oracle-delay", foresight=True),
    Policy("oracle", foresight=True, instant=True),
)


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


def narrowed(
    rule: HardwareRule, options: Sequence[Candidate], view: ModelView, fleet: Fleet
) -> tuple[Candidate, ...]:
    """Leave of the candidates what a rule would look at: all, or one."""
    if rule is HardwareRule.PLANNED:
        return tuple(options)
    alone_s = {
        option.hardware: profile.latency_s(1)
        for option in options
        if option.servable and (profile := view.profiles[option.hardware]) is not None
    }
    known = [option for option in options if option.hardware in alone_s]
    kinds = {name: fleet.at(int(fleet.of_kind(name)[0])).hardware for name in alone_s}
    if rule is HardwareRule.CHEAPEST_GPU:
        fitting = [
            option
            for option in known
            if kinds[option.hardware].gpus and alone_s[option.hardware] <= view.model.slo.latency_s
        ]
        if fitting:
            cheapest = min(
                fitting, key=lambda o: (kinds[o.hardware].price_usd_per_hour, o.hardware)
            )
            return (cheapest,)
    return tuple(sorted(known, key=lambda option: (alone_s[option.hardware], option.hardware))[:1])
