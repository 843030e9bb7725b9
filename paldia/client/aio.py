"""The asyncio client: the same operations as `paldia.client.sync`, awaited."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

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
    from tritonclient.grpc.aio import InferenceServerClient


class AsyncClient:
    """`Client` for asyncio: same methods, arguments, results and errors.

    Create, use and close it within one event loop.
    """

    def __init__(self, controller: str | None = None, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Prepare a client; it connects with the first call. See `Client`."""
        self.controller = channel.controller_address(controller)
        self._timeout_s = timeout_s
        self._channel = channel.open_aio_channel(self.controller)
        self._stub = control_pb2_grpc.ControlServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        await self._channel.close()

    async def deploy(
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
        """Deploy a model folder, or a new version of it. See `Client.deploy`."""
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
        return await self._run(deploying.deploy(order))

    async def update(
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
        """Change what is given of a model's objective. See `Client.update`."""
        changes = Changes(
            slo_latency_s, slo_share, max_batch, min_replicas, keep_alive_s, on_overload
        )
        return await self._run(flows.update(name, changes, resource_version))

    async def undeploy(self, name: str) -> None:
        """Remove a model; requests under way are still answered."""
        await self._run(flows.undeploy(name))

    async def models(self) -> tuple[results.Model, ...]:
        """List every model by name."""
        return await self._run(flows.models())

    async def model(self, name: str) -> results.Model:
        """Describe one model."""
        return await self._run(flows.model(name))

    async def watch(
        self, name: str | None = None, *, timeout_s: float | None = None
    ) -> AsyncIterator[results.ModelChange]:
        """Follow one model, or all: a snapshot first, then each change. See `Client.watch`."""
        stream = self._stub.WatchModels(pb.WatchModelsRequest(name=name or ""), timeout=timeout_s)
        try:
            with self._errors(timeout_s):
                async for message in stream:
                    yield decode.change(message)
        finally:
            stream.cancel()

    async def nodes(self) -> tuple[results.Node, ...]:
        """List every node by id."""
        return await self._run(flows.nodes())

    async def drain(self, node_id: str, *, undo: bool = False) -> results.Node:
        """Move everything off a node, or with `undo` take it back into service."""
        return await self._run(flows.drain(node_id, undo=undo))

    async def status(self) -> results.ClusterStatus:
        """Sum up the cluster."""
        return await self._run(flows.status())

    async def explain(self, name: str, *, limit: int = 10) -> decisions.Explanation:
        """Give what the planner thinks of a model, and its `limit` newest decisions."""
        return await self._run(flows.explain(name, limit=limit))

    async def decision(
        self, name: str, at: datetime | None = None, *, with_step: bool = False
    ) -> decisions.Record:
        """Give the decision on a model that was in force at some time, by default now.

        Args:
            at: a moment with its time zone; one without is taken for local time.
            with_step: ask for the whole step, too, to run it again.

        Raises:
            NotFoundError: no record is as old as that; the message names the oldest there is.
        """
        return await self._run(flows.decision(name, at, with_step=with_step))

    async def profile(
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
        return await self._run(
            flows.profile(
                name,
                hardware=hardware or "",
                quick=quick,
                timeout_s=timeout_s,
                on_progress=on_progress,
            )
        )

    async def infer_client(self, address: str | None = None) -> InferenceServerClient:
        """Give a `tritonclient.grpc.aio.InferenceServerClient`. See `Client.infer_client`."""
        from tritonclient.grpc.aio import InferenceServerClient  # noqa: PLC0415 - slow to import

        return InferenceServerClient(address or await self._run(flows.frontend_address()))

    async def _run(self, flow: Flow[Result]) -> Result:
        with contextlib.closing(flow):
            try:
                step = next(flow)
                while True:
                    try:
                        answer = await self._perform(step)
                    except PaldiaError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(answer)
            except StopIteration as end:
                result: Result = end.value
                return result

    async def _perform(self, step: flows.Step) -> Any:
        match step:
            case Call(method, request, given_s):
                timeout_s = self._timeout_s if given_s is None else given_s
                with self._errors(timeout_s):
                    return await getattr(self._stub, method)(request, timeout=timeout_s)
            case Follow():
                return await self._follow(step)
            case Work(function):
                return await asyncio.to_thread(function)
            case Pause(seconds):
                return await asyncio.sleep(seconds)

    async def _follow(self, step: Follow) -> Any:
        stream = getattr(self._stub, step.method)(step.request, timeout=step.timeout_s)
        try:
            with self._errors(step.timeout_s):
                async for message in stream:
                    if (found := step.see(message)) is not None:
                        return found
            return None
        finally:
            stream.cancel()

    @contextlib.contextmanager
    def _errors(self, timeout_s: float | None) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as failed:
            raise channel.error_of(failed, self.controller, timeout_s) from failed
