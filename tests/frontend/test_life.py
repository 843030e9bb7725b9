"""The frontend through the life of models, nodes, controllers and callers."""

from __future__ import annotations

import math
import signal
import struct
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from paldia.api.v1 import routing_pb2, types_pb2
from paldia.core.errors import OverloadedError
from paldia.kit.rpc import error_of


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


def big(size_bytes: int) -> Any:
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="UINT8", datatype="UINT8", shape=[1, size_bytes])
    request.raw_input_contents.append(bytes(size_bytes))
    return request


def node_of(answer: Any) -> str:
    return str(answer.parameters["paldia_node"].string_param)


def failure(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


# Callers that leave.


def test_expired_request_leaves_the_queue(frontend: Any, controller: Any, until: Any):
    with frontend.busy(sleeper(0.5)):
        failed = failure(lambda: frontend.stub.ModelInfer(sleeper(0), timeout=0.1))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until("it is counted", lambda: demand(controller, "single-sleeper").expired >= 1)
        assert demand(controller, "single-sleeper").backlog == 0


def demand(controller: Any, model: str) -> Any:
    return controller.demands.get(model, routing_pb2.ModelDemand())


def test_timeout_parameter_bounds_the_wait(frontend: Any):
    with frontend.busy(sleeper(0.5)):
        request = sleeper(0)
        request.parameters["timeout"].int64_param = 100_000
        failed = failure(lambda: frontend.stub.ModelInfer(request, timeout=20))
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "time was up" in failed.details()


def test_deadline_holds_while_triton_works(frontend: Any):
    failed = failure(lambda: frontend.stub.ModelInfer(sleeper(3), timeout=0.2))
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_one_callers_deadline_does_not_end_what_others_wait_for(frontend: Any):
    with frontend.busy(sleeper(0.3)):
        short = frontend.stub.ModelInfer.future(sleeper(0.8), timeout=0.6)
        patient = frontend.stub.ModelInfer.future(sleeper(0.8), timeout=20)
        assert short.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert patient.result().parameters["paldia_batch"].int64_param == 2


def test_cancelled_requests_free_queue_and_lane(frontend: Any, controller: Any, until: Any):
    started = frontend.metric("paldia_batch_rows_count", model="narrow-sleeper")
    running = frontend.stub.ModelInfer.future(sleeper(2, "narrow-sleeper"))
    until(
        "it runs",
        lambda: frontend.metric("paldia_batch_rows_count", model="narrow-sleeper") > started,
    )
    queued = [frontend.stub.ModelInfer.future(sleeper(2, "narrow-sleeper")) for _ in range(3)]
    until("they queue", lambda: demand(controller, "narrow-sleeper").backlog == 3)
    for call in (*queued, running):
        call.cancel()
    # Triton's other instance takes this one, so it shows that ours has let go.
    frontend.stub.ModelInfer(sleeper(0, "narrow-sleeper"), timeout=20)
    until("none is left", lambda: demand(controller, "narrow-sleeper").in_flight == 0)
    assert demand(controller, "narrow-sleeper").backlog == 0
    # Neither have those that queued been sent after all.
    assert frontend.metric("paldia_batch_rows_count", model="narrow-sleeper") == started + 2


# Size.


def test_64_megabytes_work(frontend: Any):
    size_bytes = 64_000_000
    answer = frontend.stub.ModelInfer(big(size_bytes), timeout=60)
    assert len(answer.raw_output_contents[0]) == size_bytes


@pytest.fixture(scope="module")
def small(start_frontend: Any, controller: Any) -> Any:
    """Give a frontend with a limit of 1 MiB."""
    return start_frontend(controller, "--message-limit-mib", "1", "--frontend-id", "small")


def test_message_over_the_limit_is_refused_with_the_limit(small: Any):
    failed = failure(lambda: small.stub.ModelInfer(big(1_500_000)))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for words in ("the request has 1.4 MiB", "at most 1 MiB", "--message-limit-mib"):
        assert words in failed.details()
    assert not isinstance(error_of(failed), OverloadedError), "no point in trying again"
    stream = small.stub.ModelStreamInfer(iter([big(1_500_000)]))
    assert "--message-limit-mib" in next(stream).error_message


def test_message_far_over_the_limit_is_refused_unread(small: Any):
    failed = failure(lambda: small.stub.ModelInfer(big(5_000_000)))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in failed.details()
    small.stub.ModelInfer(adder(), timeout=20)


def test_answer_over_the_limit_is_refused_with_the_limit(small: Any):
    request = big(1)
    room = (1 << 20) - request.ByteSize() - 8
    failed = failure(lambda: small.stub.ModelInfer(big(room)))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the answer has" in failed.details()


def test_merging_does_not_hide_the_limit(small: Any):
    # Each is small enough; together they pass through in one message or in several.
    calls = [small.stub.ModelInfer.future(big(900_000), timeout=20) for _ in range(6)]
    assert all(len(call.result().raw_output_contents[0]) == 900_000 for call in calls)


# Models that come and go.


def test_request_waits_for_a_cold_model(frontend: Any, controller: Any, triton: Any, until: Any):
    warm = triton.route("adder", name="waking")
    cold = triton.route("adder", name="waking", lanes=[], state=routing_pb2.ROUTE_STATE_LOADING)
    controller.tell(cold)
    until("it is known", lambda: "waking" in controller.demands)
    call = frontend.stub.ModelInfer.future(adder("waking"), timeout=20)
    until("the controller hears of it", lambda: demand(controller, "waking").backlog == 1)
    assert not call.done()
    controller.tell(warm)
    assert call.result().model_name == "waking"


def test_request_waits_for_a_model_whose_config_is_unknown(
    frontend: Any, controller: Any, triton: Any, until: Any
):
    warm = triton.route("adder", name="unborn")
    controller.tell(
        routing_pb2.ModelRoute(model="unborn", state=routing_pb2.ROUTE_STATE_LOADING, slo=warm.slo)
    )
    until("it is known", lambda: "unborn" in controller.demands)
    calls = [frontend.stub.ModelInfer.future(adder("unborn"), timeout=20) for _ in range(3)]
    until("the controller hears of them", lambda: demand(controller, "unborn").backlog == 3)
    controller.tell(warm)
    assert [call.result().model_name for call in calls] == ["unborn"] * 3
    until("none is said to wait", lambda: demand(controller, "unborn").backlog == 0)


def test_cold_wait_ends(start_frontend: Any, start_controller: Any, triton: Any):
    controller = start_controller()
    slo = triton.route("adder").slo
    loading = routing_pb2.ROUTE_STATE_LOADING
    controller.tell(
        triton.route("adder", lanes=[], state=loading, reason="no node is free"),
        routing_pb2.ModelRoute(model="unborn", state=loading, reason="being measured", slo=slo),
    )
    frontend = start_frontend(controller, "--cold-wait-s", "0.2")
    for model, reason in (("adder", "no node is free"), ("unborn", "being measured")):
        failed = failure(lambda model=model: frontend.stub.ModelInfer(adder(model)))
        assert failed.code() is grpc.StatusCode.UNAVAILABLE
        assert reason in failed.details()


def test_request_in_the_queue_of_a_model_that_fails_is_told_why(
    frontend: Any, controller: Any, triton: Any, until: Any
):
    cold = triton.route("adder", name="doomed", lanes=[], state=routing_pb2.ROUTE_STATE_LOADING)
    controller.tell(cold)
    until("it is known", lambda: "doomed" in controller.demands)
    call = frontend.stub.ModelInfer.future(adder("doomed"), timeout=20)
    until("it waits", lambda: demand(controller, "doomed").backlog == 1)
    cold.state, cold.reason = routing_pb2.ROUTE_STATE_FAILED, "it has run out of luck"
    controller.tell(cold)
    assert call.exception().code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "it has run out of luck" in call.exception().details()
    controller.tell(removed=["doomed"])
    until(
        "it is forgotten",
        lambda: (
            failure(lambda: frontend.stub.ModelInfer(adder("doomed"))).code()
            is grpc.StatusCode.NOT_FOUND
        ),
    )


def test_overload_is_refused_with_the_time_to_wait(
    frontend: Any, controller: Any, triton: Any, until: Any
):
    route = triton.route("sleeper", name="shedding-sleeper", slo_s=1.0, latency_s=0.7)
    route.on_overload = types_pb2.OVERLOAD_POLICY_SHED
    route.lanes[0].count = route.lanes[0].batch_size = 1
    controller.tell(route)
    frontend.await_model("shedding-sleeper")
    with frontend.busy(sleeper(0.3, "shedding-sleeper")):
        failed = failure(lambda: frontend.stub.ModelInfer(sleeper(0, "shedding-sleeper")))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = error_of(failed)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_s > 0
    assert "overloaded" in str(error)
    until("it is counted", lambda: demand(controller, "shedding-sleeper").refused == 1)


def test_demand_is_reported(frontend: Any, controller: Any, until: Any):
    before = demand(controller, "adder")
    for _ in range(3):
        frontend.stub.ModelInfer(adder())
    until("it is reported", lambda: demand(controller, "adder").offered >= before.offered + 3)
    after = demand(controller, "adder")
    answered = after.answered_in_slo + after.answered_late
    assert answered - before.answered_in_slo - before.answered_late >= 3
    (one,) = (it for it in controller.frontends if it.address == frontend.address)
    assert one.id


# Processes that die.


def test_frontend_serves_on_while_the_controller_is_gone(
    start_frontend: Any, start_controller: Any, triton: Any, until: Any
):
    controller = start_controller()
    controller.tell(triton.route("adder"))
    frontend = start_frontend(controller)
    controller.stop()
    for _ in range(5):
        frontend.stub.ModelInfer(adder(), timeout=20)
    assert frontend.is_ready()
    # What is new after the controller's return is learned, what is missing is forgotten.
    controller.routes = {"other": triton.route("adder", name="other")}
    controller.start()
    frontend.await_model("other")
    failed = failure(lambda: frontend.stub.ModelInfer(adder()))
    assert failed.code() is grpc.StatusCode.NOT_FOUND


def test_frontend_that_never_heard_from_a_controller_says_so(start_frontend: Any):
    frontend = start_frontend("127.0.0.1:1")
    assert not frontend.is_ready()
    assert frontend.stub.ServerLive(service_pb2.ServerLiveRequest()).live
    failed = failure(lambda: frontend.stub.ModelInfer(adder()))
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert "controller" in failed.details()
    assert frontend.stop() == 0


def test_batch_on_a_killed_node_is_answered_by_another(
    start_frontend: Any, start_controller: Any, start_triton: Any, until: Any
):
    first, second = start_triton("sleeper"), start_triton("sleeper")
    controller = start_controller()
    route = first.route("sleeper", second)
    controller.tell(route)
    frontend = start_frontend(controller)
    # Both nodes work when one dies.
    calls = [frontend.stub.ModelInfer.future(sleeper(1 + i / 100, "sleeper")) for i in range(4)]
    until(
        "the doomed node works",
        lambda: frontend.metric("paldia_batch_rows_count", node="node-1") >= 1,
    )
    first.kill()
    assert {node_of(call.result(20)) for call in calls} == {"node-2"}
    assert [node_of(frontend.stub.ModelInfer(sleeper(0, "sleeper"))) for _ in range(4)] == [
        "node-2"
    ] * 4
    second.kill()
    failed = failure(lambda: frontend.stub.ModelInfer(sleeper(0, "sleeper"), timeout=20))
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert "node-" in failed.details()


def test_stale_route_is_tried_once_elsewhere(frontend: Any, controller: Any, triton: Any):
    # The first lane leads to a model that this Triton doesn't have.
    route = triton.route("adder", triton, name="stale")
    route.lanes[0].endpoint = triton.endpoint.replace("127.0.0.1", "localhost")
    config = service_pb2.ModelConfigResponse().config
    config.ParseFromString(route.model_config)
    config.name = "gone"
    route.model_config = config.SerializeToString()
    controller.tell(route)
    frontend.await_model("stale")
    failed = failure(lambda: frontend.stub.ModelInfer(adder("stale"), timeout=20))
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert "no longer has it" in failed.details()
    assert frontend.metric("paldia_batch_rows_count", model="stale") == 2


def test_sigterm_lets_what_is_in_come_to_its_end(start_frontend: Any, controller: Any, until: Any):
    frontend = start_frontend(controller, "--frontend-id", "ending")
    stream = frontend.stub.ModelStreamInfer(_never())
    with frontend.busy(sleeper(1)):
        queued = [frontend.stub.ModelInfer.future(sleeper(0.2)) for _ in range(3)]
        until("they queue", lambda: frontend.metric("paldia_backlog_rows") == 3)
        frontend.process.send_signal(signal.SIGTERM)
        assert [call.result(20).model_name for call in queued] == ["single-sleeper"] * 3
    failed = failure(lambda: next(stream))
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert "stopping" in failed.details()
    assert frontend.process.wait(20) == 0
    assert "Traceback" not in frontend.log.read_text()
    assert failure(lambda: frontend.stub.ModelInfer(adder())).code() is grpc.StatusCode.UNAVAILABLE


def _never() -> Any:
    threading.Event().wait(30)
    yield from ()


# The process itself.


@pytest.mark.parametrize("flag", ["--bind", "--metrics-bind"])
def test_open_address_needs_a_word(flag: str):
    ended = run_frontend("--controller", "127.0.0.1:1", flag, "0.0.0.0:0")
    assert ended.returncode == 1
    assert "--insecure" in ended.stderr


def test_taken_ports_are_named(frontend: Any):
    taken = run_frontend("--controller", "127.0.0.1:1", "--bind", frontend.address)
    assert (taken.returncode, "port is taken" in taken.stderr) == (1, True)
    taken = run_frontend("--controller", "127.0.0.1:1", "--metrics-bind", frontend.metrics)
    assert (taken.returncode, "--metrics-bind" in taken.stderr) == (1, True)


def test_controller_must_be_named():
    ended = run_frontend()
    assert ended.returncode == 2
    assert "controller" in ended.stderr


def run_frontend(*flags: str) -> subprocess.CompletedProcess[str]:
    ports = [] if "--bind" in flags else ["--bind", "127.0.0.1:0"]
    ports += [] if "--metrics-bind" in flags else ["--metrics-bind", "127.0.0.1:0"]
    command = [str(Path(sys.executable).with_name("paldia-frontend")), *flags, *ports]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_metrics_tell_of_requests(frontend: Any):
    frontend.stub.ModelInfer(adder())
    failure(lambda: frontend.stub.ModelInfer(adder("no such model")))
    assert frontend.metric("paldia_requests_total", model="adder", code="OK") >= 1
    # Names that callers make up are not kept.
    assert frontend.metric("paldia_requests_total", model="", code="NOT_FOUND") >= 1
    assert frontend.metric("paldia_request_seconds_count", model="adder") >= 1
    assert frontend.metric("paldia_queue_seconds_count", model="adder") >= 1
    text = urllib.request.urlopen(f"http://{frontend.metrics}/metrics").read().decode()
    bounds = [
        float(line.split('le="')[1].split('"')[0])
        for line in text.splitlines()
        if line.startswith("paldia_request_seconds_bucket{") and 'model="adder"' in line
    ]
    assert (bounds[0], bounds[-2], bounds[-1]) == (0.001, 30, math.inf)


def test_failures_are_logged_at_a_bounded_rate(frontend: Any):
    for _ in range(100):
        failure(lambda: frontend.stub.ModelInfer(adder("never heard of")))
    lines = [line for line in frontend.log.read_text().splitlines() if "never heard of" in line]
    assert 1 <= len(lines) < 60
    assert '"code": "NOT_FOUND"' in lines[0]
