"""Several workers on one port: one queue a model, none of them missed, none of their calls lost."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from paldia.api.v1 import routing_pb2

WORKERS = 2
CHANNELS = 12


def adder(model: str = "adder") -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name in ("A", "B"):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(struct.pack("<2f", 1, 2))
    return request


def sleeper(seconds: float, model: str = "single-sleeper") -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="SECONDS", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<f", seconds))
    return request


def step(sequence: int, x: int, **marks: bool) -> Any:
    request = service_pb2.ModelInferRequest(model_name="counter")
    request.inputs.add(name="X", datatype="INT32", shape=[1, 1])
    request.raw_input_contents.append(struct.pack("<i", x))
    request.parameters["sequence_id"].int64_param = sequence
    for name, value in marks.items():
        request.parameters[name].bool_param = value
    return request


def demand(controller: Any, model: str) -> Any:
    return controller.demands.get(model, routing_pb2.ModelDemand())


def workers_of(frontend: Any) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(frontend.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "paldia_frontend.worker" in child.cmdline():
                found.append(child)
    return found


def listening(worker: psutil.Process) -> bool:
    return any(it.status == psutil.CONN_LISTEN for it in worker.net_connections("tcp"))


@contextlib.contextmanager
def callers(frontend: Any, count: int = CHANNELS) -> Iterator[list[Any]]:
    """Give stubs with a connection each: the kernel deals them out among the workers."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with contextlib.ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(frontend.address, options))
            for _ in range(count)
        ]
        yield [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]


@pytest.fixture(scope="module")
def pair(start_frontend: Any, controller: Any) -> Any:
    """Give a frontend of two workers that the tests of this module share."""
    return start_frontend(controller, "--workers", str(WORKERS))


def test_connections_reach_all_workers(pair: Any):
    with callers(pair) as stubs:
        for stub in stubs:
            stub.ModelInfer(adder(), timeout=20)
        port = int(pair.address.rpartition(":")[2])
        used = [
            worker
            for worker in workers_of(pair)
            if any(
                it.status == psutil.CONN_ESTABLISHED and it.laddr.port == port
                for it in worker.net_connections("tcp")
            )
        ]
        assert len(used) == WORKERS


def test_requests_that_reach_different_workers_share_a_batch(pair: Any):
    with callers(pair) as stubs:
        for stub in stubs:
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20)
        with pair.busy(sleeper(0.8)):
            calls = [stub.ModelInfer.future(sleeper(0), timeout=20) for stub in stubs]
        together = {call.result().parameters["paldia_batch"].int64_param for call in calls}
        assert max(together) > CHANNELS / 2


def test_a_sequence_goes_on_whichever_worker_takes_its_steps(pair: Any):
    with callers(pair) as stubs:
        sums = [
            struct.unpack(
                "<i",
                stub.ModelInfer(
                    step(71, 1, sequence_start=not number, sequence_end=number == CHANNELS - 1),
                    timeout=20,
                ).raw_output_contents[0],
            )[0]
            for number, stub in enumerate(stubs)
        ]
        assert sums == list(range(1, CHANNELS + 1))


def test_a_decoupled_models_answers_cross_over(pair: Any):
    request = service_pb2.ModelInferRequest(model_name="countdown")
    request.inputs.add(name="FROM", datatype="INT32", shape=[1])
    request.raw_input_contents.append(struct.pack("<i", 40))
    with callers(pair) as stubs:
        for stub in stubs:
            answers = [
                struct.unpack("<i", it.infer_response.raw_output_contents[0])[0]
                for it in stub.ModelStreamInfer(iter([request]), timeout=20)
                if it.infer_response.raw_output_contents
            ]
            assert answers == list(range(len(answers) - 1, -1, -1))
            assert len(answers) >= 40


def test_expired_and_cancelled_calls_are_let_go_by_the_home(pair: Any, controller: Any, until: Any):
    with callers(pair) as stubs:
        running = [stub.ModelInfer.future(sleeper(3, "narrow-sleeper")) for stub in stubs]
        until("they queue", lambda: demand(controller, "narrow-sleeper").backlog == CHANNELS - 1)
        for call in running:
            call.cancel()
        until("none waits", lambda: demand(controller, "narrow-sleeper").backlog == 0)
        until("none runs", lambda: demand(controller, "narrow-sleeper").in_flight == 0)


# Workers that die, hang, or are replaced.


@pytest.fixture
def own(start_frontend: Any, controller: Any, until: Any) -> Any:
    """Give a frontend of two workers to kill workers of."""
    flags = ("--workers", str(WORKERS), "--connection-age-s", "1")
    frontend = start_frontend(controller, *flags)
    with callers(frontend) as stubs:
        asked = service_pb2.ServerReadyRequest()
        for stub in stubs:
            until("it has routes", lambda stub=stub: stub.ServerReady(asked, timeout=20).ready)
    return frontend


def whole(frontend: Any) -> bool:
    workers = workers_of(frontend)
    with contextlib.suppress(psutil.Error):
        return len(workers) == WORKERS and all(listening(it) for it in workers)
    return False


