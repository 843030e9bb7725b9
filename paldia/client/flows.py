"""Everything a client does, as steps without I/O; the sync and the async client run them.

A flow is a generator: it yields a step, gets the step's result sent in (or its error
thrown in) and returns the answer. So each operation is written once, and a client is a
loop that performs four kinds of step, blocking in one and awaiting in the other. (The
alternative, a sync client on a private event loop, needs a thread, and gRPC's asyncio
side logs errors when several loops run in one process.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from paldia.api import convert
from paldia.api.v1 import control_pb2 as pb
from paldia.client import decisions, decode, results
from paldia.core.errors import ConflictError, NotServableError, UnavailableError
from paldia.core.types import Model, OverloadPolicy, Slo

Result = TypeVar("Result")
OnMeasuring = Callable[[tuple[results.Measuring, ...]], None]

CALL_TIMEOUT_S = 10.0
PROFILE_TIMEOUT_S = 180.0
_UPDATE_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a ControlService method that answers once.

    `request` is a message, or an iterator of them where the method takes a stream. No
    `timeout_s` leaves it to the client.
    """

    method: str
    request: Any
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Follow:
    """Call a method that answers with a stream, until `see` gives something for a message.

    None if the stream ends before that.
    """

    method: str
    request: Any
    see: Callable[[Any], Any]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """Run a function that blocks."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass."""

    seconds: float


Step: TypeAlias = Call | Follow | Work | Pause
Flow: TypeAlias = Generator[Step, Any, Result]


def models() -> Flow[tuple[results.Model, ...]]:
    """List every model by name."""
    response = yield Call("ListModels", pb.ListModelsRequest())
    return tuple(map(decode.model, response.models))


def model(name: str) -> Flow[results.Model]:
    """Describe one model."""
    response = yield Call("GetModel", pb.GetModelRequest(name=name))
    return decode.model(response.model)


def undeploy(name: str) -> Flow[None]:
    """Remove a model."""
    yield Call("UndeployModel", pb.UndeployModelRequest(name=name))


def nodes() -> Flow[tuple[results.Node, ...]]:
    """List every node by id."""
    response = yield Call("ListNodes", pb.ListNodesRequest())
    return tuple(map(decode.node, response.nodes))


def drain(node_id: str, *, undo: bool) -> Flow[results.Node]:
    """Move everything off a node, or take it back."""
    response = yield Call("DrainNode", pb.DrainNodeRequest(node_id=node_id, undo=undo))
    return decode.node(response.node)


def status() -> Flow[results.ClusterStatus]:
    """Sum up the cluster."""
    response = yield Call("GetStatus", pb.GetStatusRequest())
    return decode.status(response)


def explain(name: str, *, limit: int) -> Flow[decisions.Explanation]:
    """Give a model's newest decisions."""
    response = yield Call("ExplainModel", pb.ExplainModelRequest(name=name, limit=limit))
    return decode.explanation(response)


def decision(name: str, at: datetime | None, *, with_step: bool) -> Flow[decisions.Record]:
    """Give the decision that was in force."""
    request = pb.GetDecisionRequest(name=name, with_step=with_step)
    if at is not None:
        request.at.CopyFrom(convert.timestamp(at.timestamp()))
    response = yield Call("GetDecision", request)
    return decode.record(response)


def profile(
    name: str, *, hardware: str, quick: bool, timeout_s: float, on_progress: OnMeasuring
) -> Flow[tuple[results.Profile, ...]]:
    """Measure a model again."""

    def see(message: pb.ProfileModelResponse) -> tuple[results.Profile, ...] | None:
        if message.progress:
            on_progress(tuple(map(decode.measuring, message.progress)))
        return tuple(map(decode.profile, message.profiles)) or None

    request = pb.ProfileModelRequest(name=name, hardware=hardware, quick=quick)
    found: tuple[results.Profile, ...] | None = yield Follow(
        "ProfileModel", request, see, timeout_s
    )
    if found is None:
        raise UnavailableError("the controller ended the call before all was measured")
    return found


def frontend_address() -> Flow[str]:
    """Find a frontend that is connected."""
    found = (yield from status()).frontends
    if not found:
        raise NotServableError(
            "no frontend is connected to the controller; start one with paldia-frontend"
        )
    return found[0].address


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update changes; None keeps a value."""

    slo_latency_s: float | None = None
    slo_share: float | None = None
    max_batch: int | None = None
    min_replicas: int | None = None
    keep_alive_s: float | None = None
    on_overload: OverloadPolicy | None = None

    def applied_to(self, name: str, revision: results.Revision) -> Model:
        """Give the model's wish after the change.

        Raises:
            InvalidArgumentError: a value is out of range.
        """
        return Model(
            name=name,
            artifact_digest=revision.artifact_digest,
            slo=Slo(
                _either(self.slo_latency_s, revision.slo.latency_s),
                _either(self.slo_share, revision.slo.share),
            ),
            max_batch=_either(self.max_batch, revision.max_batch),
            min_replicas=_either(self.min_replicas, revision.min_replicas),
            keep_alive_s=_either(self.keep_alive_s, revision.keep_alive_s),
            on_overload=_either(self.on_overload, revision.on_overload),
        )


def _either(new: Result | None, old: Result) -> Result:
    return old if new is None else new


def update(name: str, changes: Changes, resource_version: int | None) -> Flow[results.Model]:
    """Change a model's objective by compare-and-set.

    Without a `resource_version` the newest record is read and changed, and read again if
    somebody else changes it in between.
    """
    for attempt in range(1, _UPDATE_ATTEMPTS + 1):
        now = yield from model(name)
        newest = now.candidate or now.serving
        if newest is None:
            raise NotServableError(
                f"no revision of {name!r} could be served, so there is nothing to update; "
                "deploy it again"
            )
        request = pb.UpdateModelRequest(
            spec=convert.model_to_proto(changes.applied_to(name, newest)),
            resource_version=now.resource_version if resource_version is None else resource_version,
        )
        try:
            response = yield Call("UpdateModel", request)
        except ConflictError:
            if resource_version is not None or attempt == _UPDATE_ATTEMPTS:
                raise
        else:
            return decode.model(response.model)
    raise AssertionError("the last attempt returns or raises")
