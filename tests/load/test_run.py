"""The generator with its processes, against a real gRPC server in this one."""

import asyncio
import threading
from collections.abc import Callable

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2

from paldia.core.errors import InternalError
from paldia.load.arrivals import uniform
from paldia.load.plan import Floor, Plan, Questions, Schedule
from paldia.load.run import LoadRun, Progress, Result
from paldia.load.sender import open_channels

Payloads = Callable[[int], list[bytes]]
LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def _short_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paldia.load.run._FLOOR_S", 0.2)
    monkeypatch.setattr("paldia.load.run._FLOOR_WARMUP_S", 0.05)


@pytest.fixture
def plan(payloads: Payloads) -> Callable[..., Plan]:
    def make(address: str, **changes: object) -> Plan:
        answer = service_pb2.ModelInferResponse(model_name="any", raw_output_contents=[bytes(4)])
        answer.outputs.add(name="same", datatype="INT32", shape=[1])
        settings = {
            "address": address,
            "model": "any",
            "what": Questions(tuple(payloads(3)), answer.SerializeToString(), frozenset({"same"})),
            "when": Schedule("closed", 1.0, callers=1),
            "deadline_s": 10.0,
            "slo_s": 0.5,
            "connections": 4,
            "in_flight_limit": 1000,
            "check_every": 1,
        }
        return Plan(**(settings | changes))

    return make


def _open(rate_rps: float, duration_s: float = 1.0, warmup_s: float = 0.0) -> Schedule:
    offsets_s = uniform(rate_rps, duration_s + warmup_s)
    return Schedule("rate", duration_s, warmup_s, offsets_s)


def _workers() -> list[psutil.Process]:
    return [it for it in psutil.Process().children() if "paldia.load.worker" in it.cmdline()]


async def _run(plan: Plan, told: list[Progress] | None = None) -> Result:
    run = LoadRun(plan)
    tell = (lambda progress: None) if told is None else told.append
    await asyncio.to_thread(run.go, tell, lambda: False)
    return run.result()


async def test_processes_share_the_requests_and_their_counts_add_up(echo, plan) -> None:
    told: list[Progress] = []
    when = _open(200.0, warmup_s=0.5)
    made = plan(echo.address, when=when, processes=2, metadata=(("who", "me"),))
    result = await _run(made, told)
    report = result.report
    assert (report.offered, report.answered) == (200, 200)
    assert report.by_code == {"OK": 200}
    assert report.offered_rps == 200.0
    assert sum(row.offered for row in report.timeline) == 200
    assert (result.processes, result.connections) == (2, 4)
    # Every connection is used, and every payload as often as the others.
    assert len(echo.peers) == 4
    assert sorted(np.bincount(echo.seen).tolist()) == [100, 100, 100]
    assert ("who", "me") in echo.metadata
    assert told[0].offered == 200
    assert told[0].is_warmup is False
    assert result.cpu_s_per_request > 0
    assert 0 < result.floor.p50_s <= result.floor.p99_s


async def test_a_stalled_server_shows_in_all_requests_of_that_time(serving, plan) -> None:
    """A closed generator would have one slow request; those due meanwhile count here."""
    stalled = asyncio.Event()

    async def stall(number: int, context: grpc.aio.ServicerContext) -> None:
        if not stalled.is_set():
            stalled.set()
            asyncio.get_running_loop().call_later(1.0, resumed.set)
        await resumed.wait()

    resumed = asyncio.Event()
    async with serving(stall) as server:
        result = await _run(plan(server.address, when=_open(100.0, 2.0)))
    report = result.report
    assert report.answered == 200
    assert report.in_slo is not None
    # Those of the first half second waited for longer than half a second.
    assert 30 <= report.late <= 150
    assert report.p90_ms is not None
    assert report.p90_ms > 500
    assert report.timeline[0].p50_ms is not None
    assert report.timeline[0].p50_ms > 200


async def test_a_stalled_generator_counts_it_and_says_so(echo, plan) -> None:
    stalled: list[psutil.Process] = []

    def stall() -> bool:
        if run.tally.offered and not stalled:
            stalled.extend(_workers())
            for worker in stalled:
                worker.suspend()
                threading.Timer(0.8, worker.resume).start()
        return False

    run = LoadRun(plan(echo.address, when=_open(50.0, 3.0)))
    await asyncio.to_thread(run.go, lambda progress: None, stall)
    report = run.result().report
    assert len(stalled) == 1
    assert report.answered == 150
    # What was due in the first 300 ms of the stall was answered half a second late at least.
    assert report.late >= 10
    assert report.lag_max_ms > 500
    assert not report.kept_up
    assert any("did not keep up" in line for line in run.result().advice)


