"""Agents that die, start again, stop, lack a Triton, or run slow: each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc as triton

from paldia.api import convert
from paldia.api.v1 import types_pb2 as pb

READY = pb.PLACEMENT_STATE_READY


def is_ready(endpoint: str, model: str) -> bool:
    """Ask a Triton itself."""
    with triton.InferenceServerClient(endpoint) as client:
        return bool(client.is_model_ready(model, client_timeout=5))


def test_killed_agent_leaves_models_running_and_the_next_adopts_them(
    lone_controller: Any, launch_agent: Any, make_model: Any, wait_until: Any
) -> None:
    controller = lone_controller
    agent = launch_agent(controller, "node", "--slowdown", "2")
    kept, dropped, updated = (
        controller.publish(make_model(name, body=f"time.sleep(0) # {name}"))
        for name in ("kept", "dropped", "updated")
    )
    for name, digest in (("kept", kept), ("dropped", dropped), ("broken", updated)):
        controller.want(name, digest)
    before = {name: controller.wait_status(name, READY) for name in ("kept", "dropped", "broken")}
    pids = {name: agent.triton_of(name).pid for name in before}
    controller.ask_profile("orphan", "profiled", updated, budget_s=20)
    wait_until("a profile begins", lambda: len(agent.records) == 4)

    agent.kill()
    # A slowed Triton must not stay stopped when nobody is left to let it go on.
    wait_until("it runs on", lambda: is_ready(before["kept"].endpoint, "kept"))
    for pid in pids.values():
        assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
    os.kill(pids["kept"], signal.SIGSTOP)
    psutil.Process(pids["broken"]).children()[0].kill()
    # Nobody wrote down this one: the agent died just after starting it.
    path = next(
        path
        for path in (agent.data_dir / "runs").glob("*/process.json")
        if json.loads(path.read_text())["purpose"] == "profile"
    )
    orphan = json.loads(path.read_text())["pid"]
    path.unlink()
    controller.withdraw_profile("orphan")
    controller.want("dropped", dropped, lanes=0)

    agent = launch_agent(controller, "node", "--slowdown", "2")
    after = controller.wait_status("kept", READY)
    assert after.endpoint == before["kept"].endpoint
    assert agent.triton_of("kept").pid == pids["kept"]
    assert after.load == before["kept"].load
    assert is_ready(after.endpoint, "kept")
    controller.wait_gone("dropped")
    assert not agent.runs(pids["dropped"])
    assert not agent.runs(orphan)
    assert controller.wait_status("broken", READY).endpoint != before["broken"].endpoint

    assert agent.stop() == 0
    assert not agent.leftovers()
    assert not any(agent.runs(pid) for pid in pids.values())


def test_without_a_controller_everything_stays_as_it_is(
    launch_agent: Any, make_model: Any, wait_until: Any, make_controller: Callable[..., Any]
) -> None:
    controller = make_controller()
    agent = launch_agent(controller, "node")
    digest = controller.publish(make_model("steady"))
    controller.want("steady", digest)
    status = controller.wait_status("steady", READY)
    controller.close()
    agent.kill()
    agent = launch_agent(controller, "node")
    assert is_ready(status.endpoint, "steady")

    # It comes back where it was, and the agent finds it.
    revived = make_controller(controller.address)
    revived.want("steady", digest)
    assert revived.wait_status("steady", READY).endpoint == status.endpoint
    assert revived.node.node_id == "node"


def test_a_load_that_hangs_is_killed_with_its_reason(
    lone_controller: Any, launch_agent: Any, make_model: Any
) -> None:
    agent = launch_agent(lone_controller, "node", "--load-limit-s", "2")
    code = "import time\nprint('waiting for godot', flush=True)\ntime.sleep(1000)\n"
    digest = lone_controller.publish(make_model("hangs", code=code))
    lone_controller.want("hangs", digest)
    reason = lone_controller.wait_status("hangs", pb.PLACEMENT_STATE_FAILED).reason
    assert "not loaded within 2 s" in reason
    assert "waiting for godot" in reason
    lone_controller.want("hangs", digest, lanes=0)
    lone_controller.wait_gone("hangs")
    assert not agent.leftovers()


def test_a_second_agent_on_one_data_folder_refuses(lone_controller: Any, launch_agent: Any) -> None:
    agent = launch_agent(lone_controller, "node")
    second = subprocess.run(
        [
            *(sys.executable, "-m", "paldia_nodeagent.main", "--node-id", "other"),
            *("--controller", lone_controller.address, "--hardware", "test-kind"),
            *("--price-usd-per-hour", "1", "--data-dir", str(agent.data_dir)),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert f"pid {agent.process.pid}" in second.stderr
    assert "--data-dir" in second.stderr
    assert agent.process.poll() is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--triton-host", "0.0.0.0"], "--insecure"),
        (["--cores", "0,x"], "--cores"),
        (["--cores", "9999"], "9999"),
        (["--slowdown", "0.5"], "slowdown"),
        (["--data-dir", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_wrong_usage_is_explained(flags: list[str], message: str, tmp_path: Path) -> None:
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "paldia_nodeagent.main", "--node-id", "n"),
            *("--controller", "127.0.0.1:1", "--hardware", "kind", "--price-usd-per-hour", "1"),
            *("--data-dir", str(tmp_path / "data")),
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert answer.returncode in (1, 2)
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_triton_it_says_how_to_get_it_and_stays_connected(
    lone_controller: Any, launch_agent: Any, make_model: Any, wait_until: Any, tmp_path: Path
) -> None:
    missing = tmp_path / "opt" / "bin" / "tritonserver"
    launch_agent(lone_controller, "node", "--tritonserver", str(missing))
    wait_until("a problem", lambda: lone_controller.report.problem)
    assert "name another with --tritonserver" in lone_controller.report.problem
    digest = lone_controller.publish(make_model("nowhere"))
    lone_controller.want("nowhere", digest)
    status = lone_controller.wait_status("nowhere", pb.PLACEMENT_STATE_FAILED)
    assert "--tritonserver" in status.reason
    reports = lone_controller.reports
    wait_until("it reports on", lambda: lone_controller.reports > reports + 1)
    assert lone_controller.hellos == 1


def test_with_numpy_2_triton_is_not_started(
    lone_controller: Any, launch_agent: Any, wait_until: Any, tmp_path: Path
) -> None:
    server = tmp_path / "opt" / "bin" / "tritonserver"
    (tmp_path / "opt" / "backends" / "python").mkdir(parents=True)
    interpreter = tmp_path / "path" / "python3"
    for program, text in ((server, "#!/bin/sh\n"), (interpreter, "#!/bin/sh\necho 2.1.0\n")):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    launch_agent(
        lone_controller,
        "node",
        *("--tritonserver", str(server)),
        environment={"PATH": f"{interpreter.parent}:{os.environ['PATH']}"},
    )
    wait_until("a problem", lambda: lone_controller.report.problem)
    assert "numpy 2.1.0" in lone_controller.report.problem
    assert "'numpy<2'" in lone_controller.report.problem


def test_a_slowed_node_measures_slower_and_is_held_to_its_cores(
    launch_agent: Any, make_model: Any, make_controller: Any, wait_until: Any
) -> None:
    busy = "t = time.thread_time()\n            while time.thread_time() - t < 0.02: pass"
    core = min(os.sched_getaffinity(0))
    latencies_s = {}
    for slowdown in ("1", "4"):
        controller = make_controller()
        digest = controller.publish(make_model("busy", body=busy))
        agent = launch_agent(
            controller, f"node-{slowdown}", "--cores", str(core), "--slowdown", slowdown
        )
        controller.ask_profile("busy", "busy", digest, max_batch_size=1, budget_s=1)
        server = psutil.Process(
            wait_until("it starts", lambda agent=agent: agent.records)[0]["pid"]
        )
        stub = wait_until("a stub starts", server.children)[0]
        assert server.cpu_affinity() == stub.cpu_affinity() == [core]
        profile = controller.wait_profile("busy").profile
        assert controller.node.hardware.cores == 1
        assert profile.demand[0].share > 0.3, "it keeps its only core busy"
        latencies_s[slowdown] = convert.seconds(profile.points[0].latency)
        assert agent.stop() == 0
    assert latencies_s["4"] / latencies_s["1"] > 1.2
