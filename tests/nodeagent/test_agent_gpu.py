"""An agent with a GPU: a real Triton, NVML as built here, and a stand-in for MPS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paldia_nodeagent.link import ControllerLink

from paldia.api.v1 import agent_pb2
from paldia.api.v1 import types_pb2 as pb
from tests.nodeagent.asking import asking_without_end
from tests.nodeagent.mps.install import StandIn
from tests.nodeagent.nvml.machine import DRIVER, T4, Machine

READY = pb.PLACEMENT_STATE_READY
FREE = {**T4, "processes": "none"}
PIPE, SHARE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


@pytest.fixture
def machine(tmp_path: Path, build_nvml: Callable[..., Path]) -> Machine:
    """A machine with one T4 that nothing uses yet, where the agent is root."""
    (tmp_path / "m").mkdir()
    one = Machine(tmp_path / "m", build_nvml(), {})
    one.set(None, count=1, root=1, **DRIVER)
    one.set(0, **FREE)
    return one


@pytest.fixture
def start(
    launch_agent: Any, lone_controller: Any, machine: Machine, stand_in: StandIn
) -> Iterator[Callable[[], Any]]:
    """Starts the agent, again if it was killed; MPS ends with it."""
    environment = {**stand_in.environment(), **machine.environment}
    agents = []

    def begin() -> Any:
        flags = ("--gpu-memory-share", "0.5")
        agents.append(launch_agent(lone_controller, "node", *flags, environment=environment))
        return agents[-1]

    yield begin
    assert agents[-1].stop() == 0
    assert not stand_in.running()
    assert machine.values(0, "mode")[-1] == "0", "the compute mode is put back"


def test_a_models_process_is_held_to_its_share_and_another_share_fails_no_request(
    start: Any,
    lone_controller: Any,
    machine: Machine,
    stand_in: StandIn,
    make_model: Any,
    wait_until: Any,
) -> None:
    controller, agent = lone_controller, start()
    hardware = wait_until("it is introduced", lambda: controller.node).hardware
    assert hardware.sm_shares
    assert [(gpu.name, gpu.compute_capability) for gpu in hardware.gpus] == [("Tesla T4", "7.5")]
    digest = controller.publish(make_model("held"))
    controller.want("held", digest, sm_percent=30)
    controller.wait_status("held", READY)
    before = agent.triton_of("held")
    told = before.environ()
    assert told[SHARE] == "30"
    assert told["CUDA_VISIBLE_DEVICES"] == T4["uuid"]
    assert told["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M"
    (daemon,) = stand_in.running()
    assert daemon.environ()[PIPE] == told[PIPE]
    (stub,) = (child for child in before.children() if child.name().startswith("triton"))
    assert stub.environ()[SHARE] == "30"
    machine.set(0, processes=f"{before.pid}:{2 << 30},{stub.pid}:{1 << 30},1:{5 << 30}")
    wait_until("its memory on the card", lambda: controller.status("held").memory_bytes == 3 << 30)
    with asking_without_end(controller, "held") as errors:
        controller.want("held", digest, sm_percent=60)
        wait_until("the new share", lambda: controller.status("held").sm_percent == 60)
        wait_until("the old one left", lambda: len(agent.records) == 1)
    assert not errors
    assert agent.triton_of("held").environ()[SHARE] == "60"
    controller.want("held", digest)
    wait_until("no limit", lambda: controller.status("held").sm_percent == 0)
    wait_until("one process", lambda: len(agent.records) == 1)
    assert SHARE not in agent.triton_of("held").environ()


def test_the_gpu_is_reported_each_second(
    start: Any, lone_controller: Any, machine: Machine, wait_until: Any
) -> None:
    # What is lost can't be put back, so nothing is to be taken.
    machine.set(None, root=0)
    start()
    wait_until("a report", lambda: lone_controller.report.utilisation.gpus)
    (load,) = lone_controller.report.utilisation.gpus
    assert (load.sm, load.power_watts) == (0.25, 41.5)
    (said,) = lone_controller.report.warnings
    assert "open to other processes beside MPS: Insufficient Permissions" in said
    machine.set(0, sm_percent=75)
    wait_until("news", lambda: lone_controller.report.utilisation.gpus[0].sm == 0.75)
    machine.set(0, lost=15)
    wait_until("a problem", lambda: "GPU is lost" in lone_controller.report.problem)
    assert lone_controller.report.utilisation.gpus[0].lost
    assert "GPU 0 (Tesla T4)" in "".join(lone_controller.report.warnings)


def test_the_next_agent_adopts_mps_with_what_is_attached_to_it(
    start: Any,
    lone_controller: Any,
    stand_in: StandIn,
    make_model: Any,
    wait_until: Any,
    tmp_path: Path,
) -> None:
    controller, agent = lone_controller, start()
    digest = controller.publish(make_model("kept"))
    controller.want("kept", digest, sm_percent=30)
    before = controller.wait_status("kept", READY).endpoint
    pids = agent.triton_of("kept").pid, stand_in.running()[0].pid
    agent.kill()
    # Or between making a folder and starting the daemon in it.
    half = tmp_path / "node" / "mps" / "half"
    (half / "pipe").mkdir(parents=True)
    agent = start()
    assert controller.wait_status("kept", READY).endpoint == before
    reports = controller.reports
    wait_until("it goes on like that", lambda: controller.reports > reports + 2)
    assert (agent.triton_of("kept").pid, stand_in.running()[0].pid) == pids
    assert len(agent.records) == len(stand_in.starts()) == len(stand_in.running()) == 1
    assert not half.exists()


def test_what_was_attached_to_a_daemon_that_died_is_replaced(
    start: Any, lone_controller: Any, stand_in: StandIn, make_model: Any, wait_until: Any
) -> None:
    controller, agent = lone_controller, start()
    digest = controller.publish(make_model("moved"))
    controller.want("moved", digest, sm_percent=30)
    before = controller.wait_status("moved", READY).endpoint
    (daemon,) = stand_in.running()
    daemon.kill()
    wait_until("another process", lambda: controller.status("moved").endpoint != before)
    assert controller.status("moved").state == READY
    wait_until("one process", lambda: len(agent.records) == 1)
    (again,) = stand_in.running()
    told = agent.triton_of("moved").environ()
    assert (told[PIPE], told[SHARE]) == (again.environ()[PIPE], "30")
    assert again.pid != daemon.pid


async def test_a_node_is_introduced_again_when_it_is_not_what_it_was(
    lone_controller: Any, wait_until: Any
) -> None:
    link = ControllerLink(lone_controller.address)
    shares = True

    def node() -> agent_pb2.NodeInfo:
        return agent_pb2.NodeInfo(node_id="n", hardware=pb.Hardware(name="h", sm_shares=shares))

    sent = link._requests(node, agent_pb2.NodeReport)
    first, report = await anext(sent), await anext(sent)
    assert first.node.hardware.sm_shares
    assert not report.HasField("node")
    shares = False
    link.wake()
    changed = await anext(sent)
    assert changed.HasField("node")
    assert not changed.node.hardware.sm_shares
    assert changed.HasField("report")
    link.wake()
    assert not (await anext(sent)).HasField("node")
    await sent.aclose()
    await link.close()
