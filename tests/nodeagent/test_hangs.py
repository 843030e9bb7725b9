"""Real Tritons that hang, in every way that leaves them calling themselves ready."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from paldia.api.v1 import types_pb2 as pb

READY = pb.PLACEMENT_STATE_READY

# What it is asked for decides what it does: 0 to 1 is what the agent itself asks.
BODY = """
            v = int(x[0, 0])
            if v == 2:
                while True: pass
            if v == 3:
                import threading; l = threading.Lock(); l.acquire(); l.acquire()
            if v == 4:
                while True: time.sleep(0.1)
            if v >= 100: time.sleep(v / 1000)
"""
LOOP, DEADLOCK, PAUSING_LOOP = 2, 3, 4


def ask(endpoint: str, model: str, value: float, timeout_s: float = 30.0) -> float:
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.full((1, 4), value, np.float32))
    with triton.InferenceServerClient(endpoint) as client:
        answer = client.infer(model, [tensor], client_timeout=timeout_s)
    return float(answer.as_numpy("y")[0, 0])


def ask_in_vain(endpoint: str, model: str, value: float) -> None:
    """Ask for what hangs, and don't wait for it."""

    def run() -> None:
        with contextlib.suppress(triton.InferenceServerException):
            ask(endpoint, model, value)

    threading.Thread(target=run, daemon=True).start()


@pytest.fixture(scope="module")
def node(
    controller: Any, tmp_path_factory: pytest.TempPathFactory, start_agent: Callable[..., Any]
) -> Iterator[Any]:
    agent = start_agent(controller, tmp_path_factory.mktemp("agent") / "hangs")
    yield agent
    assert agent.stop() == 0, agent.log.read_text()
    left = agent.leftovers()
    agent.kill_leftovers()
    assert not left


# Which of the two ways of seeing it is first depends on when they look.
HUNG = "--stall-s gives"
HANGS: dict[str, tuple[Callable[[str, str, Any], None], str]] = {
    "loops": (lambda endpoint, name, _: ask_in_vain(endpoint, name, LOOP), HUNG),
    "deadlocks": (lambda endpoint, name, _: ask_in_vain(endpoint, name, DEADLOCK), HUNG),
    "loops-with-pauses": (
        lambda endpoint, name, _: ask_in_vain(endpoint, name, PAUSING_LOOP),
        "answers nothing",
    ),
    "stub-stopped": (lambda *about: about[2].children()[0].suspend(), HUNG),
    "triton-stopped": (lambda *about: about[2].suspend(), "doesn't answer"),
}


def test_a_hang_is_seen_and_ended_though_triton_calls_itself_ready(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("hanging", body=BODY))
    for name in HANGS:
        controller.want(name, digest)
    before = {name: controller.wait_status(name, READY).endpoint for name in HANGS}
    servers = {name: node.triton_of(name) for name in HANGS}
    family = [p for server in servers.values() for p in (server, *server.children())]
    # Its lanes have been seen to wait for work.
    reports = controller.reports
    wait_until("they are looked at", lambda: controller.reports > reports + 3)
    for name, (hang, _) in HANGS.items():
        hang(before[name], name, servers[name])
    for name, (_, reason) in HANGS.items():
        wait_until(name, lambda name=name, reason=reason: reason in controller.reasons[name], 60)
    wait_until("they are gone", lambda: not any(process.is_running() for process in family))
    for name in HANGS:
        after = controller.wait_status(name, READY)
        assert after.endpoint != before[name]
        assert ask(after.endpoint, name, 1) == 2
        controller.want(name, digest, lanes=0)
    for name in HANGS:
        controller.wait_gone(name)
    assert not node.leftovers(), "shared memory of what was killed is gone"


def test_one_lane_that_hangs_is_seen_while_the_other_goes_on(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("half", body=BODY))
    controller.want("half", digest, lanes=2)
    endpoint = controller.wait_status("half", READY).endpoint
    reports = controller.reports
    wait_until("it is looked at", lambda: controller.reports > reports + 3)
    ask_in_vain(endpoint, "half", DEADLOCK)
    done = threading.Event()

    def keep_asking() -> None:
        with contextlib.suppress(triton.InferenceServerException):
            while not done.is_set():
                ask(endpoint, "half", 1)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        wait_until("it is noticed", lambda: "shows no life" in controller.reasons["half"])
    finally:
        done.set()
        asking.join()
    assert ask(controller.wait_status("half", READY).endpoint, "half", 1) == 2
    controller.want("half", digest, lanes=0)
    controller.wait_gone("half")


def test_a_long_batch_of_a_slow_model_is_left_alone(
    controller: Any, node: Any, make_model: Any
) -> None:
    slow = "time.sleep(5.0 if x[0, 0] > 1 else 0.5)"
    digest = controller.publish(make_model("slow", body=slow))
    controller.want("slow", digest)
    endpoint = controller.wait_status("slow", READY).endpoint
    pid = node.triton_of("slow").pid
    # 5 s without a sign of life; a batch of 8, by what one takes, may take 4 s, and 8 s pass.
    assert ask(endpoint, "slow", 2) == 4
    assert node.triton_of("slow").pid == pid
    assert not controller.reasons["slow"].strip()
    controller.want("slow", digest, lanes=0)
    controller.wait_gone("slow")


def test_what_seemed_to_hang_and_was_slow_is_given_more_time(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("unexpected", body=BODY))
    controller.want("unexpected", digest)
    endpoint = controller.wait_status("unexpected", READY).endpoint
    failed = 0
    while True:
        try:
            assert ask(endpoint, "unexpected", 5500) == 11000
            break
        except triton.InferenceServerException:
            failed += 1
            assert failed < 4, controller.reasons["unexpected"]

        def ready_again(before: str = endpoint) -> str:
            status = controller.status("unexpected")
            return "" if status.state != READY or status.endpoint == before else status.endpoint

        endpoint = wait_until("it is ready again", ready_again)
    assert failed
    assert HUNG in controller.reasons["unexpected"]
    controller.want("unexpected", digest, lanes=0)
    controller.wait_gone("unexpected")


LOADS: dict[str, tuple[dict[str, str], str]] = {
    "sleeps-loading": ({"code": "import time\ntime.sleep(1000)\n"}, "it hangs"),
    "sleeps-at-first": ({"body": "time.sleep(1000)"}, "it hangs"),
    "dies-at-first": ({"body": "import os; os._exit(3)"}, "its first batch ends it"),
    "waits-a-while": ({"code": "import time\ntime.sleep(4)\n"}, "--stall-s"),
    "works-for-long": ({"code": "import time\nwhile time.process_time() < 5: pass\n"}, ""),
}


def test_a_load_or_a_first_batch_that_never_ends_is_seen_and_a_long_one_left_alone(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    for name, (model, _) in LOADS.items():
        folder = make_model(name, body=model.get("body", "pass"))
        (folder / "1/model.py").write_text(
            model.get("code", "") + (folder / "1/model.py").read_text()
        )
        controller.want(name, controller.publish(folder))
    for name, (_, reason) in LOADS.items():
        if reason:
            wait_until(
                name, lambda name=name, reason=reason: reason in controller.reasons[name], 60
            )
    # What hung is given twice as long, so what only waited gets through.
    for name in ("works-for-long", "waits-a-while"):
        controller.wait_status(name, READY)
    assert not controller.reasons["works-for-long"].strip()
    for name in LOADS:
        controller.want(name, controller.status(name).artifact_digest, lanes=0)
    for name in LOADS:
        controller.wait_gone(name)
    assert not node.leftovers()
