"""Models that go wrong, and an agent that is killed while they do."""

from __future__ import annotations

import hashlib
import io
import resource
import tarfile
from collections.abc import Callable
from typing import Any

import psutil

from paldia.api.v1 import types_pb2 as pb

READY = pb.PLACEMENT_STATE_READY
FAILED = pb.PLACEMENT_STATE_FAILED


def escaping_archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("1/model.py", "../escaped"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"pass"))
    return packed.getvalue()


def partial_files(agent: Any) -> list[str]:
    return [path.name for path in (agent.data_dir / "artifacts").glob("*.partial")]


def test_killed_while_models_go_wrong_it_goes_on_as_it_should(
    lone_controller: Any, launch_agent: Any, make_model: Any, wait_until: Callable[..., Any]
) -> None:
    controller = lone_controller
    agent = launch_agent(controller, "node")
    body = "time.sleep(0)  # {}".format
    digests = {
        name: controller.publish(make_model(name, body=body(name)))
        for name in ("fine", "cut-off", "damaged")
    }
    code = make_model("x").joinpath("1/model.py").read_text()
    busy = "import time\nwhile time.process_time() < 3: pass\n"
    digests["loading"] = controller.publish(make_model("loading", code=busy + code))
    crash = make_model("crashes", body="import os; os._exit(9)")
    digests["crashes"] = controller.publish(crash)
    escaping = escaping_archive()
    digests["escapes"] = hashlib.sha256(escaping).hexdigest()
    controller.artifacts[digests["escapes"]] = escaping
    whole = controller.artifacts[digests["damaged"]]
    controller.artifacts[digests["damaged"]] = whole[:-512] + b"x" * 512
    controller.stuck.add(digests["cut-off"])
    reasons = {
        "damaged": "came damaged",
        "escapes": "not a packed model folder",
        "crashes": "its first batch ends it",
    }
    controller.want("fine", digests["fine"])
    endpoint = controller.wait_status("fine", READY).endpoint

    # Killed once after each kind of failure has been seen, while one is fetched, one loads.
    for name in (*reasons, "cut-off"):
        controller.want(name, digests[name])
    for name, reason in reasons.items():
        wait_until(name, lambda name=name, reason=reason: reason in controller.reasons[name])
    wait_until("it is fetched", lambda: partial_files(agent))
    controller.want("loading", digests["loading"])
    wait_until("it loads", lambda: [r for r in agent.records if r["model"] == "loading"])
    loading = agent.triton_of("loading")
    agent.kill()
    assert partial_files(agent)

    controller.reasons.clear()
    controller.stuck.clear()
    controller.artifacts[digests["damaged"]] = whole
    agent = launch_agent(controller, "node")
    # What can work does, from the beginning; what can't says so again; what served goes on.
    for name in ("cut-off", "damaged", "loading"):
        controller.wait_status(name, READY)
    wait_until("the load before is ended", lambda: not agent.runs(loading.pid))
    for name in ("escapes", "crashes"):
        wait_until(name, lambda name=name: reasons[name] in controller.reasons[name])
    assert controller.status("fine").endpoint == endpoint
    assert psutil.pid_exists(agent.triton_of("fine").pid)
    assert not partial_files(agent)
    assert not [*agent.data_dir.parent.rglob("escaped")]


def test_a_disk_that_is_full_is_told_and_the_next_agent_finds_it_clean(
    lone_controller: Any, launch_agent: Any, make_model: Any, wait_until: Callable[..., Any]
) -> None:
    controller = lone_controller
    agent = launch_agent(controller, "node")
    folder = make_model("large")
    (folder / "1" / "weights").write_bytes(bytes(3 << 20))
    digest = controller.publish(folder)
    # No file of the agent's may be larger, as on a disk that has no room for more.
    psutil.Process(agent.process.pid).rlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    controller.want("large", digest)
    wait_until("told", lambda: "no room for the model" in controller.reasons["large"])
    assert "--data-dir" in controller.reasons["large"]
    assert not partial_files(agent)
    agent.kill()
    agent = launch_agent(controller, "node")
    controller.wait_status("large", READY)
    assert not partial_files(agent)