def test_a_killed_worker_is_replaced_and_the_others_go_on(own: Any, until: Any):
    before = own.metric("paldia_requests_total", code="OK")
    with callers(own) as stubs:
        for stub in stubs:
            stub.ModelInfer(adder(), timeout=20)
        victim = workers_of(own)[0]
        victim.kill()
        calls = [stub.ModelInfer.future(adder(), timeout=20) for stub in stubs * 4]
        errors = [error for call in calls if (error := call.exception())]
        # A caller who was connected to it may hear of that.
        assert {error.code() for error in errors} <= {grpc.StatusCode.UNAVAILABLE}
        for stub in stubs:
            stub.ModelInfer(adder(), timeout=20, wait_for_ready=True)
        answered = len(calls) - len(errors) + CHANNELS
        until("another one serves", lambda: whole(own))
        assert victim.pid not in {it.pid for it in workers_of(own)}
        # What it had counted still counts.
        assert own.metric("paldia_requests_total", code="OK") == before + CHANNELS + answered
        assert own.metric("paldia_worker_deaths_total") == 1


def test_requests_passed_on_to_a_killed_worker_are_answered(own: Any, until: Any):
    """All those whose own connection holds: whichever worker has the queue, one is killed."""
    for number in range(WORKERS):
        until("all serve", lambda: whole(own))
        victim = sorted(workers_of(own), key=lambda it: it.create_time())[0]
        with callers(own) as stubs:
            for stub in stubs:
                stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20)
            port = int(own.address.rpartition(":")[2])
            doomed = sum(
                it.status == psutil.CONN_ESTABLISHED and it.laddr.port == port
                for it in victim.net_connections("tcp")
            )
            started = own.metric("paldia_batch_rows_count", model="sleeper")
            calls = [stub.ModelInfer.future(sleeper(0.5, "sleeper"), timeout=20) for stub in stubs]
            until(
                "some run",
                lambda was=started: own.metric("paldia_batch_rows_count", model="sleeper") > was,
            )
            victim.kill()
            failed = [call for call in calls if call.exception()]
            assert len(failed) <= doomed, f"round {number}"


def test_renewing_all_workers_loses_no_call(own: Any, until: Any):
    old = {it.pid for it in workers_of(own)}
    ended, errors, answers = threading.Event(), [], []

    def call(stub: Any) -> None:
        while not ended.is_set():
            try:
                stub.ModelInfer(adder(), timeout=20)
                answers.append(1)
            except grpc.RpcError as error:
                errors.append(error)

    with callers(own, 4) as stubs:
        threads = [threading.Thread(target=call, args=(stub,)) for stub in stubs]
        for thread in threads:
            thread.start()
        own.process.send_signal(signal.SIGHUP)
        try:
            until(
                "all are new",
                lambda: whole(own) and not old & {it.pid for it in workers_of(own)},
                40,
            )
            # Those are dealt connections by now.
            many = len(answers)
            until("calls go on", lambda: len(answers) > many + 50)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert not errors
    assert own.metric("paldia_worker_deaths_total") == 0


def test_a_stopped_worker_is_replaced(own: Any, until: Any):
    victim = workers_of(own)[0]
    os.kill(victim.pid, signal.SIGSTOP)
    until("it is gone", lambda: victim.pid not in {it.pid for it in workers_of(own)}, 30)
    until("another one serves", lambda: whole(own))
    assert "worker.hangs" in own.log.read_text()


def test_workers_end_with_their_supervisor_and_leave_nothing(
    own: Any, start_frontend: Any, controller: Any, until: Any
):
    workers = workers_of(own)
    folder = Path(next(iter(workers)).environ()["PALDIA_FOLDER"])
    assert folder.stat().st_mode & 0o777 == 0o700
    own.process.kill()
    own.process.wait()
    until("its workers end", lambda: not any(it.is_running() for it in workers))
    following = start_frontend(controller, "--workers", "1", "--bind", own.address)
    following.stub.ModelInfer(adder(), timeout=20)
    assert not folder.exists()


def test_a_stop_lets_what_is_in_come_to_its_end(own: Any):
    with callers(own) as stubs:
        for stub in stubs:
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=20)
        with own.busy(sleeper(1.0, "sleeper")):
            calls = [stub.ModelInfer.future(sleeper(0.2, "sleeper"), timeout=20) for stub in stubs]
            code = own.stop()
        assert code == 0
        failed = [call.exception() for call in calls if call.exception()]
        # Those that were not in yet are turned away.
        turned_away = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert {it.code() for it in failed} <= turned_away, failed
        assert len(failed) < CHANNELS


def test_a_port_that_is_taken_is_named(pair: Any, controller: Any):
    program = str(Path(sys.executable).with_name("paldia-frontend"))
    for flags in (("--bind", pair.address), ("--metrics-bind", pair.metrics)):
        run = subprocess.run(
            [program, "--controller", controller.address, "--bind", "127.0.0.1:0", *flags],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 1
        assert flags[1] in run.stderr
        assert flags[0] in run.stderr
        assert "Traceback" not in run.stderr


def test_a_long_temporary_folder_is_no_hindrance(
    start_frontend: Any, controller: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    start_frontend(controller, "--workers", "1").stub.ModelInfer(adder(), timeout=20)
