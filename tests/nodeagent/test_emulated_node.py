"""An agent that emulates its accelerator: real Triton, a stand-in for the model, virtual time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from paldia_nodeagent.main import NodeAgentSettings

from paldia.api import convert
from paldia.api.v1 import types_pb2 as pb

READY = pb.PLACEMENT_STATE_READY
FAILED = pb.PLACEMENT_STATE_FAILED
MIB = 1 << 20

WORKLOADS = """
workloads:
  reader:
    profiles:
      p3.2xlarge:
        latency_ms: {1: 20, 8: 60}
        demand: {1: 0.5}
        sm_share: {1: 1.0}
        memory_mib: 9000
        load_s: 2.5
"""

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "ids" data_type: TYPE_INT64 dims: [-1] }]
output [
  { name: "score" data_type: TYPE_FP32 dims: [2] },
  { name: "open" data_type: TYPE_FP16 dims: [-1, 3] },
  { name: "ids" data_type: TYPE_INT64 dims: [-1] },
  { name: "text" data_type: TYPE_STRING dims: [1] }
]
instance_group [{ kind: KIND_GPU gpus: [0] }]
"""


def named(workload: str) -> str:
    return f'{CONFIG}parameters {{ key: "paldia_workload" value {{ string_value: "{workload}" }} }}'


def infer(endpoint: str, model: str, rows: int = 1, width: int = 5) -> Any:
    tensor = triton.InferInput("ids", [rows, width], "INT64")
    tensor.set_data_from_numpy(np.ones((rows, width), np.int64))
    with triton.InferenceServerClient(endpoint) as client:
        return client.infer(model, [tensor], client_timeout=30)


def emulators(agent: Any) -> list[int]:
    name = f"paldia-{(agent.data_dir / 'identity').read_text()}-emulator"
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if name in (process.info["cmdline"] or []) and process.info["status"] != "zombie"
    ]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("workloads") / "workloads.yaml"
    path.write_text(WORKLOADS)
    return ["--device", "emulated:p3.2xlarge", "--workloads", str(path)]


@pytest.fixture(scope="module")
def node(
    controller: Any,
    flags: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    start_agent: Callable[..., Any],
) -> Iterator[Any]:
    agent = start_agent(controller, tmp_path_factory.mktemp("agent") / "emulating", *flags)
    yield agent
    assert agent.stop() == 0, agent.log.read_text()
    left = agent.leftovers()
    agent.kill_leftovers()
    assert not left


@pytest.fixture(scope="module")
def reader(node: Any, controller: Any, make_model: Any) -> Any:
    digest = controller.publish(make_model("reader", config=CONFIG))
    controller.want("reader", digest)
    return controller.wait_status("reader", READY), digest


def test_the_node_is_what_the_catalog_says(node: Any, controller: Any, wait_until: Any) -> None:
    hardware = wait_until("hello", lambda: controller.node).hardware
    assert hardware.name == "test-kind", "a name that is given counts"
    assert (hardware.memory_bytes, hardware.cores, hardware.sm_shares) == (16 << 30, 4, True)
    assert (hardware.idle_watts, hardware.rated_watts) == (53.5, 300)
    assert hardware.emulated
    assert [gpu.name for gpu in hardware.gpus] == ["V100 (emulated)"]
    (gpu,) = wait_until("a report", lambda: controller.report.utilisation.gpus)
    assert gpu.uuid == hardware.gpus[0].uuid
    assert "emulated" in controller.report.warnings[0]


def test_a_model_answers_zeros_of_its_own_shapes(
    reader: Any, controller: Any, wait_until: Any
) -> None:
    status, _ = reader
    answer = infer(status.endpoint, "reader", rows=3)
    assert answer.as_numpy("score").shape == (3, 2)
    assert answer.as_numpy("open").shape == (3, 1, 3)
    assert answer.as_numpy("ids").shape == (3, 5)
    assert [*answer.as_numpy("text").flat] == [b""] * 3
    assert not any(answer.as_numpy(name).any() for name in ("score", "open", "ids"))
    with triton.InferenceServerClient(status.endpoint) as client:
        config = client.get_model_config("reader").config
    assert config.parameters["paldia_emulated"].string_value == "true"
    assert (config.max_batch_size, len(config.output), config.backend) == (8, 4, "python")
    assert convert.seconds(status.load) >= 2.5
    wait_until(
        "its memory on the card",
        lambda: controller.status("reader").memory_bytes == 9000 * MIB,
    )
    (gpu,) = controller.report.utilisation.gpus
    assert gpu.memory_used_bytes == 9000 * MIB


def test_lanes_change_without_loading_anew(reader: Any, controller: Any, wait_until: Any) -> None:
    _, digest = reader
    controller.want("reader", digest, lanes=3)
    wait_until("three lanes", lambda: controller.status("reader").lanes == 3)
    assert controller.status("reader").state == READY
    # A model on the card counts once, whatever its lanes.
    (gpu,) = controller.report.utilisation.gpus
    assert gpu.memory_used_bytes == 9000 * MIB
    assert infer(controller.status("reader").endpoint, "reader").as_numpy("score").shape == (1, 2)


