"""Those who do nothing wrong: right requests at a steady rate, and how long each takes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.attack.stage import MODEL

RATE = 50.0
SIZE_BYTES = 1000
DEADLINE_S = 10.0


@dataclass(slots=True)
class Served:
    """How callers fared: latencies from when each request was due, in seconds, and errors."""

    latencies_s: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def percentile_ms(self, share: float) -> float:
        """Give a percentile of the latencies; those that failed count as the longest."""
        failed = sum(self.errors.values())
        ordered = sorted(self.latencies_s) + [DEADLINE_S] * failed
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request() -> service_pb2.ModelInferRequest:
    """Make a right request."""
    message = service_pb2.ModelInferRequest(model_name=MODEL)
    message.inputs.add(name="X", datatype="UINT8", shape=[1, SIZE_BYTES])
    message.raw_input_contents.append(bytes(SIZE_BYTES))
    return message


async def call_steadily(address: str, seconds: float) -> Served:
    """Send for so long, whatever becomes of what was sent before."""
    served, tasks = Served(), set()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        begin_s = time.monotonic()
        for number in range(round(RATE * seconds)):
            due_s = begin_s + number / RATE
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.add(asyncio.ensure_future(_call(stub, due_s, served)))
        await asyncio.gather(*tasks)
    return served


async def _call(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, due_s: float, served: Served
) -> None:
    try:
        answer = await stub.ModelInfer(request(), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as failed:
        name = failed.code().name
        served.errors[name] = served.errors.get(name, 0) + 1
        return
    if len(answer.raw_output_contents[0]) == SIZE_BYTES:
        served.latencies_s.append(time.monotonic() - due_s)
    else:
        served.errors["WRONG"] = served.errors.get("WRONG", 0) + 1
