"""Which of the candidates a policy would look at: all, or the one that its rule names."""

from __future__ import annotations

from collections.abc import Sequence

from paldia.core.baselines import HardwareRule
from paldia.core.observation import Candidate, ModelView
from paldia.core.placement.occupancy import Fleet
from paldia.core.profiles import Profile


def eligible(
    rule: HardwareRule, options: Sequence[Candidate], view: ModelView, fleet: Fleet
) -> tuple[Candidate, ...]:
    """Leave of the candidates what a rule would look at."""
    if rule is HardwareRule.PLANNED:
        return tuple(options)
    known = {
        option.hardware: (option, profile)
        for option in options
        if option.servable and (profile := view.profiles[option.hardware]) is not None
    }
    slo_s = view.model.slo.latency_s
    if rule is HardwareRule.CHEAPEST_GPU:
        kinds = {name: fleet.at(int(fleet.of_kind(name)[0])).hardware for name in known}
        fitting = {
            (kinds[name].price_usd_per_hour, name): option
            for name, (option, profile) in known.items()
            if kinds[name].gpus and profile.latency_s(1) <= slo_s
        }
        if fitting:
            return (fitting[min(fitting)],)
    by_speed = {
        (_least_time_s(profile, slo_s), name): option for name, (option, profile) in known.items()
    }
    return (by_speed[min(by_speed)],) if by_speed else ()


def _least_time_s(profile: Profile, slo_s: float) -> float:
    """Give the seconds per request in the best of batches that keep the SLO; alone if none does."""
    times_s = [seconds / batch for batch, seconds in profile.points if seconds <= slo_s]
    return min(times_s, default=profile.latency_s(1))