def test_what_does_not_fit_is_refused_as_a_card_would(
    reader: Any, controller: Any, make_model: Any
) -> None:
    digest = controller.publish(make_model("big", config=named("reader")))
    controller.want("big", digest)
    reason = controller.wait_status("big", FAILED).reason
    assert "CUDA out of memory: big needs 8.79 GiB, and 7.21 GiB" in reason
    assert "in use by reader 8.79 GiB" in reason
    controller.want("big", digest, lanes=0)
    controller.wait_gone("big")


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("unknown", CONFIG, "no workload is called 'unknown', as the model is"),
        ("misspelt", named("raeder"), "names the workload 'raeder'"),
        ("bare", None, "needs the model's config.pbtxt"),
        ("broken", "backend: ???", "config.pbtxt can't be read"),
        ("mute", 'backend: "x"', "names no output"),
        ("many", f"{CONFIG}model_transaction_policy {{ decoupled: true }}", "decoupled"),
    ],
)
def test_what_can_not_be_emulated_fails_with_what_to_do(
    node: Any, controller: Any, make_model: Any, name: str, config: str | None, reason: str
) -> None:
    digest = controller.publish(make_model(name, config=config))
    controller.want(name, digest)
    told = controller.wait_status(name, FAILED).reason
    assert reason in told
    if "workload" in reason:
        assert "paldia_workload" in told
        assert "--workloads" in told
    controller.want(name, digest, lanes=0)
    controller.wait_gone(name)
    assert [record for record in node.records if record["model"] == name] == []


def test_a_profile_is_the_workload_s(node: Any, controller: Any, make_model: Any) -> None:
    # The card holds another 7 GiB beside the reader, and BERT takes 3.
    digest = controller.publish(make_model("bert", config=CONFIG))
    controller.ask_profile("bert", "bert", digest, budget_s=1.5)
    profile = controller.wait_profile("bert").profile
    assert profile.failure == ""
    latencies_s = {it.batch_size: convert.seconds(it.latency) for it in profile.points}
    # However busy this machine is, no batch is done before its time.
    for batch, latency_s in {1: 0.005085, 8: 0.01813}.items():
        assert latencies_s[batch] > 0.8 * latency_s
    assert profile.memory_bytes == 3148781200
    assert convert.seconds(profile.load) > 6.6
    assert [it.share for it in profile.demand] == [1.0], "an upper bound"
    controller.withdraw_profile("bert")


def test_a_killed_emulator_is_replaced_and_models_go_on(
    node: Any, reader: Any, controller: Any, wait_until: Any
) -> None:
    status, _ = reader
    (pid,) = emulators(node)
    os.kill(pid, signal.SIGKILL)
    # It waits for the next one.
    assert infer(status.endpoint, "reader").as_numpy("score").shape == (1, 2)
    assert emulators(node) not in ([], [pid])
    wait_until(
        "all lanes are on the new card",
        lambda: controller.report.utilisation.gpus[0].memory_used_bytes == 9000 * MIB,
    )
    assert controller.status("reader").endpoint == status.endpoint


def test_models_serve_on_after_the_agent_s_death(
    lone_controller: Any, launch_agent: Any, make_model: Any, flags: list[str]
) -> None:
    controller = lone_controller
    agent = launch_agent(controller, "node", *flags)
    digest = controller.publish(make_model("reader", config=CONFIG))
    controller.want("reader", digest, sm_percent=25)
    endpoint = controller.wait_status("reader", READY).endpoint
    pids = emulators(agent)
    agent.kill()
    began_s = time.monotonic()
    assert infer(endpoint, "reader", rows=8).as_numpy("score").shape == (8, 2)
    # 60 ms on a quarter of the SMs, which all of them would speed up.
    assert time.monotonic() - began_s > 0.2
    agent = launch_agent(controller, "node", *flags)
    assert controller.wait_status("reader", READY).endpoint == endpoint
    assert emulators(agent) == pids
    agent.kill()

    # As another machine it can't use what an emulated one left.
    agent = launch_agent(controller, "node")
    assert controller.wait_status("reader", FAILED).endpoint == ""
    assert agent.stop() == 0


def test_name_and_price_are_the_catalog_s_unless_given() -> None:
    told = ["--controller", "x:1", "--node-id", "n", "--data-dir", "d"]
    settings = NodeAgentSettings.from_command_line([*told, "--device", "emulated:g4dn.xlarge"])
    assert (settings.hardware, settings.price_usd_per_hour) == ("g4dn.xlarge", 0.526)
    given = ["--device", "emulated:g4dn.xlarge", "--price-usd-per-hour", "0.2"]
    assert NodeAgentSettings.from_command_line([*told, *given]).price_usd_per_hour == 0.2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "emulated:p9.huge"], "catalog's machines with a GPU are p3.2xlarge"),
        (["--device", "tpu"], "auto or emulated:KIND"),
        (["--device", "auto"], "hardware"),
        (["--device", "emulated:p3.2xlarge", "--workloads", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_usage_is_explained(flags: list[str], message: str, tmp_path: Path) -> None:
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "paldia_nodeagent.main", "--node-id", "n"),
            *("--controller", "127.0.0.1:1", "--data-dir", str(tmp_path / "data"), *flags),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert answer.returncode in (1, 2)
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
