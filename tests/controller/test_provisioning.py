"""Machines that are had when needed: a real controller, a real hook, agents over the wire."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from paldia.api.v1 import control_pb2, types_pb2

FLEET = """
hardware:
  fast: {price_usd_per_hour: 0.10, memory_gib: 8, cores: 1, activation_s: 0}
  slow: {price_usd_per_hour: 0.04, memory_gib: 8, cores: 1, activation_s: 0}
nodes:
"""
HOOK = """#!/bin/sh
# What is said of a node in its file is done: fail, hang, or say yes.
echo "$2 $3 $4" >> "$1/calls"
case "$(cat "$1/$2-$3" 2>/dev/null)" in
    fail) echo "no capacity in zone a" >&2; exit 3 ;;
    hang) echo asking >&2; sleep 600 & echo $! >> "$1/hung"; wait ;;
esac
"""


@dataclass
class Cloud:
    """A cloud that is asked by the hook, and whose machines are agents played over the wire."""

    folder: Path
    cluster: Any
    machines: dict[str, Any]
    """Agents by node; they come when their node is asked for, and go when it is given back."""
    booted: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _read: int = 0

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def hung(self) -> list[int]:
        """Processes that a hook which hangs has started."""
        path = self.folder / "hung"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def say(self, verb: str, node_id: str, what: str) -> None:
        (self.folder / f"{verb}-{node_id}").write_text(what)

    def said(self, verb: str, node_id: str) -> str:
        path = self.folder / f"{verb}-{node_id}"
        return path.read_text() if path.exists() else ""

    async def run(self) -> None:
        """Do what the calls ask for, unless the hook fails or is to do nothing."""
        while True:
            for line in self.calls[self._read :]:
                self._read += 1
                verb, node_id, _ = line.split()
                if self.said(verb, node_id) in ("fail", "hang", "nothing"):
                    continue
                if verb == "activate":
                    self.boot(node_id)
                else:
                    await self.halt(node_id)
            await asyncio.sleep(0.02)

    def boot(self, node_id: str) -> None:
        if node_id not in self.booted:
            run = self.machines[node_id].run(self.cluster.controller.address)
            self.booted[node_id] = asyncio.create_task(run)

    async def halt(self, node_id: str) -> None:
        task = self.booted.pop(node_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def start(self, nodes: dict[str, str], **flags: float | str) -> None:
        """Start the controller with a fleet: hardware by node."""
        fleet, hook = self.folder / "fleet.yaml", self.folder / "hook"
        lines = [f"  {node}: {{hardware: {kind}}}\n" for node, kind in nodes.items()]
        fleet.write_text(FLEET + "".join(lines))
        hook.write_text(HOOK)
        hook.chmod(0o755)
        given = {
            "provisioner": "command",
            "fleet": fleet,
            "provision-command": f"{hook} {self.folder}",
            "release-after-s": 0.5,
        } | {name.replace("_", "-"): value for name, value in flags.items()}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        self.cluster.controller.start(*words)

    async def restart(self, signum: int, nodes: dict[str, str], **flags: float | str) -> None:
        """End the controller in some way and start it anew; agents connect again."""
        booted = list(self.booted)
        for node_id in booted:
            await self.halt(node_id)
        self.cluster.controller.stop(signum)
        self.start(nodes, **flags)
        for node_id in booted:
            self.boot(node_id)

    async def node(self, node_id: str) -> Any:
        answer = await self.cluster.call("ListNodes", control_pb2.ListNodesRequest())
        return next((node for node in answer.nodes if node.id == node_id), None)

    async def state(self, node_id: str) -> str:
        node = await self.node(node_id)
        name = types_pb2.NodeState.Name(node.state) if node else "NODE_STATE_UNKNOWN"
        return str(name.removeprefix("NODE_STATE_").lower())

    async def status(self) -> Any:
        return await self.cluster.call("GetStatus", control_pb2.GetStatusRequest())

    def until(self, node_id: str, state: str) -> Any:
        async def check() -> bool:
            return await self.state(node_id) == state

        return check


@pytest.fixture
async def cloud(cluster: Any, fast: Any, tmp_path: Path) -> AsyncIterator[Cloud]:
    """A cloud with two fast machines; the controller that asks it starts with the test."""
    cluster.controller.stop(signal.SIGKILL)
    folder = tmp_path / "cloud"
    folder.mkdir()
    kind = type(fast)
    machines = {
        name: kind(name, "fast", price=9.0, latency_s=0.01) for name in ("cloud-0", "cloud-1")
    }
    running = Cloud(folder, cluster, machines)
    task = asyncio.create_task(running.run())
    yield running
    task.cancel()
    for node_id in list(running.booted):
        await running.halt(node_id)
    for pid in running.hung:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


async def test_a_machine_is_had_when_it_is_needed_and_given_back_after(
    cloud: Cloud, cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    cloud.start({"cloud-0": "fast"})
    assert await cloud.state("cloud-0") == "parked"
    cluster.join(slow, frontend)
    await cluster.deploy()
    # It is had to be measured, and given back, since a cheaper node keeps the objective.
    model = await cluster.ready()
    assert [place.node_id for place in model.status.placements] == ["slow-0"]
    await until(cloud.until("cloud-0", "parked"), "it is given back")
    assert cloud.calls == ["activate cloud-0 fast", "release cloud-0 fast"]
    measured_usd = (await cloud.node("cloud-0")).cost_usd
    assert measured_usd > 0
    # What more requests need is had again.
    await until(lambda: frontend.routes.get("m"), "a route")
    frontend.rate["m"] = 60.0
    await until(
        lambda: [lane.node_id for lane in frontend.routes["m"].lanes] == ["cloud-0"], "it moves"
    )
    await until(lambda: not slow.desired.deployments, "the old place is given up")
    node = await cloud.node("cloud-0")
    assert node.state == types_pb2.NODE_STATE_ACTIVE
    # What it costs is what the fleet's file says, whatever its agent does.
    assert node.hardware.price_usd_per_hour == pytest.approx(0.10)
    assert (await cloud.status()).cost_usd_per_hour == pytest.approx(0.10)
    frontend.rate["m"] = 0.0
    await until(cloud.until("cloud-0", "parked"), "it is given back again")
    assert cloud.calls[2:] == ["activate cloud-0 fast", "release cloud-0 fast"]
    assert (await cloud.node("cloud-0")).cost_usd > measured_usd
    assert (await cluster.model()).status.phase == types_pb2.MODEL_PHASE_READY
    # Its agent serves no longer, and is not seen as if it did.
    assert not (await cloud.node("cloud-0")).models


async def test_a_machine_is_paid_for_before_its_agent_is_there(
    cloud: Cloud, cluster: Any, until: Any
) -> None:
    cloud.say("activate", "cloud-0", "nothing")
    cloud.start({"cloud-0": "fast"})
    await cluster.deploy()
    await until(cloud.until("cloud-0", "activating"), "it is asked for")
    status = await cloud.status()
    assert status.cost_usd_per_hour == pytest.approx(0.10)

    async def charged() -> bool:
        return bool((await cloud.status()).nodes[0].cost_usd > 0)

    await until(charged, "it is charged")
    status = await cloud.status()
    assert status.idle_cost_usd == pytest.approx(status.cost_usd)
    cloud.boot("cloud-0")
    model = await cluster.ready()
    assert [place.node_id for place in model.status.placements] == ["cloud-0"]
    assert cloud.calls == ["activate cloud-0 fast"]


async def test_where_one_cannot_be_had_another_is_and_the_reason_is_shown(
    cloud: Cloud, cluster: Any, until: Any
) -> None:
    cloud.say("activate", "cloud-0", "fail")
    cloud.start({"cloud-0": "fast", "cloud-1": "fast"})
    await cluster.deploy()

    async def shown() -> bool:
        node = await cloud.node("cloud-0")
        return "no capacity in zone a" in node.problem and node.state == (
            types_pb2.NODE_STATE_ACTIVATING
        )

    await until(shown, "what the hook says is shown while it is tried")
    model = await cluster.ready()
    assert [place.node_id for place in model.status.placements] == ["cloud-1"]
    assert cloud.calls[:4] == ["activate cloud-0 fast"] * 3 + ["release cloud-0 fast"]
    await until(cloud.until("cloud-0", "parked"), "it is given back")
    node = await cloud.node("cloud-0")
    assert "asked for 3 times in vain: activate ended with 3: no capacity in zone a" in node.problem
    assert "left alone until" in node.problem
    assert (await cloud.status()).cost_usd_per_hour == pytest.approx(0.10)


async def test_one_that_never_comes_is_given_back_and_another_is_taken(
    cloud: Cloud, cluster: Any, until: Any
) -> None:
    cloud.say("activate", "cloud-0", "nothing")
    cloud.start({"cloud-0": "fast", "cloud-1": "fast"}, activation_slack_s=1.0)
    await cluster.deploy()
    model = await cluster.ready()
    assert [place.node_id for place in model.status.placements] == ["cloud-1"]
    assert cloud.calls[:2] == ["activate cloud-0 fast", "release cloud-0 fast"]
    assert "no agent connected within 1 s" in (await cloud.node("cloud-0")).problem


async def test_a_hook_that_hangs_is_ended_and_tried_again(
    cloud: Cloud, cluster: Any, until: Any
) -> None:
    cloud.say("activate", "cloud-0", "hang")
    cloud.start({"cloud-0": "fast"}, provision_limit_s=0.5)
    await cluster.deploy()

    async def shown() -> bool:
        return (
            "still ran after 0.5 s and was ended: asking" in (await cloud.node("cloud-0")).problem
        )

    await until(shown, "it is shown")
    (hung,) = cloud.hung
    assert not psutil.pid_exists(hung) or psutil.Process(hung).status() == psutil.STATUS_ZOMBIE
    cloud.say("activate", "cloud-0", "yes")
    await cluster.ready()
    assert cloud.calls == ["activate cloud-0 fast"] * 2
    assert not (await cloud.node("cloud-0")).problem


async def test_giving_back_is_tried_until_it_is_done_and_paid_for_until_then(
    cloud: Cloud, cluster: Any, until: Any
) -> None:
    cloud.say("release", "cloud-0", "fail")
    cloud.start({"cloud-0": "fast"})
    await cluster.deploy()
    await cluster.ready()
    await cluster.call("UndeployModel", control_pb2.UndeployModelRequest(name="m"))

    async def shown() -> bool:
        problem = (await cloud.node("cloud-0")).problem
        return "is being given back: release ended with 3: no capacity" in problem

    await until(shown, "it is shown")
    assert (await cloud.status()).cost_usd_per_hour == pytest.approx(0.10)
    cloud.say("release", "cloud-0", "yes")
    await until(cloud.until("cloud-0", "parked"), "it is given back")

    async def free() -> bool:
        return (await cloud.status()).cost_usd_per_hour == 0

    await until(free, "it costs nothing more")
    assert cloud.calls[1:] == ["release cloud-0 fast"] * 2


@pytest.mark.parametrize("when", ["asking", "waiting", "serving", "giving back"])
async def test_a_controller_that_is_killed_goes_on_where_it_was(
    cloud: Cloud, cluster: Any, until: Any, when: str
) -> None:
    fleet = {"cloud-0": "fast", "cloud-1": "fast"}
    cloud.say("activate", "cloud-0", {"asking": "hang", "waiting": "nothing"}.get(when, ""))
    cloud.say("release", "cloud-0", "hang" if when == "giving back" else "")
    cloud.start(fleet)
    begun_s = time.time()
    await cluster.deploy()
    if when in ("asking", "waiting"):
        await until(cloud.until("cloud-0", "activating"), "it is asked for")
        await until(lambda: cloud.hung if when == "asking" else cloud.calls, "the hook runs")
    else:
        await cluster.ready()
    if when == "giving back":
        await cluster.call("UndeployModel", control_pb2.UndeployModelRequest(name="m"))
        await until(lambda: cloud.hung, "the hook runs")
    before = await cloud.status()
    paid_from_s = time.time()
    cloud.say("activate", "cloud-0", "yes")
    cloud.say("release", "cloud-0", "yes")
    await cloud.restart(signal.SIGKILL, fleet)
    paid_until_s = time.time()
    if when == "waiting":
        cloud.boot("cloud-0")
    if when == "giving back":
        await until(cloud.until("cloud-0", "parked"), "it is given back")
    else:
        model = await cluster.ready()
        assert [place.node_id for place in model.status.placements] == ["cloud-0"]
    # Calls that may not have come through are made anew, others are not.
    expected = {
        "asking": ["activate cloud-0 fast"] * 2,
        "waiting": ["activate cloud-0 fast"] * len(cloud.calls[:2]),
        "serving": ["activate cloud-0 fast"],
        "giving back": ["activate cloud-0 fast", *["release cloud-0 fast"] * 2],
    }
    assert cloud.calls == expected[when]
    # It was paid for while there was no controller, and once.
    after = await cloud.status()
    rate = 0.10 / 3600
    assert after.cost_usd - before.cost_usd >= rate * (paid_until_s - paid_from_s) * 0.99
    assert after.cost_usd <= rate * (time.time() - begun_s)
    assert after.cost_usd == pytest.approx(sum(node.cost_usd for node in after.nodes))


async def test_one_that_nobody_asked_for_is_paid_for_and_given_back(
    cloud: Cloud, until: Any
) -> None:
    cloud.start({"cloud-0": "fast"})
    cloud.boot("cloud-0")
    await until(cloud.until("cloud-0", "active"), "it is seen")
    assert (await cloud.status()).cost_usd_per_hour == pytest.approx(0.10)
    await until(cloud.until("cloud-0", "parked"), "it is given back")
    assert cloud.calls == ["release cloud-0 fast"]


async def test_one_that_is_no_longer_listed_is_left_and_given_back(
    cloud: Cloud, cluster: Any, until: Any
) -> None:
    cloud.start({"cloud-0": "fast", "cloud-1": "fast"})
    await cluster.deploy()
    await cluster.ready()
    await cloud.restart(signal.SIGTERM, {"cloud-1": "fast"})

    async def gone() -> bool:
        return await cloud.node("cloud-0") is None and "cloud-0" not in cloud.booted

    await until(gone, "it is given back")
    assert cloud.calls[0] == "activate cloud-0 fast"
    assert sorted(cloud.calls[1:]) == ["activate cloud-1 fast", "release cloud-0 fast"]
    model = await cluster.ready()
    assert [place.node_id for place in model.status.placements] == ["cloud-1"]


async def test_a_drained_machine_is_not_asked_for(cloud: Cloud, cluster: Any, until: Any) -> None:
    cloud.start({"cloud-0": "fast", "cloud-1": "fast"})
    await cluster.call("DrainNode", control_pb2.DrainNodeRequest(node_id="cloud-0"))
    assert await cloud.state("cloud-0") == "draining"
    await cluster.deploy()
    model = await cluster.ready()
    assert [place.node_id for place in model.status.placements] == ["cloud-1"]
    assert cloud.calls == ["activate cloud-1 fast"]


async def test_an_agent_on_another_kind_of_machine_is_refused(cloud: Cloud, cluster: Any) -> None:
    cloud.start({"cloud-0": "slow"})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cloud.machines["cloud-0"].run(cluster.controller.address)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "start its agent with --hardware slow" in (refused.value.details() or "")


async def test_without_the_command_machines_stay_and_are_named(cloud: Cloud, cluster: Any) -> None:
    cloud.start({"cloud-0": "fast"})
    await cluster.deploy()
    await cluster.ready()
    await cloud.halt("cloud-0")
    cluster.controller.stop()
    cluster.controller.start()
    cloud.boot("cloud-0")
    await cluster.ready()
    log = (cluster.controller.folder / "log").read_text().splitlines()
    (left,) = (line for line in map(json.loads, log) if line["event"] == "machines.left")
    assert left["nodes"] == ["cloud-0"]
    assert cloud.calls == ["activate cloud-0 fast"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--provisioner", "command"], "--fleet FILE"),
        (["--fleet", "fleet.yaml"], "--provisioner command"),
        (
            ["--provisioner", "command", "--fleet", "absent", "--provision-command", "true"],
            "absent: No such file",
        ),
        (
            ["--provisioner", "command", "--fleet", "absent", "--provision-command", "no-such"],
            "absent: No such file",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, flags: list[str], words: str
) -> None:
    command = [
        str(Path(sys.executable).with_name("paldia-controller")),
        *("--bind", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), *flags),
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
