"""Open-loop sending: every request leaves at its time, however the others fare.

Users don't wait for each other, so neither does this. Latency counts from the time a
request was meant to be sent: when server or generator stalls, the requests that should
have gone out meanwhile pay for it, as their users would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from paldia.core.errors import InvalidArgumentError, UnavailableError

Tags: TypeAlias = Mapping[str, str | int | float | bool]

ANSWERED = "OK"
EXPIRED = "DEADLINE_EXCEEDED"
REFUSED = "RESOURCE_EXHAUSTED"
UNSENT = "UNSENT"
"""Not a status of gRPC's: the generator had too many requests under way to send this one."""

_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request; times in seconds from the replay's start.

    Attributes:
        intended_s: when it was meant to be sent.
        lag_s: how much later the generator got to it.
        done_s: when its fate was known.
        code: gRPC's name of the status, or UNSENT.
        tags: the answer's parameters.
    """

    intended_s: float
    lag_s: float
    done_s: float
    code: str
    tags: Tags = field(default_factory=dict)

    @property
    def latency_s(self) -> float:
        """Seconds from when it was meant to be sent until its fate was known."""
        return self.done_s - self.intended_s


async def replay(
    address: str,
    model: str,
    payloads: Sequence[Sequence[InferInput]],
    offsets_s: Sequence[float],
    *,
    deadline_s: float,
    in_flight_limit: int = 1024,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Send one request at each offset, payloads taking turns; give all outcomes in that order.

    Args:
        address: host and port of any server of the KServe V2 protocol.
        model: the model asked.
        payloads: input tensors of one request each.
        offsets_s: rising times to send at, in seconds from the start.
        deadline_s: time after which a request is given up, from when it was meant to be sent.
        in_flight_limit: most requests under way; past it they count as UNSENT.
        on_outcome: told each outcome as it comes.

    Raises:
        UnavailableError: the server can't be reached at the start.
        InvalidArgumentError: there are no payloads.
    """
    if not payloads:
        raise InvalidArgumentError("a replay needs the inputs of one request at least")
    async with InferenceServerClient(address) as client:
        await _connect(client, address)
        sender = _Sender(client, model, deadline_s, on_outcome)
        async with asyncio.TaskGroup() as group:
            for index, intended_s in enumerate(offsets_s):
                await asyncio.sleep(intended_s - sender.now_s())
                if sender.in_flight < in_flight_limit:
                    payload = payloads[index % len(payloads)]
                    sender.in_flight += 1
                    group.create_task(sender.send(index, intended_s, payload))
                else:
                    sender.settle(index, intended_s, sender.now_s(), UNSENT)
        return [sender.outcomes[index] for index in range(len(offsets_s))]


async def _connect(client: InferenceServerClient, address: str) -> None:
    """Reach the server before the clock starts, so that connecting isn't measured."""
    try:
        await client.is_server_live(client_timeout=_CONNECT_S)
    except InferenceServerException as error:
        raise UnavailableError(f"no inference server answers at {address}: {error}") from error


class _Sender:
    """The requests under way, on one clock."""

    def __init__(
        self,
        client: InferenceServerClient,
        model: str,
        deadline_s: float,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._client = client
        self._model = model
        self._deadline_s = deadline_s
        self._on_outcome = on_outcome
        self._clock = asyncio.get_running_loop().time
        self._start_s = self._clock()
        self.in_flight = 0
        self.outcomes: dict[int, Outcome] = {}

    def now_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start_s

    async def send(self, index: int, intended_s: float, payload: Sequence[InferInput]) -> None:
        """Send one request and settle it."""
        sent_s = self.now_s()
        left_s = self._deadline_s - (sent_s - intended_s)
        try:
            code, tags = await self._ask(payload, left_s) if left_s > 0 else (EXPIRED, {})
        finally:
            self.in_flight -= 1
        self.settle(index, intended_s, sent_s, code, tags)

    async def _ask(self, payload: Sequence[InferInput], timeout_s: float) -> tuple[str, Tags]:
        try:
            result = await self._client.infer(self._model, payload, client_timeout=timeout_s)
        except InferenceServerException as error:
            return (error.status() or "UNKNOWN").removeprefix("StatusCode."), {}
        return ANSWERED, _tags(result)

    def settle(
        self, index: int, intended_s: float, sent_s: float, code: str, tags: Tags | None = None
    ) -> None:
        """Record a request's fate."""
        outcome = Outcome(intended_s, sent_s - intended_s, self.now_s(), code, tags or {})
        self.outcomes[index] = outcome
        self._on_outcome(outcome)


def _tags(result: InferResult) -> Tags:
    kinds = {
        name: (parameter, parameter.WhichOneof("parameter_choice"))
        for name, parameter in result.get_response().parameters.items()
    }
    return {name: getattr(parameter, kind) for name, (parameter, kind) in kinds.items() if kind}
