"""Core nouns to protobuf and back. Seconds become Duration and Timestamp here."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from paldia.api.v1 import types_pb2 as pb
from paldia.core import observation as obs
from paldia.core import types
from paldia.core.profiles import Profile, Provenance


def duration(seconds: float) -> Duration:
    """Seconds as a Duration, to the nanosecond."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def seconds(span: Duration) -> float:
    """Give a Duration in seconds."""
    return (span.seconds * 1_000_000_000 + span.nanos) / 1e9


def timestamp(wall_s: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp."""
    whole, nanos = divmod(round(wall_s * 1e9), 1_000_000_000)
    return Timestamp(seconds=whole, nanos=nanos)


def wall_s(time: Timestamp) -> float:
    """Give a Timestamp in seconds since 1970."""
    return time.seconds + time.nanos / 1e9


_OVERLOAD = {
    types.OverloadPolicy.QUEUE: pb.OVERLOAD_POLICY_QUEUE,
    types.OverloadPolicy.SHED: pb.OVERLOAD_POLICY_SHED,
}


def overload_to_proto(policy: types.OverloadPolicy) -> pb.OverloadPolicy.ValueType:
    """Encode what becomes of late requests."""
    return _OVERLOAD[policy]


def overload_from_proto(policy: pb.OverloadPolicy.ValueType) -> types.OverloadPolicy:
    """Decode what becomes of late requests; unspecified is to queue."""
    if policy == pb.OVERLOAD_POLICY_SHED:
        return types.OverloadPolicy.SHED
    return types.OverloadPolicy.QUEUE


def slo_to_proto(slo: types.Slo) -> pb.Slo:
    """Encode an objective."""
    return pb.Slo(latency=duration(slo.latency_s), share=slo.share)


def slo_from_proto(slo: pb.Slo) -> types.Slo:
    """Decode an objective.

    Raises:
        InvalidArgumentError: its latency or share is out of range.
    """
    return types.Slo(latency_s=seconds(slo.latency), share=slo.share)


def model_to_proto(model: types.Model) -> pb.ModelSpec:
    """Encode a model's spec; the generation travels beside it."""
    return pb.ModelSpec(
        name=model.name,
        artifact_digest=model.artifact_digest,
        slo=slo_to_proto(model.slo),
        max_batch_size=model.max_batch,
        min_replicas=model.min_replicas,
        keep_alive=duration(model.keep_alive_s),
        on_overload=overload_to_proto(model.on_overload),
    )


def model_from_proto(spec: pb.ModelSpec, generation: int) -> types.Model:
    """Decode a model's spec.

    Raises:
        InvalidArgumentError: a value is out of range.
    """
    return types.Model(
        name=spec.name,
        artifact_digest=spec.artifact_digest,
        slo=slo_from_proto(spec.slo),
        generation=generation,
        max_batch=spec.max_batch_size,
        min_replicas=spec.min_replicas,
        keep_alive_s=seconds(spec.keep_alive),
        on_overload=overload_from_proto(spec.on_overload),
    )


_PROVENANCE = {
    Provenance.MEASURED: pb.PROVENANCE_MEASURED,
    Provenance.IMPORTED: pb.PROVENANCE_IMPORTED,
    Provenance.ESTIMATED: pb.PROVENANCE_ESTIMATED,
}
_PROVENANCE_OF = {code: provenance for provenance, code in _PROVENANCE.items()}


def batch_shares(points: Iterable[tuple[int, float]]) -> list[pb.BatchShare]:
    """Encode shares by batch size."""
    return [pb.BatchShare(batch_size=batch, share=share) for batch, share in points]


def batch_share_points(shares: Iterable[pb.BatchShare]) -> tuple[tuple[int, float], ...]:
    """Decode shares by batch size."""
    return tuple((share.batch_size, share.share) for share in shares)


def demand_points(profile: pb.Profile) -> tuple[tuple[int, float], ...]:
    """Give a profile's demand fraction by batch size, empty where it has none.

    One that was stored when there was a single figure for all sizes gives that one.
    """
    if profile.demand:
        return batch_share_points(profile.demand)
    return ((1, profile.demand_fraction),) if profile.demand_fraction else ()


def profile_to_proto(profile: Profile) -> pb.Profile:
    """Encode a profile's figures; of what, on what and when travels beside them."""
    return pb.Profile(
        points=[
            pb.LatencyPoint(batch_size=batch, latency=duration(latency_s))
            for batch, latency_s in profile.points
        ],
        load=duration(profile.load_s),
        memory_bytes=profile.memory_bytes,
        demand=batch_shares(profile.demand),
        sm_share=batch_shares(profile.sm_share),
        colocation_penalty=profile.colocation_penalty,
        interference=profile.interference,
        watts=profile.watts,
        provenance=_PROVENANCE[profile.provenance],
    )


def profile_from_proto(profile: pb.Profile) -> Profile | None:
    """Decode a profile; None where the model could not be measured.

    Raises:
        InvalidArgumentError: its figures make no sense.
    """
    if profile.failure:
        return None
    return Profile(
        points=tuple((point.batch_size, seconds(point.latency)) for point in profile.points),
        load_s=seconds(profile.load),
        memory_bytes=profile.memory_bytes,
        demand=demand_points(profile),
        sm_share=batch_share_points(profile.sm_share),
        colocation_penalty=profile.colocation_penalty,
        interference=tuple(profile.interference),
        watts=profile.watts,
        provenance=_PROVENANCE_OF.get(profile.provenance, Provenance.ESTIMATED),
    )


_WHOLE_PERCENT = 100


def sm_percent_to_proto(sm_percent: int) -> int:
    """Encode a share of the SMs; all of them is 0, no limit."""
    return 0 if sm_percent >= _WHOLE_PERCENT else sm_percent


def sm_percent_from_proto(sm_percent: int) -> int:
    """Decode a share of the SMs; no limit is all of them."""
    return sm_percent or _WHOLE_PERCENT


def assignment_to_proto(assignment: obs.Assignment) -> pb.Placement:
    """Encode a piece of a plan; what is observed of it stays empty."""
    return pb.Placement(
        node_id=assignment.node_id,
        hardware=assignment.hardware,
        lanes=assignment.lanes,
        batch_size=assignment.batch,
        artifact_digest=assignment.artifact_digest,
        sm_percent=sm_percent_to_proto(assignment.sm_percent),
    )


def assignment_from_proto(placement: pb.Placement) -> obs.Assignment:
    """Decode a piece of a plan."""
    return obs.Assignment(
        node_id=placement.node_id,
        hardware=placement.hardware,
        artifact_digest=placement.artifact_digest,
        lanes=placement.lanes,
        batch=placement.batch_size,
        sm_percent=sm_percent_from_proto(placement.sm_percent),
    )


_DEPLOYMENT_STATE = {
    pb.PLACEMENT_STATE_LOADING: obs.DeploymentState.LOADING,
    pb.PLACEMENT_STATE_READY: obs.DeploymentState.READY,
    pb.PLACEMENT_STATE_DRAINING: obs.DeploymentState.DRAINING,
    pb.PLACEMENT_STATE_FAILED: obs.DeploymentState.FAILED,
}


def deployment_state_from_proto(state: pb.PlacementState.ValueType) -> obs.DeploymentState:
    """Decode a deployment's state; what is unknown is still loading."""
    return _DEPLOYMENT_STATE.get(state, obs.DeploymentState.LOADING)
