"""How a new revision comes into service: loaded and measured first, then promoted.

A revision that loads nowhere is given up with Triton's own reason, and the one before it
goes on serving. Pure: from records, profiles and nodes to what should be measured and
what should be written.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """A measurement that is missing."""

    model: str
    digest: str
    hardware: str
    latency_cap_s: float


def missing_profiles(
    models: Mapping[str, types_pb2.Model],
    profiles: Mapping[str, types_pb2.Profile],
    nodes: tuple[NodeView, ...],
) -> list[Wanted]:
    """List what has to be measured, candidates first; each artifact once for each kind."""
    kinds = sorted({node.hardware.name for node in nodes if node.usable})
    wanted: dict[str, Wanted] = {}
    for newest in (True, False):
        for model in (models[name] for name in sorted(models)):
            if not (model.HasField("candidate") if newest else model.HasField("serving")):
                continue
            spec = model.candidate.spec if newest else model.serving.spec
            for hardware in kinds:
                key = profile_key(spec.artifact_digest, hardware)
                if key not in profiles:
                    wanted.setdefault(
                        key,
                        Wanted(
                            model=model.name,
                            digest=spec.artifact_digest,
                            hardware=hardware,
                            latency_cap_s=max(LATENCY_CAP_S, convert.seconds(spec.slo.latency)),
                        ),
                    )
    return list(wanted.values())


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
    kinds = {node.hardware.name for node in nodes if node.usable}
    measured = [hardware for hardware, profile in known.items() if not profile.failure]
    pending = kinds - known.keys()
    waited_s = now_s - convert.wall_s(model.candidate.created_at)
    after = types_pb2.Model()
    after.CopyFrom(model)
    if measured and (not pending or waited_s > PATIENCE_S):
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
    kinds = sorted({node.hardware.name for node in nodes if node.usable})
    if not kinds:
        problems = "; ".join(f"{node.node_id}: {node.problem}" for node in nodes if node.problem)
        return problems or "no node is connected; start one with paldia-nodeagent"
    digest = model.candidate.spec.artifact_digest
    pending = [kind for kind in kinds if profile_key(digest, kind) not in profiles]
    return f"measuring it on {', '.join(pending)}" if pending else "about to serve"
