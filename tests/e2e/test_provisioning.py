"""A machine that is had when it is needed, with a real agent and Triton on it."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient

from paldia.cli.cluster import LocalCluster
from paldia.client import Client
from paldia.core.types import NodeState

FLEET = """
hardware:
  box: {price_usd_per_hour: 3600, memory_gib: 4, cores: 1, activation_s: 5}
nodes:
  box-1: {hardware: box}
"""
HOOK = """#!/bin/sh
folder=$1 agent=$2 verb=$3 node=$4 hardware=$5
running() { [ -f "$folder/$node.pid" ] && kill -0 "$(cat "$folder/$node.pid")" 2>/dev/null; }
case "$verb" in
    activate)
        running && exit 0
        setsid "$agent" --controller "$(cat "$folder/controller")" --node-id "$node" \\
            --hardware "$hardware" --price-usd-per-hour 1 --data-dir "$folder/$node" \\
            > "$folder/$node.log" 2>&1 &
        echo $! > "$folder/$node.pid" ;;
    release)
        running || exit 0
        kill "$(cat "$folder/$node.pid")" ;;
esac
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Path]:
    """The folder of a hook that starts and stops agents on this machine."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    (folder / "fleet.yaml").write_text(FLEET)
    (folder / "hook").write_text(HOOK)
    (folder / "hook").chmod(0o755)
    yield folder
    for agent in agents(folder):
        agent.terminate()
        agent.wait(20)


def agents(cloud: Path) -> list[psutil.Process]:
    """Give the agents that run."""
    found = []
    for path in cloud.glob("*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(path.read_text()))
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def cluster(tmp_path: Path, cloud: Path) -> Iterator[LocalCluster]:
    agent = Path(sys.executable).with_name("paldia-nodeagent")
    command = shlex.join([str(cloud / "hook"), str(cloud), str(agent)])
    flags = [
        *("--provisioner", "command", "--fleet", str(cloud / "fleet.yaml")),
        *("--provision-command", command, "--release-after-s", "1"),
    ]
    with LocalCluster(tmp_path / "cluster", nodes=(), flags={"controller": flags}) as running:
        (cloud / "controller").write_text(running.controller_address)
        yield running


def test_a_model_serves_from_a_machine_that_was_not_there(
    cluster: LocalCluster, cloud: Path, infer: Any, until: Any, model_folder: Any
) -> None:
    with Client(cluster.controller_address) as paldia:
        (node,) = paldia.nodes()
        assert (node.state, node.cost_usd) == (NodeState.PARKED, 0.0)
        model = paldia.deploy(model_folder(), slo_latency_s=0.1)
        assert [place.node_id for place in model.placements] == ["box-1"]
        triton = InferenceServerClient(cluster.frontend_address)
        assert infer(triton) == [2.0, 4.0]
        triton.close()
        (agent,) = agents(cloud)
        paldia.undeploy("scale")
        until(lambda: paldia.nodes()[0].state is NodeState.PARKED, "the machine is given back")
        assert agent not in agents(cloud)
        until(lambda: paldia.status().cost_usd_per_hour == 0, "it costs nothing more")
        # A dollar a second, for at least as long as the agent was there.
        assert paldia.nodes()[0].cost_usd > 1
