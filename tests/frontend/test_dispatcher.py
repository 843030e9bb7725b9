"""What reaches Triton of a caller's patience and urgency, and when it is told that nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from paldia_frontend.dispatcher import Dispatcher
from paldia_frontend.metrics import Metrics
from paldia_frontend.requests import normalise
from paldia_frontend.routes import Route, route_from_proto
from tritonclient.grpc import model_config_pb2, service_pb2

from paldia.api.convert import duration
from paldia.api.v1 import routing_pb2, types_pb2
from paldia.core.dispatch.kernel import DispatchKernel
from paldia.core.dispatch.types import Limits
from paldia.kit.clock import SystemClock

LIMIT_S = 20.0


class Slow:
    """A Triton that answers once it may, and notes what it was asked and what was taken back."""

    def __init__(self) -> None:
        self.stub = self
        self.emulated = False
        self.may_answer = asyncio.Event()
        self.asked: list[Any] = []
        self.timeouts_s: list[float | None] = []
        self.taken_back = 0

    async def ModelInfer(self, message: Any, timeout: float | None) -> Any:  # noqa: N802
        self.asked.append(message)
        self.timeouts_s.append(timeout)
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.taken_back += 1
            raise
        answer = service_pb2.ModelInferResponse(id=message.id)
        answer.outputs.add(name="Y", datatype="UINT8", shape=message.inputs[0].shape)
        answer.raw_output_contents.extend(message.raw_input_contents)
        return answer

    # It is the only one.

    def route(self, wanted: Any) -> None: ...

    def acquire(self, endpoint: str) -> Slow:
        return self

    def release(self, upstream: Slow) -> None: ...


class Stage:
    """A dispatcher with one model on one lane."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.triton = Slow()
        self.clock = SystemClock()
        config = model_config_pb2.ModelConfig(name="m", max_batch_size=4)
        config.input.add(name="X", data_type=model_config_pb2.TYPE_UINT8, dims=[1])
        config.output.add(name="Y", data_type=model_config_pb2.TYPE_UINT8, dims=[1])
        self.kernel = DispatchKernel(limits)
        self.dispatcher = Dispatcher(
            self.kernel,
            self.triton,
            self.clock,
            Metrics(),
            message_limit_bytes=1 << 20,
            on_cold_wait=lambda: None,
        )
        self.model: Route = route_from_proto(
            routing_pb2.ModelRoute(
                model="m",
                state=routing_pb2.ROUTE_STATE_READY,
                slo=types_pb2.Slo(latency=duration(5.0), share=0.99),
                model_config=config.SerializeToString(),
                lanes=[routing_pb2.Lane(node_id="n", endpoint="a:1", count=1, batch_size=4)],
            )
        )
        self.dispatcher.take_routes([self.model], [])

    def ask(
        self, number: int = 1, left_s: float | None = None, **parameters: int
    ) -> asyncio.Task[Any]:
        """Ask for an answer; its contents are the number."""
        message = service_pb2.ModelInferRequest(id=str(number))
        message.inputs.add(name="X", datatype="UINT8", shape=[1, 1])
        message.raw_input_contents.append(bytes([number]))
        for name, value in parameters.items():
            message.parameters[name].int64_param = value
        deadline_s = None if left_s is None else self.clock.monotonic_s() + left_s
        asked = normalise(message, self.model.config)
        return asyncio.create_task(self.dispatcher.infer(self.model, asked, deadline_s))

    async def busy(self) -> asyncio.Task[Any]:
        """Have the lane busy, so that what is asked for queues."""
        first = self.ask(0)
        await until(lambda: len(self.triton.asked) == 1)
        return first

    async def order(self) -> list[int]:
        """Let all be answered; give the numbers in the order in which Triton got them."""
        self.triton.may_answer.set()
        counters = self.kernel.counters["m"]
        await until(lambda: not (counters.backlog or counters.in_flight))
        return [raw for it in self.triton.asked[1:] for raw in it.raw_input_contents[0]]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("patience_s", "least_s", "most_s"),
    [([7.0], 6.0, 7.0), ([3.0, 9.0], 8.0, 9.0), ([3.0, None], None, None)],
)
async def test_time_that_callers_have_left_travels_to_triton(
    patience_s: list[float | None], least_s: float | None, most_s: float | None
) -> None:
    stage = Stage()
    calls = [stage.ask(left_s=it) for it in patience_s]
    await until(lambda: stage.triton.asked)
    (timeout_s,) = stage.triton.timeouts_s
    if least_s is None:
        assert timeout_s is None
    else:
        assert least_s < timeout_s <= most_s
    stage.triton.may_answer.set()
    await asyncio.gather(*calls)


