"""Errors to gRPC status codes, in one place, and back."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from paldia.core.errors import (
    ConflictError,
    ExpiredError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    OverloadedError,
    PaldiaError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from paldia.kit.observability import logger
from paldia.kit.text import shorten

FailedCall: TypeAlias = "grpc.aio.AioRpcError | grpc.Call"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# The four kinds of handler share no type that says so.
Handler: TypeAlias = Any

# gRPC refuses trailers over 8 KB: text beyond ASCII triples there, and RetryInfo repeats it.
_MESSAGE_LIMIT_BYTES = 1600

# TooLargeError shares its code with OverloadedError, which alone carries RetryInfo.
_CODE_OF_ERROR: tuple[tuple[type[PaldiaError], grpc.StatusCode], ...] = (
    (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (NotServableError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConflictError, grpc.StatusCode.ABORTED),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ExpiredError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (UnsupportedError, grpc.StatusCode.UNIMPLEMENTED),
    (InternalError, grpc.StatusCode.INTERNAL),
)

_CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def code_of(error: PaldiaError) -> grpc.StatusCode:
    """Give the status code that stands for an error."""
    for kind, code in _CODE_OF_ERROR:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def error_of(call: FailedCall) -> PaldiaError:
    """Turn a failed call's status back into the error that caused it."""
    status = rpc_status.from_call(call)
    return _error(call.code(), call.details() or "", status.details if status else ())


def status_of(error: PaldiaError) -> Any:
    """Give the google.rpc.Status that stands for an error, a long message shortened."""
    status = status_pb2.Status(
        code=code_of(error).value[0], message=shorten(str(error), _MESSAGE_LIMIT_BYTES)
    )
    if isinstance(error, OverloadedError):
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(round(error.retry_after_s * 1e6))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def error_from_status(status: Any) -> PaldiaError:
    """Turn a google.rpc.Status back into the error that it stands for."""
    return _error(_CODE_OF_NUMBER.get(status.code), status.message, status.details)


def _error(
    code: grpc.StatusCode | None, message: str, status_details: Iterable[Any]
) -> PaldiaError:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry = error_details_pb2.RetryInfo()
        if any(detail.Unpack(retry) for detail in status_details):
            return OverloadedError(message, retry.retry_delay.ToTimedelta().total_seconds())
        return TooLargeError(message)
    for kind, known in _CODE_OF_ERROR:
        if code is known:
            return kind(message)
    if code is grpc.StatusCode.CANCELLED:
        return UnavailableError(message or "the call was cancelled")
    return InternalError(f"{code.name if code else 'an unknown status'}: {message}")


async def abort(context: Context, error: PaldiaError) -> NoReturn:
    """End a call with the status that stands for `error`, a long message shortened."""
    status = status_of(error)
    if status.details:
        context.set_trailing_metadata(rpc_status.to_status(status).trailing_metadata)
    await context.abort(code_of(error), status.message)
    raise AssertionError("abort always raises")


class WrappingInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of a server's methods, each once: it takes longer than much they do."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Wrap the handler of a method, `/package.Service/Method`."""
        raise NotImplementedError

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Give the wrapped handler; None where there is none."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is not None:
                handler = self._handlers[method] = self.wrapped(method, handler)
        return handler


class ErrorInterceptor(WrappingInterceptor):
    """Lets servicers raise PaldiaError: this turns it into the call's status."""

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Wrap a handler, whichever of the four kinds it is."""
        return _wrapped(handler)


def _wrapped(handler: Handler) -> Handler:
    for kind, make in (
        ("unary_unary", grpc.unary_unary_rpc_method_handler),
        ("stream_unary", grpc.stream_unary_rpc_method_handler),
        ("unary_stream", grpc.unary_stream_rpc_method_handler),
        ("stream_stream", grpc.stream_stream_rpc_method_handler),
    ):
        behaviour = getattr(handler, kind)
        if behaviour is not None:
            guard = _guard_generator if inspect.isasyncgenfunction(behaviour) else _guard
            read = _readable_all if handler.request_streaming else _readable
            return make(
                guard(behaviour, read),
                _lenient(handler.request_deserializer),
                handler.response_serializer,
            )
    return handler


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a request that could not be decoded, so that its call gets a clear status."""

    reason: str


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(encoded: bytes) -> Any:
        try:
            return deserialize(encoded)
        except DecodeError as error:
            return _Unreadable(str(error))

    return read


def _readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise InvalidArgumentError(f"the request can't be decoded: {request.reason}")
    return request


async def _readable_all(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _guard(behaviour: Any, read: Callable[[Any], Any]) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await behaviour(read(request), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, _told(error))

    return call


def _guard_generator(behaviour: Any, read: Callable[[Any], Any]) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            # Closed here and not by the garbage collector, so that its cleanup is prompt.
            async with aclosing(behaviour(read(request), context)) as responses:
                async for response in responses:
                    yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, _told(error))

    return call


def _told(error: Exception) -> PaldiaError:
    """Give what the caller is told. Of a fault of our own that is not how we are built."""
    if isinstance(error, PaldiaError):
        return error
    logger().exception("rpc.failed", exc_info=error)
    return InternalError("an internal error; the server's log has the details")
