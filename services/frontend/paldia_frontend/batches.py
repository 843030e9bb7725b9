"""One batch against one Triton: merge, call, split, and what a failure means."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from paldia.core.dispatch.types import Dispatch, Retry
from paldia.core.errors import InternalError
from paldia_frontend.merging import NotBatchedError, has_rows, merge, split
from paldia_frontend.requests import Normalised
from paldia_frontend.upstream import Upstream, Verdict, judge

InferResponse = Any
StreamResponse = Any

_MICROSECONDS_MOST = (1 << 63) - 1


class BatchFailedError(Exception):
    """A batch got no answer.

    Attributes:
        verdict: whether to try its requests again, and what to tell their callers if not.
        is_unmergeable: the model's answers have no row for each row asked.
    """

    def __init__(self, verdict: Verdict, *, is_unmergeable: bool = False) -> None:
        super().__init__(str(verdict.error))
        self.verdict = verdict
        self.is_unmergeable = is_unmergeable


@dataclass(frozen=True, slots=True)
class Answered:
    """A batch's answers, one for each of its requests, in order.

    `is_mergeable`: they have a row for each row asked, as merging needs.
    """

    answers: list[InferResponse]
    is_mergeable: bool


async def infer(
    upstream: Upstream,
    batch: Dispatch,
    asked: Sequence[Normalised],
    timeout_s: float | None,
    ranks: Mapping[str, int],
) -> Answered:
    """Get each request's answer; `ranks` are those of the model's outputs, by name.

    Raises:
        BatchFailedError: there is none.
    """
    try:
        message = merge([one.message for one in asked])
        _set_timeout(message, asked)
        response = await upstream.stub.ModelInfer(message, timeout=timeout_s)
        answers, is_mergeable = [response], True
        if len(asked) > 1:
            answers = split(
                response, [one.rows for one in asked], [one.message.id for one in asked], ranks
            )
        elif asked[0].like_key is not None:
            is_mergeable = has_rows(response, asked[0].rows, ranks)
    except grpc.aio.AioRpcError as failed:
        raise BatchFailedError(_verdict(failed, batch, asked)) from failed
    except NotBatchedError as error:
        verdict = Verdict(Retry.ALONE, InternalError(str(error)))
        raise BatchFailedError(verdict, is_unmergeable=True) from error
    for one, answer in zip(asked, answers, strict=True):
        _tag(answer, one, batch, upstream)
    return Answered(answers, is_mergeable)


async def stream(
    upstream: Upstream, batch: Dispatch, asked: Normalised, timeout_s: float | None
) -> AsyncGenerator[StreamResponse, None]:
    """Give a decoupled model's answers to one request as they come.

    Raises:
        BatchFailedError: there are none, or no more.
    """
    began = False
    try:
        async for response in upstream.stub.ModelStreamInfer(
            iter([asked.message]), timeout=timeout_s
        ):
            began = True
            _tag(response.infer_response, asked, batch, upstream)
            yield response
    except grpc.aio.AioRpcError as failed:
        verdict = _verdict(failed, batch, [asked])
        # What the caller has heard can't be taken back.
        retry = Retry.NO if began else verdict.retry
        raise BatchFailedError(Verdict(retry, verdict.error)) from failed


def _set_timeout(message: Any, asked: Sequence[Normalised]) -> None:
    """Let the tightest of the callers' limits on time in queues hold in Triton's."""
    limits_s = [one.timeout_s for one in asked if one.timeout_s is not None]
    if limits_s:
        message.parameters["timeout"].int64_param = min(
            round(min(limits_s) * 1e6), _MICROSECONDS_MOST
        )


def _verdict(failed: grpc.aio.AioRpcError, batch: Dispatch, asked: Sequence[Normalised]) -> Verdict:
    verdict = judge(
        failed,
        batch.node_id,
        is_merged=len(asked) > 1,
        has_version=bool(asked[0].message.model_version),
        timed=asked[0].timeout_s is not None,
    )
    if asked[0].sequence_id is None:
        return verdict
    # It may have run in part, and a sequence must not take the same step twice.
    return Verdict(Retry.NO, verdict.error)


def _tag(answer: InferResponse, asked: Normalised, batch: Dispatch, upstream: Upstream) -> None:
    answer.model_name = batch.model
    # Triton gives back no more than what stands before a NUL.
    answer.id = asked.message.id
    answer.parameters["paldia_node"].string_param = batch.node_id
    answer.parameters["paldia_batch"].int64_param = batch.rows
    if upstream.emulated:
        answer.parameters["paldia_emulated"].bool_param = True
