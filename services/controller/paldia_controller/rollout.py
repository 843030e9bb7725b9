"""How a new revision comes into service: loaded and measured first, then promoted.

A revision that loads nowhere is given up with Triton's own reason, and the one before it
goes on serving. It waits for the cheapest hardware that may do; the rest is measured while
it serves, and estimated until then. How batches share a device is measured in idle time.
Pure: from records, profiles and nodes to what should be measured and what be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paldia.api import convert
from paldia.api.v1 import types_pb2
from paldia.core.observation import NodeView
from paldia_controller.state import profile_key

LATENCY_CAP_S = 1.0
"""Batches are measured up to this latency, or the SLO if that is more: another model may
use the same artifact with a looser one."""
PATIENCE_S = 60.0
"""A revision waits no longer than this for the measurement of further kinds of hardware."""
KEEPS_SLO = 0.9
"""Hardware is promising if a single request takes no more than this share of the SLO there."""
AGAIN_AFTER_S = 3600.0
"""A profile that serving contradicts is measured anew, but no more often than this."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A measurement that is missing."""

    model: str
    digest: str
    hardware: str
    latency_cap_s: float
    full: bool = False
    """With how batches share the device, on a node that serves nobody meanwhile."""


def missing_profiles(
    models: Mapping[str, types_pb2.Model],
    profiles: Mapping[str, types_pb2.Profile],
    nodes: tuple[NodeView, ...],
) -> list[Wanted]:
    """List what has to be measured, candidates first; each artifact once for each kind."""
    kinds = sorted(_prices(nodes))
    wanted: dict[str, Wanted] = {}
    for newest in (True, False):
        for model in (models[name] for name in sorted(models)):
            if not (model.HasField("candidate") if newest else model.HasField("serving")):
                continue
            spec = model.candidate.spec if newest else model.serving.spec
            for hardware in kinds:
                key = profile_key(spec.artifact_digest, hardware)
                if key not in profiles:
                    wanted.setdefault(key, _wanted(spec, hardware))
    return list(wanted.values())


def refinements(
    models: Mapping[str, types_pb2.Model],
    profiles: Mapping[str, types_pb2.Profile],
    nodes: tuple[NodeView, ...],
    stale: Callable[[str], bool],
    *,
    now_s: float,
    idle_s: float,
) -> list[Wanted]:
    """List what is worth measuring while nodes have nothing else to do, in order.

    First what serving contradicts, then what was measured in haste; of models that have served
    for `idle_s` seconds.
    """
    kinds = sorted(_prices(nodes))
    anew: dict[str, Wanted] = {}
    deeper: dict[str, Wanted] = {}
    for model in (models[name] for name in sorted(models)):
        spec = model.serving.spec
        since_s = convert.wall_s(model.serving.created_at)
        if not model.HasField("serving") or now_s - since_s < idle_s:
            continue
        for hardware in kinds:
            key = profile_key(spec.artifact_digest, hardware)
            profile = profiles.get(key)
            if profile is None or profile.failure:
                continue
            age_s = now_s - convert.wall_s(profile.measured_at)
            if stale(key) and age_s > AGAIN_AFTER_S:
                anew.setdefault(key, _wanted(spec, hardware, full=True))
            elif not profile.full:
                deeper.setdefault(key, _wanted(spec, hardware, full=True))
    return [*anew.values(), *deeper.values()]


def _wanted(spec: types_pb2.ModelSpec, hardware: str, *, full: bool = False) -> Wanted:
    cap_s = max(LATENCY_CAP_S, convert.seconds(spec.slo.latency))
    return Wanted(spec.name, spec.artifact_digest, hardware, cap_s, full)


def _prices(nodes: tuple[NodeView, ...]) -> dict[str, float]:
    """Give the kinds of hardware that can be had, with their prices."""
    return {n.hardware.name: n.hardware.price_usd_per_hour for n in nodes if n.usable}


def advance(
    model: types_pb2.Model,
    profiles: Mapping[str, types_pb2.Profile],
    nodes: tuple[NodeView, ...],
    now_s: float,
) -> types_pb2.Model | None:
    """Give the record with its candidate promoted or given up, None to wait on."""
    if not model.HasField("candidate"):
        return None
    digest = model.candidate.spec.artifact_digest
    known = {
        key.partition("/")[2]: profile
        for key, profile in profiles.items()
        if key.startswith(f"{digest}/")
    }
    kinds = _prices(nodes)
    measured = [hardware for hardware, profile in known.items() if not profile.failure]
    pending = kinds.keys() - known.keys()
    waited_s = now_s - convert.wall_s(model.candidate.created_at)
    after = types_pb2.Model()
    after.CopyFrom(model)
    enough = not pending or waited_s > PATIENCE_S or _is_promising(model, known, kinds)
    if measured and enough:
        after.serving.CopyFrom(model.candidate)
        after.ClearField("candidate")
        after.ClearField("last_failure")
        return after
    if known and kinds and not measured and not pending:
        after.last_failure.generation = model.candidate.generation
        after.last_failure.reason = _reason(known)
        after.last_failure.failed_at.CopyFrom(convert.timestamp(now_s))
        after.ClearField("candidate")
        return after
    return None


def _is_promising(
    model: types_pb2.Model, known: Mapping[str, types_pb2.Profile], prices: Mapping[str, float]
) -> bool:
    """Whether hardware was measured that may do, and none that is cheaper is yet to be."""
    slo_s = convert.seconds(model.candidate.spec.slo.latency)
    fit = [
        prices[kind]
        for kind, profile in known.items()
        if kind in prices
        and not profile.failure
        and convert.seconds(profile.points[0].latency) <= KEEPS_SLO * slo_s
    ]
    pending = [price for kind, price in prices.items() if kind not in known]
    return bool(fit) and all(price >= min(fit) for price in pending)


def _reason(failed: Mapping[str, types_pb2.Profile]) -> str:
    """Give the reason once where all kinds of hardware have the same."""
    reasons = {hardware: failed[hardware].failure for hardware in sorted(failed)}
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"on {hardware}: {reason}" for hardware, reason in reasons.items())


def waiting_for(
    model: types_pb2.Model,
    profiles: Mapping[str, types_pb2.Profile],
    nodes: tuple[NodeView, ...],
) -> str:
    """Say what a candidate waits for."""
    kinds = sorted(_prices(nodes))
    if not kinds:
        problems = "; ".join(f"{node.node_id}: {node.problem}" for node in nodes if node.problem)
        return problems or "no node is connected; start one with paldia-nodeagent"
    digest = model.candidate.spec.artifact_digest
    pending = [kind for kind in kinds if profile_key(digest, kind) not in profiles]
    return f"measuring it on {', '.join(pending)}" if pending else "about to serve"
