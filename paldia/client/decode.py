"""From protobuf to the SDK's results. A value this version doesn't know is `UNKNOWN`."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from paldia.api import convert, machines
from paldia.api.v1 import control_pb2, types_pb2
from paldia.client import decisions, decode_gpus, results
from paldia.core.types import Slo

Kind = TypeVar("Kind", bound=enum.Enum)


def model(message: types_pb2.Model) -> results.Model:
    """Decode a model."""
    status = message.status
    return results.Model(
        name=message.name,
        phase=_known(results.ModelPhase, types_pb2.ModelPhase, "MODEL_PHASE_", status.phase),
        reason=status.reason,
        slo_unreachable=status.slo_unreachable,
        requests_per_second=status.requests_per_second,
        serving=_revision(message.serving) if message.HasField("serving") else None,
        candidate=_revision(message.candidate) if message.HasField("candidate") else None,
        last_failure=_failure(message.last_failure) if message.HasField("last_failure") else None,
        placements=tuple(map(_placement, status.placements)),
        resource_version=message.resource_version,
    )


def change(message: control_pb2.WatchModelsResponse) -> results.ModelChange:
    """Decode one message of a watch."""
    return results.ModelChange(
        snapshot=message.snapshot,
        models=tuple(map(model, message.models)),
        removed=tuple(message.removed),
    )


def _revision(message: types_pb2.ModelRevision) -> results.Revision:
    spec = message.spec
    return results.Revision(
        generation=message.generation,
        artifact_digest=spec.artifact_digest,
        slo=Slo(latency_s=convert.seconds(spec.slo.latency), share=spec.slo.share),
        max_batch=spec.max_batch_size,
        min_replicas=spec.min_replicas,
        keep_alive_s=convert.seconds(spec.keep_alive),
        on_overload=convert.overload_from_proto(spec.on_overload),
        created_at=_moment(message, "created_at"),
    )


def _failure(message: types_pb2.RevisionFailure) -> results.Failure:
    return results.Failure(
        generation=message.generation,
        reason=message.reason,
        failed_at=_moment(message, "failed_at"),
    )


def _placement(message: types_pb2.Placement) -> results.Placement:
    return results.Placement(
        node_id=message.node_id,
        hardware=message.hardware,
        state=_known(
            results.PlacementState, types_pb2.PlacementState, "PLACEMENT_STATE_", message.state
        ),
        lanes=message.lanes,
        batch_size=message.batch_size,
        endpoint=message.endpoint,
        reason=message.reason,
        artifact_digest=message.artifact_digest,
        sm_percent=convert.sm_percent_from_proto(message.sm_percent),
    )


def node(message: types_pb2.Node) -> results.Node:
    """Decode a node; one whose state is unspecified counts as lost."""
    hardware = message.hardware
    load = {gpu.uuid: gpu for gpu in message.utilisation.gpus}
    return results.Node(
        node_id=message.id,
        hardware=hardware.name,
        state=machines.node_state_from_proto(message.state),
        price_usd_per_hour=hardware.price_usd_per_hour,
        cost_usd=message.cost_usd,
        cores=hardware.cores,
        memory_bytes=hardware.memory_bytes,
        cpu_utilisation=message.utilisation.cpu,
        memory_used_bytes=message.utilisation.memory_used_bytes,
        gpus=tuple(decode_gpus.gpu(it, load.get(it.uuid)) for it in hardware.gpus),
        models=tuple(message.models),
        problem=message.problem,
        last_report_at=_moment(message, "last_report_at"),
        sm_shares=hardware.sm_shares,
        activation_s=convert.seconds(hardware.activation),
        idle_watts=hardware.idle_watts,
        rated_watts=hardware.rated_watts,
        energy_j=message.energy_joules,
        estimated_energy_j=message.estimated_energy_joules,
        warnings=tuple(message.warnings),
    )


def status(message: control_pb2.GetStatusResponse) -> results.ClusterStatus:
    """Decode the summary of a cluster."""
    return results.ClusterStatus(
        controller_id=message.controller_id,
        version=message.version,
        store=message.store,
        started_at=_moment(message, "started_at"),
        cost_usd=message.cost_usd,
        cost_usd_per_hour=message.cost_usd_per_hour,
        decisions=message.decisions,
        moves=message.moves,
        frontends=tuple(
            results.Frontend(front.id, front.address, _moment(front, "started_at"))
            for front in message.frontends
        ),
        nodes=tuple(map(node, message.nodes)),
        models=tuple(map(model, message.models)),
        cost_usd_by_model=dict(sorted(message.cost_usd_by_model.items())),
        idle_cost_usd=message.idle_cost_usd,
        energy_j=message.energy_joules,
        estimated_energy_j=message.estimated_energy_joules,
        stale_profiles=tuple(
            results.StaleProfile(stale.model, stale.hardware, _check(stale.check))
            for stale in message.stale_profiles
        ),
    )


def profile(message: types_pb2.Profile) -> results.Profile:
    """Decode a profile."""
    return results.Profile(
        hardware=message.hardware,
        artifact_digest=message.artifact_digest,
        node_id=message.node_id,
        points=tuple(
            results.LatencyPoint(point.batch_size, convert.seconds(point.latency), point.samples)
            for point in message.points
        ),
        load_s=convert.seconds(message.load),
        memory_bytes=message.memory_bytes,
        colocation_penalty=message.colocation_penalty,
        provenance=_known(
            results.Provenance, types_pb2.Provenance, "PROVENANCE_", message.provenance
        ),
        measured_at=_moment(message, "measured_at"),
        failure=message.failure,
        demand=_batch_shares(convert.demand_points(message)),
        sm_share=_batch_shares(convert.batch_share_points(message.sm_share)),
        interference=tuple(message.interference),
        watts=message.watts,
        full=message.full,
        fit_error=message.fit.error if message.HasField("fit") else None,
        demand_between=tuple(
            results.ShareRange(it.batch_size, it.least, it.greatest) for it in message.fit.between
        ),
        check=_check(message.check) if message.HasField("check") else None,
    )


def _check(message: types_pb2.ProfileCheck) -> results.ProfileCheck:
    return results.ProfileCheck(message.ratio, message.batches, message.stale)


def measuring(message: control_pb2.MeasureProgress) -> results.Measuring:
    """Decode how far a measurement is."""
    return results.Measuring(message.hardware, message.node_id, message.stage, message.fraction)


def _batch_shares(points: Iterable[tuple[int, float]]) -> tuple[results.BatchShare, ...]:
    return tuple(results.BatchShare(batch, share) for batch, share in points)


def explanation(message: control_pb2.ExplainModelResponse) -> decisions.Explanation:
    """Decode a model's decisions."""
    return decisions.Explanation(
        model=model(message.model),
        current=decision(message.current) if message.HasField("current") else None,
        decisions=tuple(map(decision, message.decisions)),
        profiles=tuple(map(profile, message.profiles)),
    )


