"""Core nouns to protobuf and back. Seconds become Duration and Timestamp here."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from paldia.api.v1 import types_pb2 as pb
from paldia.core import types


def duration(seconds: float) -> Duration:
    """Seconds as a Duration, to the nanosecond."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def seconds(span: Duration) -> float:
    """Give a Duration in seconds."""
    return span.seconds + span.nanos * 1e-9


def timestamp(wall_s: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp."""
    whole, nanos = divmod(round(wall_s * 1e9), 1_000_000_000)
    return Timestamp(seconds=whole, nanos=nanos)


def wall_s(time: Timestamp) -> float:
    """Give a Timestamp in seconds since 1970."""
    return time.seconds + time.nanos * 1e-9


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