async def test_callers_of_a_closed_loop_wait_for_their_answers(serving, plan) -> None:
    under_way, most = 0, 0

    async def answer(number: int, context: grpc.aio.ServicerContext) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1

    async with serving(answer) as server:
        result = await _run(
            plan(server.address, when=Schedule("closed", 1.0, callers=5), processes=2)
        )
    report = result.report
    assert most == 5
    assert report.offered == report.answered == len(server.seen)
    # Five callers, none of whose requests takes less than 20 ms.
    assert 5 <= report.offered <= 5 * 51
    assert report.p50_ms is not None
    assert report.p50_ms >= 20


async def test_each_fate_has_its_count(serving, plan) -> None:
    never = asyncio.Event()

    async def answer(number: int, context: grpc.aio.ServicerContext) -> None:
        if number == 1:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        if number == 2:
            await never.wait()

    async with serving(answer) as server:
        made = plan(server.address, when=_open(30.0), deadline_s=0.5, in_flight_limit=3)
        result = await _run(made)
    report = result.report
    assert report.offered == 30
    assert report.answered + report.refused + report.expired + report.unsent == 30
    assert min(report.answered, report.refused, report.expired, report.unsent) > 0
    assert report.refusal_p50_ms is not None
    assert result.details["RESOURCE_EXHAUSTED"] == "too much"
    assert any("were not sent" in line for line in result.advice)


async def test_what_is_no_answer_counts_as_failed(echo, plan) -> None:
    echo.is_empty = True
    result = await _run(plan(echo.address, when=_open(20.0)))
    assert result.report.by_code == {"MALFORMED": 20}
    assert (result.report.failed, result.report.answered) == (20, 0)
    assert result.details["MALFORMED"] == "the answer has no outputs"


async def test_it_can_be_stopped_and_tells_what_was_done(echo, plan) -> None:
    run = LoadRun(plan(echo.address, when=_open(50.0, 600.0)))
    await asyncio.to_thread(run.go, lambda progress: None, lambda: run.tally.offered > 20)
    report = run.result().report
    assert report.offered == report.answered
    assert 20 < report.offered < 1000
    assert report.duration_s < 20
    assert report.offered_rps == pytest.approx(report.offered / report.duration_s, rel=0.01)


async def test_a_process_that_is_killed_is_told_of(echo, plan) -> None:
    def kill_one() -> bool:
        if run.tally.offered > 5:
            for worker in _workers():
                worker.kill()
        return False

    run = LoadRun(plan(echo.address, when=_open(50.0, 600.0)))
    with pytest.raises(InternalError, match="ended with code -9"):
        await asyncio.to_thread(run.go, lambda progress: None, kill_one)
    assert run.tally.offered > 5


async def test_no_process_is_left_behind(echo, plan) -> None:
    before = psutil.Process().children()
    await _run(plan(echo.address, when=_open(20.0, 0.5), processes=2))
    assert psutil.Process().children() == before


@pytest.mark.parametrize(
    ("rate_rps", "cpu_us", "wanted"),
    [(100, 200, 1), (3400, 200, 1), (3600, 200, 2), (99_000, 200, 4)],
)
def test_processes_follow_from_rate_and_cost(
    plan, monkeypatch: pytest.MonkeyPatch, rate_rps: int, cpu_us: int, wanted: int
) -> None:
    monkeypatch.setattr("paldia.load.plan.cores", lambda: 4)
    made = plan("nowhere:1", when=_open(rate_rps, 2.0))
    floor = Floor(cpu_us / 1e6, 0.001, 0.001)
    assert made.processes_with(floor) == wanted
    assert plan("nowhere:1", when=_open(10.0), processes=9).processes_with(floor) == 9
    assert plan("nowhere:1", when=Schedule("closed", 1.0, callers=17)).processes_with(floor) == 2


def test_parts_hold_each_request_and_caller_once(plan) -> None:
    when = Schedule("any", 1.0, 0.0, uniform(100.0, 1.0), callers=7)
    made = plan("nowhere:1", when=when)
    parts = [made.part(number, 3) for number in range(3)]
    offsets_s = np.sort(np.concatenate([part.offsets_s for part in parts]))
    assert offsets_s.tolist() == when.offsets_s.tolist()
    assert sum(part.callers for part in parts) == 7
    assert {part.payloads[0] for part in parts} == set(made.what.payloads)


async def test_several_channels_are_several_connections(echo) -> None:
    async with open_channels(echo.address, 3) as channels:
        assert len(channels) == 3
