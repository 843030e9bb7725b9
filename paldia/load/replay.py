"""Sends from this process and tells each request's outcome, with the answer's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tritonclient.grpc import service_pb2

from paldia.load.outcomes import ANSWERED, Outcome, Tags
from paldia.load.sender import Sender, Settled, open_channels


async def replay(
    address: str,
    payloads: Sequence[bytes],
    offsets_s: Sequence[float],
    *,
    deadline_s: float,
    in_flight_limit: int = 1024,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Send one request at each offset, payloads taking turns; give all outcomes in that order.

    Args:
        address: host and port of any server of the KServe V2 protocol.
        payloads: encoded ModelInferRequests.
        offsets_s: rising times to send at, in seconds from the start.
        deadline_s: time after which a request is given up, from when it was meant to be sent.
        in_flight_limit: most requests under way; past it they count as UNSENT.
        on_outcome: told each outcome as it comes.

    Raises:
        UnavailableError: the server can't be reached at the start.
        InvalidArgumentError: there are no payloads.
    """
    outcomes: dict[int, Outcome] = {}

    def settle(it: Settled) -> None:
        tags = _tags(it.answer) if it.code == ANSWERED else {}
        outcome = Outcome(it.intended_s, it.sent_s - it.intended_s, it.done_s, it.code, tags)
        outcomes[it.number] = outcome
        on_outcome(outcome)

    async with open_channels(address, 1) as channels:
        sender = Sender(
            channels, payloads, settle, deadline_s=deadline_s, in_flight_limit=in_flight_limit
        )
        await sender.open_loop(offsets_s)
    return [outcomes[index] for index in range(len(offsets_s))]


def _tags(answer: bytes) -> Tags:
    parameters = service_pb2.ModelInferResponse.FromString(answer).parameters
    kinds = {name: (it, it.WhichOneof("parameter_choice")) for name, it in parameters.items()}
    return {name: getattr(it, kind) for name, (it, kind) in kinds.items() if kind}
