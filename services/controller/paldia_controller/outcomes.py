"""What a measurement that an agent sends is taken for. Pure."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2

from paldia.api import convert
from paldia.api.v1 import agent_pb2, types_pb2
from paldia.core.errors import InvalidArgumentError

CONFIG_LIMIT_BYTES = 512 << 10


def checked(
    result: agent_pb2.ProfileResult, unmeasured: types_pb2.Profile
) -> agent_pb2.ProfileResult:
    """Give the result, or the failure that it is if its figures make no sense.

    `unmeasured` says what was to be measured, and where.
    """
    if result.profile.failure:
        return result
    node_id = unmeasured.node_id
    try:
        convert.profile_from_proto(result.profile)
    except InvalidArgumentError as error:
        reason = f"node {node_id} measured what makes no sense: {error}"
        return failed(result.task_id, unmeasured, reason)
    try:
        model_config_pb2.ModelConfig.FromString(result.model_config)
    except DecodeError as error:
        reason = f"node {node_id} sent no model config: {error}"
        return failed(result.task_id, unmeasured, reason)
    if len(result.model_config) > CONFIG_LIMIT_BYTES:
        reason = f"the model's config has over {CONFIG_LIMIT_BYTES} bytes"
        return failed(result.task_id, unmeasured, reason)
    return result


def failed(task_id: str, unmeasured: types_pb2.Profile, reason: str) -> agent_pb2.ProfileResult:
    """Give the result of a measurement that came to nothing."""
    result = agent_pb2.ProfileResult(task_id=task_id, profile=unmeasured)
    result.profile.failure = reason
    return result


def kept(profile: types_pb2.Profile, before: types_pb2.Profile | None) -> types_pb2.Profile:
    """Give a new profile with what was measured in full before, if it was measured in haste."""
    if profile.failure or profile.full or before is None or not before.full:
        return profile
    merged = types_pb2.Profile()
    merged.CopyFrom(profile)
    del merged.demand[:]
    merged.colocation_penalty, merged.watts = before.colocation_penalty, before.watts
    merged.full = True
    for field in ("demand", "sm_share", "interference"):
        getattr(merged, field).extend(getattr(before, field))
    if before.HasField("fit"):
        merged.fit.CopyFrom(before.fit)
    return merged
