"""The server that is measured: asked what the model wants, and for a first answer, beforehand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from paldia.core.errors import (
    ExpiredError,
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    PaldiaError,
    UnavailableError,
)
from paldia.kit.text import printable, shorten
from paldia.load.inputs import Wanted
from paldia.load.sender import METHOD, Metadata

_ASK_S = 10.0
_FIRST_ANSWER_S = 60.0
"""A first answer may have to wait until the model is loaded."""
_AGAIN_S = 0.5
_SHOWN_BYTES = 400
_ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_LATER = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


@dataclass(frozen=True, slots=True)
class Described:
    """A model's inputs and outputs, as its server tells them."""

    inputs: tuple[Wanted, ...]
    outputs: tuple[Wanted, ...]


class Target:
    """A model on a server."""

    def __init__(self, address: str, model: str, metadata: Metadata, channel: grpc.Channel) -> None:
        self.address = address
        self.model = model
        self._metadata = tuple(metadata) or None
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._infer: Any = channel.unary_unary(METHOD)

    def describe(self) -> Described | None:
        """Ask for inputs and outputs; None from a server that doesn't tell.

        Raises:
            NotFoundError: it has no such model.
            UnavailableError: there is no server.
        """
        request = service_pb2.ModelMetadataRequest(name=self.model)
        try:
            told = self._stub.ModelMetadata(request, timeout=_ASK_S, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise self._error(error, None) from None
        return Described(_wanted(told.inputs), _wanted(told.outputs))

    def first_answer(self, payload: bytes, described: Described | None) -> bytes:
        """Send one request, again and again while the server isn't ready for it.

        Raises:
            InvalidArgumentError: it isn't what the model wants.
            NotFoundError: there is no such model.
            UnavailableError: the server is gone, or gives no answer in a minute.
        """
        give_up_s = time.monotonic() + _FIRST_ANSWER_S
        while True:
            left_s = max(give_up_s - time.monotonic(), _AGAIN_S)
            try:
                return bytes(self._infer(payload, timeout=left_s, metadata=self._metadata))
            except grpc.RpcError as failed:
                error = self._error(failed, described)
                later = failed.code() in _LATER and not isinstance(error, NotFoundError)
                if not later or self._is_gone() or time.monotonic() >= give_up_s:
                    raise error from None
            time.sleep(_AGAIN_S)

    def _is_gone(self) -> bool:
        try:
            request = service_pb2.ServerLiveRequest()
            self._stub.ServerLive(request, timeout=_ASK_S, metadata=self._metadata)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
        return False

    def _error(self, error: grpc.RpcError, described: Described | None) -> PaldiaError:
        code = error.code()
        said = printable(shorten(error.details() or code.name, _SHOWN_BYTES)).replace("\n", " ")
        if code is grpc.StatusCode.NOT_FOUND or "unknown model" in said:
            return NotFoundError(f"{self.address} has no model {self.model}: {said}")
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            inputs = described.inputs if described else ()
            wants = f"; it wants {', '.join(map(str, inputs))}" if inputs else ""
            return InvalidArgumentError(f"{self.model} refuses the input: {said}{wants}")
        if code is grpc.StatusCode.UNAVAILABLE:
            return UnavailableError(f"no inference server answers at {self.address}: {said}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ExpiredError(f"{self.model} at {self.address} gave no answer in time: {said}")
        return NotServableError(
            f"{self.model} at {self.address} gives no answer: {code.name}: {said}"
        )


@contextlib.contextmanager
def target(address: str, model: str, metadata: Metadata) -> Iterator[Target]:
    """Connect to a server to ask it about a model."""
    with grpc.insecure_channel(address, options=_ANY_SIZE) as channel:
        yield Target(address, model, metadata, channel)


def _wanted(tensors: Sequence[Any]) -> tuple[Wanted, ...]:
    return tuple(Wanted(it.name, it.datatype, tuple(it.shape)) for it in tensors)