def record(message: control_pb2.GetDecisionResponse) -> decisions.Record:
    """Decode a decision that was in force."""
    step = message.step
    return decisions.Record(
        decision=decision(message.decision),
        unchanged=message.unchanged,
        step=decisions.RecordedStep(
            version=step.version,
            core_digest=step.core_digest,
            form_digest=step.form_digest,
            content=step.content,
            not_kept=step.not_kept,
        )
        if message.HasField("step")
        else None,
    )


def decision(message: types_pb2.Decision) -> decisions.Decision:
    """Decode a decision."""
    return decisions.Decision(
        model=message.model,
        generation=message.generation,
        decided_at=_moment(message, "decided_at"),
        action=message.action,
        reason=message.reason,
        slo_unreachable=message.slo_unreachable,
        demand=_demand(message.demand),
        candidates=tuple(map(_candidate, message.candidates)),
        chosen=message.chosen if 0 <= message.chosen < len(message.candidates) else None,
        from_node_ids=tuple(message.from_node_ids),
        to_node_ids=tuple(message.to_node_ids),
        inputs_digest=message.inputs_digest,
    )


def _demand(message: types_pb2.Demand) -> decisions.Demand:
    return decisions.Demand(
        requests_per_second=message.requests_per_second,
        dispersion=message.dispersion,
        backlog=message.backlog,
        held_requests_per_second=message.held_requests_per_second if message.held_for else None,
        held_for=message.held_for,
    )


def _candidate(message: types_pb2.Candidate) -> decisions.Candidate:
    return decisions.Candidate(
        hardware=message.hardware,
        node_ids=tuple(message.node_ids),
        batch_size=message.batch_size,
        lanes=message.lanes,
        predicted_latency_s=convert.seconds(message.predicted_latency)
        if message.HasField("predicted_latency")
        else None,
        throughput_per_second=message.throughput,
        price_usd_per_hour=message.price_usd_per_hour,
        added_usd_per_hour=message.added_usd_per_hour,
        utilisation=message.utilisation,
        verdict=message.verdict,
        detail=message.detail,
        sm_percent=convert.sm_percent_from_proto(message.sm_percent),
    )


def _known(kind: type[Kind], names: Any, prefix: str, number: int) -> Kind:
    """Give the enum member of the number's name, less its prefix, in lower case."""
    name = names.Name(number).removeprefix(prefix).lower() if number in names.values() else ""
    return kind(name) if name in {member.value for member in kind} else kind("unknown")


def _moment(message: Any, field: str) -> datetime | None:
    """Give a timestamp field in UTC, None if it isn't set."""
    if not message.HasField(field):
        return None
    time: Timestamp = getattr(message, field)
    return datetime.fromtimestamp(convert.wall_s(time), tz=UTC)
