"""Calls to one Triton's gRPC server, each with a deadline."""

from __future__ import annotations

from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from paldia.core.errors import UnavailableError
from paldia.kit import rpc
from paldia_nodeagent.repository import ModelConfig

CALL_LIMIT_S = 3.0
_STATISTICS_LIMIT_S = 1.5
"""Two silences and what is between them are to be seen within 5 s."""


class TritonAdmin:
    """A Triton server's administration."""

    def __init__(self, endpoint: str) -> None:
        self._channel = rpc.open_channel(endpoint)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def live(self) -> bool:
        """Whether the server answers that it lives."""
        try:
            answer = await self._stub.ServerLive(
                service_pb2.ServerLiveRequest(), timeout=CALL_LIMIT_S
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.live)

    async def ready(self, model: str) -> bool:
        """Whether the server answers that a model is ready; a dead stub doesn't change that."""
        try:
            answer = await self._stub.ModelReady(
                service_pb2.ModelReadyRequest(name=model), timeout=CALL_LIMIT_S
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    async def load(self, model: str, override: str, limit_s: float) -> None:
        """Load a model, or load it again as the JSON in `override` has it.

        Raises:
            grpc.aio.AioRpcError: it didn't load; DEADLINE_EXCEEDED after `limit_s` seconds.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if override:
            request.parameters["config"].string_param = override
        await self._stub.RepositoryModelLoad(request, timeout=limit_s)

    async def config(self, model: str) -> ModelConfig:
        """Give a loaded model's configuration as Triton completed it.

        Raises:
            UnavailableError: no answer.
        """
        request = service_pb2.ModelConfigRequest(name=model)
        try:
            answer = await self._stub.ModelConfig(request, timeout=CALL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"Triton gave no model config: {error.details()}") from error
        return answer.config

    async def statistics(self, model: str) -> Any | None:
        """Give what a loaded model has done so far; None if there is no answer."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        try:
            return await self._stub.ModelStatistics(request, timeout=_STATISTICS_LIMIT_S)
        except grpc.aio.AioRpcError:
            return None

    async def busy_s(self, model: str) -> float:
        """Give the seconds that a model has computed so far, each request's counted by itself.

        Raises:
            UnavailableError: no answer.
        """
        answer = await self.statistics(model)
        if answer is None:
            raise UnavailableError("Triton gave no statistics")
        computed_ns = 0
        for stats in answer.model_stats:
            computed_ns += stats.inference_stats.compute_infer.ns
            # A model that answers as often as it likes is counted by answers.
            computed_ns += sum(part.compute_infer.ns for part in stats.response_stats.values())
        return computed_ns / 1e9

    async def infer(self, request: Any, limit_s: float) -> None:
        """Run one inference.

        Raises:
            grpc.aio.AioRpcError: it failed, or took longer than `limit_s` seconds.
        """
        await self._stub.ModelInfer(request, timeout=limit_s)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
