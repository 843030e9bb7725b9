"""Against a real gRPC server of the protocol, in this process."""

import asyncio

import grpc
import pytest

from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.load.outcomes import Outcome
from paldia.load.replay import replay
from paldia.load.report import summarise


async def test_payloads_take_turns_and_tags_come_back(echo, payloads) -> None:
    told: list[Outcome] = []
    outcomes = await replay(
        echo.address,
        payloads(2),
        [0.0, 0.01, 0.02, 0.03, 0.04],
        deadline_s=10.0,
        on_outcome=told.append,
    )
    assert sorted(echo.seen) == [0, 0, 0, 1, 1]
    assert [outcome.code for outcome in outcomes] == ["OK"] * 5
    assert [outcome.intended_s for outcome in outcomes] == [0.0, 0.01, 0.02, 0.03, 0.04]
    assert [outcome.tags["paldia_node"] for outcome in outcomes] == [
        f"node-{index % 2}" for index in range(5)
    ]
    assert all(outcome.tags["paldia_batch"] == 3 for outcome in outcomes)
    assert sorted(told, key=lambda outcome: outcome.intended_s) == outcomes


async def test_a_stalled_server_holds_nothing_back(serving, payloads) -> None:
    """An open loop: all requests reach a server that has answered none of them."""
    everyone = asyncio.Event()

    async def stall(number: int, context: grpc.aio.ServicerContext) -> None:
        if number == 9:
            everyone.set()
        await everyone.wait()

    async with serving(stall) as server:
        offsets_s = [index * 0.01 for index in range(10)]
        outcomes = await replay(server.address, payloads(10), offsets_s, deadline_s=10.0)
    assert len(server.seen) == 10
    assert {outcome.code for outcome in outcomes} == {"OK"}
    # The first waited for the last to be sent, 90 ms later at the earliest.
    assert outcomes[0].latency_s >= 0.09


async def test_latency_counts_from_when_it_was_meant_to_be_sent(serving, payloads) -> None:
    """A stall of the whole process, server and generator, shows in the requests it delayed."""
    stall_s = 1.0

    async def block(number: int, context: grpc.aio.ServicerContext) -> None:
        if number == 5:
            loop = asyncio.get_running_loop()
            ends_s = loop.time() + stall_s
            while loop.time() < ends_s:
                pass

    async with serving(block) as server:
        offsets_s = [index * 0.02 for index in range(30)]
        outcomes = await replay(server.address, payloads(30), offsets_s, deadline_s=10.0)
    # Those meant for the first half of the stall, 25 if nothing else were late.
    assert sum(outcome.latency_s > stall_s / 2 for outcome in outcomes) >= 10
    report = summarise(outcomes, slo_s=stall_s / 2, duration_s=0.6)
    assert report.late >= 10
    assert report.lag_max_ms > 500
    assert report.p99_ms is not None
    assert report.p99_ms > 800


async def test_each_request_has_its_deadline_and_its_code(serving, payloads) -> None:
    never = asyncio.Event()

    async def answer(number: int, context: grpc.aio.ServicerContext) -> None:
        if number == 0:
            await never.wait()
        if number == 1:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        if number == 2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    async with serving(answer) as server:
        outcomes = await replay(server.address, payloads(4), [0.0, 0.1, 0.2, 0.3], deadline_s=1.0)
    codes = [outcome.code for outcome in outcomes]
    assert codes == ["DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "OK"]
    assert outcomes[0].latency_s >= 1.0
    report = summarise(outcomes, slo_s=1.0, duration_s=1.0)
    assert (report.expired, report.refused, report.failed, report.in_slo) == (1, 1, 1, 1)


async def test_past_the_limit_requests_are_counted_not_sent(serving, payloads) -> None:
    last = asyncio.Event()

    async def hold(number: int, context: grpc.aio.ServicerContext) -> None:
        await last.wait()

    def release(outcome: Outcome) -> None:
        if outcome.code == "UNSENT" and outcome.intended_s == 0.05:
            last.set()

    async with serving(hold) as server:
        offsets_s = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]
        outcomes = await replay(
            server.address,
            payloads(1),
            offsets_s,
            deadline_s=10.0,
            in_flight_limit=2,
            on_outcome=release,
        )
    assert [outcome.code for outcome in outcomes] == ["OK"] * 2 + ["UNSENT"] * 4
    assert len(server.seen) == 2
    assert summarise(outcomes, slo_s=10.0, duration_s=1.0).compliance == 2 / 6


async def test_no_server_is_said_at_once(echo, payloads) -> None:
    with pytest.raises(UnavailableError, match="no inference server answers at"):
        await replay("127.0.0.1:1", payloads(1), [0.0], deadline_s=1.0)
    with pytest.raises(InvalidArgumentError, match="one at least"):
        await replay(echo.address, [], [0.0], deadline_s=1.0)
