"""One agent with a real Triton, told what to do over the wire as the controller tells it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tritonclient.grpc import model_config_pb2

from paldia.api import convert
from paldia.api.v1 import types_pb2 as pb
from tests.nodeagent.asking import asking_without_end, infer

READY = pb.PLACEMENT_STATE_READY
FAILED = pb.PLACEMENT_STATE_FAILED
DRAINING = pb.PLACEMENT_STATE_DRAINING


def records_of(node: Any, model: str) -> list[dict[str, Any]]:
    """Give the agent's records of a model's processes."""
    return [record for record in node.records if record["model"] == model]


@pytest.fixture(scope="module")
def node(
    controller: Any, tmp_path_factory: pytest.TempPathFactory, start_agent: Callable[..., Any]
) -> Iterator[Any]:
    """The agent that most tests share, each with models of its own."""
    agent = start_agent(controller, tmp_path_factory.mktemp("agent") / "shared")
    yield agent
    assert agent.stop() == 0, agent.log.read_text()
    left = agent.leftovers()
    agent.kill_leftovers()
    assert not left


def test_introduces_itself(controller: Any, node: Any, wait_until: Any) -> None:
    wait_until("a report", lambda: controller.reports > 1)
    hardware = controller.node.hardware
    assert controller.node.node_id == "shared"
    assert (hardware.name, hardware.price_usd_per_hour) == ("test-kind", 0.5)
    assert hardware.cores == len(os.sched_getaffinity(0))
    assert hardware.memory_bytes > 100 << 20
    assert not controller.report.problem
    assert 0 < controller.report.utilisation.memory_used_bytes < hardware.memory_bytes
    assert 0 <= controller.report.utilisation.cpu <= 1


def test_serves_what_is_wanted_and_drains_what_is_not(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("doubler"))
    controller.want("life", digest)
    status = controller.wait_status("life", READY)
    assert infer(status.endpoint, "life", 21) == 42
    assert status.lanes == 1
    assert status.memory_bytes > 10 << 20
    assert 0 < convert.seconds(status.load) < 30
    config = model_config_pb2.ModelConfig.FromString(status.model_config)
    assert (config.name, config.max_batch_size) == ("life", 8)

    pid = node.triton_of("life").pid
    controller.want("life", digest, lanes=0)
    assert controller.wait_status("life", DRAINING).endpoint == status.endpoint
    controller.wait_gone("life")
    assert not node.runs(pid)
    assert not [record for record in node.records if record["model"] == "life"]


def test_changes_lanes_without_failing_a_request(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("relaned"))
    controller.want("relaned", digest, lanes=1)
    controller.wait_status("relaned", READY)
    pid = node.triton_of("relaned").pid
    with asking_without_end(controller, "relaned") as errors:
        for lanes in (3, 2):
            controller.want("relaned", digest, lanes=lanes)
            wait_until(
                f"{lanes} lanes", lambda lanes=lanes: controller.status("relaned").lanes == lanes
            )
    assert not errors
    assert node.triton_of("relaned").pid == pid
    assert controller.status("relaned").state == READY


def test_another_share_takes_another_process_and_fails_no_request(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("shared"))
    controller.want("shared", digest, sm_percent=70)
    before = controller.wait_status("shared", READY)
    assert before.sm_percent == 70
    with asking_without_end(controller, "shared") as errors:
        controller.want("shared", digest, sm_percent=40)
        wait_until("the new share", lambda: controller.status("shared").sm_percent == 40)
        assert controller.status("shared").state == READY
        assert controller.status("shared").endpoint != before.endpoint
        wait_until("one process", lambda: len(records_of(node, "shared")) == 1)
    assert not errors
    assert records_of(node, "shared")[0]["sm_percent"] == 40


def test_goes_while_another_process_is_still_coming_up(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("twice"))
    controller.want("twice", digest, sm_percent=70)
    controller.wait_status("twice", READY)
    controller.want("twice", digest, sm_percent=40)
    wait_until("two processes", lambda: len(records_of(node, "twice")) == 2)
    controller.want("twice", digest, lanes=0)
    controller.wait_gone("twice")
    assert not records_of(node, "twice")


def test_finishes_requests_under_way_when_draining(
    controller: Any, node: Any, make_model: Any
) -> None:
    digest = controller.publish(make_model("slow", body="time.sleep(float(x[0, 0]))"))
    controller.want("slow", digest)
    endpoint = controller.wait_status("slow", READY).endpoint
    answers: list[float] = []
    asking = threading.Thread(target=lambda: answers.append(infer(endpoint, "slow", 2.0)))
    asking.start()
    controller.want("slow", digest, lanes=0)
    asking.join()
    assert answers == [4.0]
    controller.wait_gone("slow")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "broken-config": ({"config": 'backend: "python" max_batch_size: oops {'}, "Expected integer"),
    "no-config": ({"config": None, "weights": b"numbers"}, "Could not determine backend"),
    "no-backend": (
        {"config": 'backend: "onnxruntime" max_batch_size: 8'},
        "unable to find backend library for backend 'onnxruntime'",
    ),
    "raises": (
        {
            "code": "class TritonPythonModel:\n    def initialize(self, args):\n"
            "        raise ValueError('no weights for you')\n"
        },
        "ValueError: no weights for you",
    ),
    "no-import": ({"code": "import nonexistent_module"}, "No module named 'nonexistent_module'"),
    "dies": ({"code": "import os\nprint('out of luck', flush=True)\nos._exit(7)"}, "exit code 7"),
}


def test_says_why_a_model_does_not_load(controller: Any, node: Any, make_model: Any) -> None:
    digests = {}
    for name, (model, _) in BROKEN.items():
        digests[name] = controller.publish(make_model(name, **model))
        controller.want(name, digests[name])
    for name, (_, reason) in BROKEN.items():
        status = controller.wait_status(name, FAILED)
        assert reason in status.reason, status
        assert "failed to poll" not in status.reason
        assert str(node.data_dir) not in status.reason
        assert name != "no-backend" or "has: python" in status.reason
        controller.want(name, digests[name], lanes=0)
    for name in BROKEN:
        controller.wait_gone(name)


def test_completes_a_missing_config(controller: Any, node: Any, make_model: Any) -> None:
    code = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "x", "data_type": "TYPE_FP32", "dims": [4]})
        config.add_output({"name": "y", "data_type": "TYPE_FP32", "dims": [4]})
        config.set_max_batch_size(4)
        return config

    def execute(self, requests):
        return [
            pb.InferenceResponse(
                [pb.Tensor("y", pb.get_input_tensor_by_name(r, "x").as_numpy() * 2)]
            )
            for r in requests
        ]
"""
    digest = controller.publish(make_model("auto", config=None, code=code))
    controller.want("auto", digest, lanes=2)
    status = controller.wait_status("auto", READY)
    assert status.lanes == 2
    assert infer(status.endpoint, "auto", 4) == 8