async def test_the_urgent_go_before_those_due_earlier() -> None:
    stage = Stage()
    await stage.busy()
    # The third is due first, but more can wait than a batch holds.
    calls = [stage.ask(1, priority=2), stage.ask(2), stage.ask(3, left_s=1.0), stage.ask(4)]
    calls += [stage.ask(5, priority=1), stage.ask(6, priority=3)]
    await until(lambda: stage.kernel.counters["m"].backlog == 6)
    order = await stage.order()
    assert order[0] == 5
    assert order[-1] == 6
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    await asyncio.gather(*calls)


async def test_those_that_differ_in_id_priority_and_timeout_share_the_tightest() -> None:
    stage = Stage()
    await stage.busy()
    calls = [stage.ask(1, timeout=9_000_000), stage.ask(2, priority=2, timeout=7_000_000)]
    calls += [stage.ask(3)]
    await until(lambda: stage.kernel.counters["m"].backlog == 3)
    assert sorted(await stage.order()) == [1, 2, 3]
    answers = await asyncio.gather(*calls)
    assert [it.id for it in answers] == ["1", "2", "3"]
    assert len(stage.triton.asked) == 2
    assert stage.triton.asked[1].parameters["timeout"].int64_param == 7_000_000


async def test_a_call_ends_upstream_once_nobody_of_its_batch_waits() -> None:
    stage = Stage()
    first = await stage.busy()
    waiting = [stage.ask(1), stage.ask(2)]
    await until(lambda: stage.kernel.counters["m"].backlog == 2)
    stage.triton.may_answer.set()
    await first
    stage.triton.may_answer.clear()
    await until(lambda: len(stage.triton.asked) == 2)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    assert stage.triton.taken_back == 0, "the other one waits"
    waiting[1].cancel()
    await until(lambda: stage.triton.taken_back == 1)
    await until(lambda: stage.kernel.counters["m"].in_flight == 0)
    stage.triton.may_answer.set()
    assert (await stage.ask(9)).id == "9"


async def test_who_leaves_the_queue_frees_its_place_and_never_runs() -> None:
    stage = Stage()
    first = await stage.busy()
    leaving, staying = stage.ask(1), stage.ask(2)
    await until(lambda: stage.kernel.counters["m"].backlog == 2)
    leaving.cancel()
    await until(lambda: stage.kernel.counters["m"].backlog == 1)
    assert await stage.order() == [2]
    await asyncio.gather(first, staying)


async def test_a_caller_who_leaves_before_hearing_of_a_refusal_takes_nobody_along() -> None:
    stage = Stage(Limits(requests_per_model=1))
    first = await stage.busy()
    # Decisions wait for more requests, so there is time to leave between one and its news.
    stage.dispatcher.effort.gather_s = 0.02
    second = stage.ask(1)
    refused = stage.ask(2)
    await until(lambda: stage.kernel.counters["m"].refused == 1)
    refused.cancel()
    stage.triton.may_answer.set()
    answers = await asyncio.wait_for(asyncio.gather(first, second), LIMIT_S)
    assert [it.id for it in answers] == ["0", "1"]
    third = await asyncio.wait_for(stage.ask(3), LIMIT_S)
    assert third.id == "3"
