"""The blocking client."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import grpc

from paldia.api.v1 import control_pb2 as pb
from paldia.api.v1 import control_pb2_grpc
from paldia.client import channel, decisions, decode, deploying, flows, results
from paldia.client.deploying import DEPLOY_TIMEOUT_S, Deploy, OnProgress
from paldia.client.flows import (
    CALL_TIMEOUT_S,
    PROFILE_TIMEOUT_S,
    Call,
    Changes,
    Flow,
    Follow,
    OnMeasuring,
    Pause,
    Result,
    Work,
)
from paldia.core.errors import PaldiaError
from paldia.core.types import Model, OverloadPolicy, Slo

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient


class Client:
    """Talks to a controller; close it, or use it as a context manager.

    Every call has a deadline and raises the types of `paldia.core.errors`:
    `UnavailableError` if no controller answers, `ExpiredError` if it takes too long.
    Threads may share a client.
    """

    def __init__(self, controller: str | None = None, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Prepare a client; it connects with the first call.

        Args:
            controller: `HOST:PORT`; by default what PALDIA_CONTROLLER says, or else
                127.0.0.1:8100.
            timeout_s: deadline of each call that should be quick; deploying and profiling
                have their own.
        """
        self.controller = channel.controller_address(controller)
        self._timeout_s = timeout_s
        self._channel = channel.open_sync_channel(self.controller)
        self._stub = control_pb2_grpc.ControlServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end."""
        self._channel.close()

    def deploy(
        self,
        folder: Path | str,
        *,
        slo_latency_s: float,
        slo_share: float = 0.99,
        name: str | None = None,
        max_batch: int = 0,
        min_replicas: int = 1,
        keep_alive_s: float = 600.0,
        on_overload: OverloadPolicy = OverloadPolicy.QUEUE,
        wait: bool = True,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        on_progress: OnProgress = lambda progress: None,
    ) -> results.Model:
        """Deploy a model folder in Triton's layout, or a new version of it.

        Args:
            folder: the model's folder, `[config.pbtxt]` and `VERSION/FILE` in it, or a URL of
                one or of an archive: s3://, gs://, http(s)://, file://.
            slo_latency_s: seconds within which requests are to be answered.
            slo_share: share of all requests for which that must hold, 0 to 1.
            name: the model's name; by default the folder's.
            max_batch: largest batch that may be formed; 0 takes the model's own limit.
            min_replicas: nodes that always hold it; 0 lets it unload when unused.
            keep_alive_s: seconds without requests after which it then unloads.
            on_overload: what becomes of requests that can't meet the SLO.
            wait: return once it serves; otherwise as soon as it is accepted.
            timeout_s: longest wait for it to serve.
            on_progress: told each step; while uploading, from another thread.

        Raises:
            InvalidArgumentError: the folder, the URL or a value is wrong.
            NotFoundError: nothing is at the URL.
            TooLargeError: the model is over a limit, or finds no room here.
            InternalError: what came has another checksum than the URL says.
            NotServableError: no node could load it; a version that served before goes on.
            ConflictError: another deploy or an undeploy of the name came in between.
            ExpiredError: it didn't serve in time; the deploy goes on.
        """
        wish = Model(
            name=deploying.model_name(folder, name),
            artifact_digest="",
            slo=Slo(slo_latency_s, slo_share),
            max_batch=max_batch,
            min_replicas=min_replicas,
            keep_alive_s=keep_alive_s,
            on_overload=on_overload,
        )
        order = Deploy(folder, wish, wait, timeout_s, on_progress)
        return self._run(deploying.deploy(order))

    def update(
        self,
        name: str,
        *,
        slo_latency_s: float | None = None,
        slo_share: float | None = None,
        max_batch: int | None = None,
        min_replicas: int | None = None,
        keep_alive_s: float | None = None,
        on_overload: OverloadPolicy | None = None,
        resource_version: int | None = None,
    ) -> results.Model:
        """Change what is given of a model's objective, without a new artifact.

        Args:
            name: the model.
            slo_latency_s: as in `deploy`, and so are the others.
            resource_version: change it only if its record is still this one.

        Raises:
            NotFoundError: no such model.
            ConflictError: its record is another by now.
        """
        changes = Changes(
            slo_latency_s, slo_share, max_batch, min_replicas, keep_alive_s, on_overload
        )
        return self._run(flows.update(name, changes, resource_version))

    def undeploy(self, name: str) -> None:
        """Remove a model; requests under way are still answered."""
        self._run(flows.undeploy(name))

    def models(self) -> tuple[results.Model, ...]:
        """List every model by name."""
        return self._run(flows.models())

    def model(self, name: str) -> results.Model:
        """Describe one model."""
        return self._run(flows.model(name))

    def watch(
        self, name: str | None = None, *, timeout_s: float | None = None
    ) -> Iterator[results.ModelChange]:
        """Follow one model, or all: a snapshot first, then each change.

        Ends when the controller stops. Start another watch after an UnavailableError; its
        snapshot makes up for what was missed.
        """
        stream = self._stub.WatchModels(pb.WatchModelsRequest(name=name or ""), timeout=timeout_s)
        try:
            with self._errors(timeout_s):
                for message in stream:
                    yield decode.change(message)
        finally:
            stream.cancel()

    def nodes(self) -> tuple[results.Node, ...]:
        """List every node by id."""
        return self._run(flows.nodes())

    def drain(self, node_id: str, *, undo: bool = False) -> results.Node:
        """Move everything off a node, or with `undo` take it back into service."""
        return self._run(flows.drain(node_id, undo=undo))

    def status(self) -> results.ClusterStatus:
        """Sum up the cluster."""
        return self._run(flows.status())

    def explain(self, name: str, *, limit: int = 10) -> decisions.Explanation:
        """Give what the planner thinks of a model, and its `limit` newest decisions."""
        return self._run(flows.explain(name, limit=limit))

    def decision(
        self, name: str, at: datetime | None = None, *, with_step: bool = False
    ) -> decisions.Record:
        """Give the decision on a model that was in force at some time, by default now.

        Args:
            at: a moment with its time zone; one without is taken for local time.
            with_step: ask for the whole step, too, to run it again.

        Raises:
            NotFoundError: no record is as old as that; the message names the oldest there is.
        """
        return self._run(flows.decision(name, at, with_step=with_step))

    def profile(
        self,
        name: str,
        *,
        hardware: str | None = None,
        quick: bool = False,
        timeout_s: float = PROFILE_TIMEOUT_S,
        on_progress: OnMeasuring = lambda measuring: None,
    ) -> tuple[results.Profile, ...]:
        """Measure a model again, on one kind of hardware or on each, and wait for it.

        With `quick` only what a first deploy measures: not how batches slow each other.
        `on_progress` is told now and then what is still being measured, and how far it is.
        """
        return self._run(
            flows.profile(
                name,
                hardware=hardware or "",
                quick=quick,
                timeout_s=timeout_s,
                on_progress=on_progress,
            )
        )

    def infer_client(self, address: str | None = None) -> InferenceServerClient:
        """Give a `tritonclient.grpc.InferenceServerClient` for a frontend.

        Args:
            address: the frontend's `HOST:PORT`; by default one that is connected.

        Raises:
            NotServableError: no frontend is connected.
        """
        from tritonclient.grpc import InferenceServerClient  # noqa: PLC0415 - slow to import

        return InferenceServerClient(address or self._run(flows.frontend_address()))

    def _run(self, flow: Flow[Result]) -> Result:
        with contextlib.closing(flow):
            try:
                step = next(flow)
                while True:
                    try:
                        answer = self._perform(step)
                    except PaldiaError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(answer)
            except StopIteration as end:
                result: Result = end.value
                return result

    def _perform(self, step: flows.Step) -> Any:
        match step:
            case Call(method, request, given_s):
                timeout_s = self._timeout_s if given_s is None else given_s
                with self._errors(timeout_s):
                    return getattr(self._stub, method)(request, timeout=timeout_s)
            case Follow():
                return self._follow(step)
            case Work(function):
                return function()
            case Pause(seconds):
                return time.sleep(seconds)

    def _follow(self, step: Follow) -> Any:
        stream = getattr(self._stub, step.method)(step.request, timeout=step.timeout_s)
        try:
            with self._errors(step.timeout_s):
                for message in stream:
                    if (found := step.see(message)) is not None:
                        return found
            return None
        finally:
            stream.cancel()

    @contextlib.contextmanager
    def _errors(self, timeout_s: float | None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as failed:
            # What gRPC raises is the failed call too; its types don't say so.
            call = cast(grpc.Call, failed)
            raise channel.error_of(call, self.controller, timeout_s) from failed
