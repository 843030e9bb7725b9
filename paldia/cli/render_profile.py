"""Profiles as text: what was measured of a model, how surely, and what serving shows of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from paldia.cli.output import moment, table
from paldia.client import BatchShare, Profile, Provenance, StaleProfile
from paldia.core.fitting import APART


def profiles(found: Sequence[Profile], title: str = "") -> RenderableType:
    """Give a line for each kind of hardware: what a batch takes, by its size."""
    headings = (
        *("HARDWARE", "NODE", "MS BY BATCH", "DEVICE BY BATCH", "SMS BY BATCH"),
        *("SLOWDOWN OF 1, 2, ...", ">EACH ADDS", ">FIT OFF BY", ">LOAD S", ">MB", ">WATTS"),
        *("FIGURES", "WHEN", "SERVED", "FAILURE"),
    )
    rows = [
        (
            profile.hardware,
            profile.node_id,
            ", ".join(f"{at.batch_size}: {at.latency_s * 1e3:.1f}" for at in profile.points),
            _demand(profile),
            _by_batch(profile.sm_share),
            ", ".join(f"{factor:.2f}" for factor in profile.interference),
            f"{profile.colocation_penalty:.0%}" if profile.full else "",
            "" if profile.fit_error is None else f"{profile.fit_error:.1%}",
            f"{profile.load_s:.1f}" if profile.points else "",
            f"{profile.memory_bytes / 1e6:.0f}" if profile.points else "",
            f"{profile.watts:.0f}" if profile.watts else "",
            _figures(profile),
            moment(profile.measured_at),
            _served(profile),
            profile.failure.partition("\n")[0],
        )
        for profile in found
    ]
    return table(headings, rows, title=title)


def stale(found: StaleProfile) -> str:
    """Say that what was measured is no longer so."""
    return (
        f"stale      {found.model} on {found.hardware} takes {found.check.ratio:.2f} times what "
        f"was measured; it is measured anew once a node of the kind is idle"
    )


def _figures(profile: Profile) -> str:
    if not profile.points:
        return ""
    in_haste = profile.provenance is Provenance.MEASURED and not profile.full
    return profile.provenance.value + (", quick" if in_haste else "")


def _served(profile: Profile) -> str:
    """Say how much longer batches took in service than was measured."""
    if profile.check is None:
        return ""
    note = ", stale" if profile.check.stale else ""
    return f"{profile.check.ratio:.2f} x in {profile.check.batches}{note}"


def _demand(profile: Profile) -> str:
    """Give demands; those that are only known to be no greater are marked so."""
    open_ = {it.batch_size for it in profile.demand_between if it.greatest - it.least > APART}
    if not open_:
        return _by_batch(profile.demand)
    return ", ".join(
        f"{at.batch_size}: {'up to ' if at.batch_size in open_ else ''}{at.share:.0%}"
        for at in profile.demand
    )


def _by_batch(shares: Sequence[BatchShare]) -> str:
    """Give shares in percent by batch size; a single one holds for every size."""
    if len(shares) == 1:
        return f"{shares[0].share:.0%}"
    return ", ".join(f"{at.batch_size}: {at.share:.0%}" for at in shares)