def test_tries_a_failed_model_again(controller: Any, node: Any, make_model: Any) -> None:
    gate = node.data_dir / "gate"
    code = make_model("gated").joinpath("1/model.py").read_text()
    digest = controller.publish(make_model("gated", code=f"open({str(gate)!r})\n{code}"))
    controller.want("gated", digest)
    assert "gate" in controller.wait_status("gated", FAILED).reason
    gate.touch()
    status = controller.wait_status("gated", READY)
    assert not status.reason
    assert infer(status.endpoint, "gated") == 2


BREAK: dict[str, tuple[Callable[[psutil.Process], None], str]] = {
    "stub-killed": (lambda server: server.children()[0].kill(), "1 of 1 Python stubs died"),
    "triton-killed": (lambda server: server.kill(), "Triton died"),
    "triton-hung": (lambda server: server.suspend(), "doesn't answer"),
}


def test_replaces_what_stopped_working(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    digest = controller.publish(make_model("fragile"))
    for name in BREAK:
        controller.want(name, digest)
    before = {name: controller.wait_status(name, READY).endpoint for name in BREAK}
    servers = {name: node.triton_of(name) for name in BREAK}
    stubs = [stub for server in servers.values() for stub in server.children()]
    for name, (breaks, _) in BREAK.items():
        breaks(servers[name])
    for name, (_, reason) in BREAK.items():
        wait_until(
            f"{name} is noticed",
            lambda name=name, reason=reason: reason in controller.reasons[name],
        )
    for name in BREAK:
        status = controller.wait_status(name, READY)
        assert status.endpoint != before[name]
        assert infer(status.endpoint, name) == 2
        controller.want(name, digest, lanes=0)
    wait_until("nothing of the old is left", lambda: not any(s.is_running() for s in stubs))


def test_update_runs_beside_what_it_replaces(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    old = controller.publish(make_model("updated"))
    new = controller.publish(make_model("updated", body="x = x * 10"))
    controller.want("updated", old)
    first = controller.wait_status("updated", READY)
    controller.want("updated", new)
    both = wait_until(
        "both are ready",
        lambda: (
            [
                item
                for item in controller.report.deployments
                if item.model == "updated" and item.state == READY
            ][1:]
            and {item.artifact_digest: item for item in controller.report.deployments}
        ),
    )
    assert infer(both[old].endpoint, "updated") == 2
    assert infer(both[new].endpoint, "updated") == 20
    assert first.endpoint == both[old].endpoint
    controller.want("updated", old, lanes=0)
    wait_until("the old one is gone", lambda: controller.status("updated").artifact_digest == new)


def test_an_artifact_that_comes_damaged_is_refused(
    controller: Any, node: Any, make_model: Any
) -> None:
    digest = controller.publish(make_model("damaged", body="time.sleep(0)"))
    controller.artifacts[digest] = controller.artifacts[digest][:-512] + b"x" * 512
    controller.want("damaged", digest)
    assert "came damaged" in controller.wait_status("damaged", FAILED).reason
    controller.want("damaged", digest, lanes=0)
    controller.wait_gone("damaged")


def test_profiles(controller: Any, node: Any, make_model: Any, wait_until: Any) -> None:
    digest = controller.publish(make_model("measured", body="time.sleep(0.002 * len(x))"))
    controller.ask_profile("task-1", "measured", digest, max_batch_size=5, budget_s=2)
    result = controller.wait_profile("task-1")
    profile = result.profile
    assert not profile.failure
    assert [point.batch_size for point in profile.points] == [1, 2, 4, 5]
    assert all(point.samples >= 3 for point in profile.points)
    latencies_s = [convert.seconds(point.latency) for point in profile.points]
    assert all(
        measured > 0.002 * size for measured, size in zip(latencies_s, (1, 2, 4, 5), strict=True)
    )
    assert convert.seconds(profile.load) > 0
    assert profile.memory_bytes > 10 << 20
    (demand,) = profile.demand
    assert demand.batch_size == 1
    assert 0 < demand.share <= 1
    assert profile.provenance == pb.PROVENANCE_MEASURED
    assert (profile.node_id, profile.hardware) == ("shared", "test-kind")
    assert profile.artifact_digest == digest
    config = model_config_pb2.ModelConfig.FromString(result.model_config)
    assert config.max_batch_size == 8
    # It ran apart, and nothing of it is left.
    assert controller.status("measured") is None
    assert not [record for record in node.records if record["purpose"] == "profile"]
    controller.withdraw_profile("task-1")
    wait_until("the result is dropped", lambda: not controller.report.profile_results)


def test_a_full_profile_keeps_ever_more_lanes_busy(
    controller: Any, node: Any, make_model: Any, tmp_path: Path
) -> None:
    # Each batch notes from when to when it ran. It takes nothing, so any number of them fit.
    runs = tmp_path / "runs"
    body = (
        "began = time.monotonic(); time.sleep(0.02)\n            "
        f"open({str(runs)!r}, 'a').write(f'{{began}} {{time.monotonic()}}\\n')"
    )
    digest = controller.publish(make_model("waits", body=body))
    controller.ask_profile("full", "waits", digest, max_batch_size=1, budget_s=4, full=True)
    result = controller.wait_profile("full")
    profile = result.profile
    assert not profile.failure
    assert profile.full
    assert len(profile.interference) >= 4
    assert [between.batch_size for between in profile.fit.between] == [1]
    assert profile.watts == 0
    spans = [tuple(map(float, line.split())) for line in runs.read_text().splitlines()]
    together = max(sum(began <= at < ended for began, ended in spans) for at, _ in sorted(spans))
    assert together == len(profile.interference)
    # A deployment has the lanes that its plan gives it, not those that were measured.
    config = model_config_pb2.ModelConfig.FromString(result.model_config)
    assert sum(group.count for group in config.instance_group) == 1
    assert not [record for record in node.records if record["purpose"] == "profile"]
    controller.withdraw_profile("full")


def test_a_full_profile_waits_while_its_node_serves(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    served = controller.publish(make_model("served", body="time.sleep(0.01)"))
    controller.want("served", served)
    endpoint = controller.wait_status("served", READY).endpoint
    digest = controller.publish(make_model("later", body="time.sleep(0.001)"))
    stop, answers = threading.Event(), []

    def call() -> None:
        while not stop.is_set():
            answers.append(infer(endpoint, "served"))

    traffic = threading.Thread(target=call)
    traffic.start()
    try:
        wait_until("it serves", lambda: answers)
        controller.ask_profile("later", "later", digest, budget_s=1, full=True, patience_s=60)

        def waits() -> bool:
            return any("serves" in it.stage for it in controller.report.profile_progress)

        wait_until("it waits", waits)
        assert not [record for record in node.records if record["purpose"] == "profile"]
    finally:
        stop.set()
        traffic.join()
    profile = controller.wait_profile("later").profile
    assert profile.full
    assert not controller.report.profile_progress
    assert set(answers) == {2.0}
    controller.withdraw_profile("later")
    controller.want("served", served, lanes=0)
    controller.wait_gone("served")


def test_profile_says_why_it_failed_and_one_withdrawn_stops(
    controller: Any, node: Any, make_model: Any, wait_until: Any
) -> None:
    raising = controller.publish(make_model("raising", body="raise ValueError('odd input')"))
    endless = controller.publish(make_model("endless", body="time.sleep(60)"))
    controller.ask_profile("endless", "endless", endless)
    wait_until(
        "it is being measured",
        lambda: [record for record in node.records if record["purpose"] == "profile"],
    )
    controller.ask_profile("raising", "raising", raising)
    controller.withdraw_profile("endless")
    failure = controller.wait_profile("raising").profile.failure
    assert "odd input" in failure
    assert "model_warmup" in failure
    controller.withdraw_profile("raising")


def test_profile_keeps_to_its_latency_cap(controller: Any, node: Any, make_model: Any) -> None:
    digest = controller.publish(make_model("capped", body="time.sleep(0.1 * len(x))"))
    controller.ask_profile("capped", "capped", digest, latency_cap_s=0.19)
    sizes = [point.batch_size for point in controller.wait_profile("capped").profile.points]
    assert sizes == [1, 2]
    controller.withdraw_profile("capped")
