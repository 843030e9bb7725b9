"""What is known of each artifact on each kind of hardware: measured, corrected, or estimated.

Measured profiles are in the store. What serving shows of them is kept in memory, begins anew
with each measurement, and is always reckoned against the profile as it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from paldia.api import convert
from paldia.api.v1 import control_pb2, types_pb2
from paldia.core.correction import Correction, applied_ratio, corrected
from paldia.core.estimates import estimated, relative_latency
from paldia.core.profiles import Profile
from paldia.core.types import Hardware
from paldia_controller.state import Record, State, profile_key

ByHardware = dict[str, Profile | None]


@dataclass
class _Known:
    """A stored profile, and what serving shows of it."""

    row: Record[types_pb2.Profile]
    measured: Profile | None
    correction: Correction = field(default_factory=Correction)
    applied: float = 1.0
    profile: Profile | None = None

    def __post_init__(self) -> None:
        self.profile = self.measured


class Knowledge:
    """All profiles, by their keys in the store (`profile_key`)."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, _Known] = {}

    def _get(self, key: str) -> _Known | None:
        row = self._state.profiles.rows.get(key)
        if row is None:
            self._known.pop(key, None)
            return None
        known = self._known.get(key)
        # After a resync equal rows are other objects.
        if known is None or (known.row is not row and known.row != row):
            known = _Known(row, convert.profile_from_proto(row.message))
            self._known[key] = known
        return known

    def heard(self, key: str, mean_ratio: float, batches: int) -> bool:
        """Take in how much longer batches took than was measured; whether anything follows."""
        known = self._get(key)
        if known is None or known.measured is None:
            return False
        known.correction = known.correction.after(mean_ratio, batches)
        applied = applied_ratio(known.applied, known.correction)
        if applied == known.applied:
            return False
        known.applied, known.profile = applied, corrected(known.measured, applied)
        return True

    def profile(self, key: str) -> Profile | None:
        """Give a profile, corrected; None if there is none or it could not be measured."""
        known = self._get(key)
        return known.profile if known is not None else None

    def applied(self, key: str) -> float:
        """Give the factor that a profile's latencies are corrected by."""
        known = self._get(key)
        return known.applied if known is not None else 1.0

    def is_stale(self, key: str) -> bool:
        """Whether serving shows that a profile has to be measured anew."""
        known = self._get(key)
        return known is not None and known.correction.is_stale

    def stale_keys(self) -> list[str]:
        """List the profiles that have to be measured anew."""
        return [key for key in sorted(self._known) if self.is_stale(key)]

    def stale_profiles(self) -> list[control_pb2.StaleProfile]:
        """Give what was measured of the serving models and is no longer so."""
        stale = [key.split("/") for key in self.stale_keys()]
        return [
            control_pb2.StaleProfile(
                model=name, hardware=hardware, check=self.check(profile_key(digest, hardware))
            )
            for name, record in sorted(self._state.models.rows.items())
            for digest, hardware in stale
            if record.message.serving.spec.artifact_digest == digest
        ]

    def check(self, key: str) -> types_pb2.ProfileCheck | None:
        """Give what serving shows of a profile; None as long as that is nothing."""
        known = self._get(key)
        if known is None or not known.correction.batches:
            return None
        correction = known.correction
        return types_pb2.ProfileCheck(
            ratio=correction.ratio, batches=correction.batches, stale=correction.is_stale
        )

    def told(self, digest: str) -> list[types_pb2.Profile]:
        """Give all stored profiles of an artifact, each with what serving shows of it."""
        found = []
        for key, row in sorted(self._state.profiles.rows.items()):
            if key.startswith(f"{digest}/"):
                profile = types_pb2.Profile()
                profile.CopyFrom(row.message)
                check = self.check(key)
                if check is not None:
                    profile.check.CopyFrom(check)
                found.append(profile)
        return found

    def for_planning(self, hardware: Iterable[Hardware]) -> dict[str, ByHardware]:
        """Give what is known by artifact, then by hardware, with estimates where nothing is.

        None where a model could not be measured. There is an estimate for each kind of
        `hardware` once the artifact has been measured somewhere, until it has been there.
        """
        kinds = {each.name: each for each in hardware}
        found: dict[str, ByHardware] = {}
        for key in sorted(self._state.profiles.rows):
            digest, _, kind = key.partition("/")
            found.setdefault(digest, {})[kind] = self.profile(key)
        lacking = {
            digest: [kind for kind in sorted(kinds) if kind not in by_kind]
            for digest, by_kind in found.items()
        }
        estimates = {
            digest: {kind: _estimate(found, digest, kinds[kind], kinds) for kind in missing}
            for digest, missing in lacking.items()
        }
        for digest, by_kind in estimates.items():
            found[digest] |= {kind: it for kind, it in by_kind.items() if it is not None}
        return found


def _estimate(
    found: Mapping[str, ByHardware], digest: str, target: Hardware, kinds: Mapping[str, Hardware]
) -> Profile | None:
    """Estimate a profile from the kind that most other models compare with `target`.

    Of equals from the one closest in price.
    """
    origins = {
        kind: profile
        for kind, profile in found[digest].items()
        if profile is not None and kind in kinds
    }
    if not origins:
        return None
    evidence = {kind: [*_pairs(found.values(), target.name, kind)] for kind in origins}

    def order(kind: str) -> tuple[int, float, str]:
        apart = abs(kinds[kind].price_usd_per_hour - target.price_usd_per_hour)
        return -len(evidence[kind]), apart, kind

    origin = min(origins, key=order)
    ratio = relative_latency(evidence[origin])
    return estimated(origins[origin], ratio, kinds[origin], target)


def _pairs(found: Iterable[ByHardware], here: str, there: str) -> Iterable[tuple[Profile, Profile]]:
    for by_kind in found:
        one, other = by_kind.get(here), by_kind.get(there)
        if one is not None and other is not None:
            yield one, other
