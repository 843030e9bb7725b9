"""What Tritons write, in the agent's own log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import tritonclient.grpc as triton
from paldia_nodeagent.logs import LogRelay, TritonLog

from paldia.api.v1 import types_pb2 as pb

READY = pb.PLACEMENT_STATE_READY


class Written:
    """A log that is written to, what of it was passed on, and a way to leave no room for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.room = True
        self.relay = LogRelay(lambda: self.room)
        self.relay.add("run", "m", TritonLog(path))

    def write(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "log")


@pytest.fixture
def events() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def lines(events: list[Any]) -> list[tuple[str, str]]:
    return [(e["severity"], e["message"]) for e in events if e["event"] == "triton.log"]


def test_lines_come_with_their_severity_and_the_models_name(
    written: Written, events: list[Any]
) -> None:
    written.write(
        'I1124 16:40:56.1 7 server.cc:1] "loading m"\n'
        "W1124 16:40:56.1 7 x.cc:22] slow\n"
        "E1124 16:40:56.1 7 x.cc:22] broken\n"
        "F1124 16:40:56.1 7 x.cc:22] over\n"
        "printed by \x1b[31mthe model\n\n"
    )
    written.relay.follow()
    assert lines(events) == [
        ("info", "loading m"),
        ("warning", "slow"),
        ("error", "broken"),
        ("error", "over"),
        ("output", "printed by the model"),
    ]
    assert {event["model"] for event in events} == {"m"}
    assert [e["log_level"] for e in events] == ["info", "warning", "error", "error", "info"]


def test_a_line_is_passed_on_once_and_whole(written: Written, events: list[Any]) -> None:
    written.write("one\nhalf a ")
    written.relay.follow()
    written.write("line\n")
    written.relay.follow()
    written.relay.follow()
    assert lines(events) == [("output", "one"), ("output", "half a line")]
    written.write("the end")
    written.relay.remove("run")
    assert lines(events)[2:] == [("output", "the end")]
    written.write("later\n")
    written.relay.follow()
    assert len(lines(events)) == 3


def test_what_stood_there_before_is_not_said_again(tmp_path: Path, events: list[Any]) -> None:
    (tmp_path / "log").write_text("old\n")
    relay = LogRelay(lambda: True)
    relay.add("run", "m", TritonLog(tmp_path / "log"))
    relay.follow()
    assert not events


def test_a_flood_is_cut_and_its_rest_counted(written: Written, events: list[Any]) -> None:
    count = 50_000
    written.write("".join(f"line {i} {'x' * 40}\n" for i in range(count)))
    written.relay.follow()
    written.relay.remove("run")
    passed = len(lines(events))
    assert 100 <= passed <= 400
    left_out = [event["lines"] for event in events if event["event"] == "triton.log_left_out"]
    assert passed + sum(left_out) == count


def test_a_full_output_loses_lines_and_holds_nobody_up(written: Written, events: list[Any]) -> None:
    written.room = False
    written.write("a\nb\n")
    written.relay.follow()
    assert not events
    written.room = True
    written.write("c\n")
    written.relay.remove("run")
    assert lines(events) == [("output", "c")]
    assert [e["lines"] for e in events if "lines" in e] == [2]


def test_long_lines_and_long_logs_are_cut(written: Written, events: list[Any]) -> None:
    written.write("é" * 100_000 + "\n")
    written.relay.follow()
    assert len(json.dumps(lines(events)[0][1])) < 4000
    for _ in range(6):
        written.write("y" * (1 << 20) + "\n")
        written.relay.follow()
    assert written.path.stat().st_size < 5 << 20
    written.write("after\n")
    written.relay.follow()
    assert lines(events)[-1] == ("output", "after")


def test_a_real_tritons_lines_arrive_an_adopted_ones_too(
    lone_controller: Any, launch_agent: Any, make_model: Any, wait_until: Any
) -> None:
    controller = lone_controller
    agent = launch_agent(controller, "node")
    body = "print('seen', int(x[0, 0]), flush=True)"
    controller.want("talks", controller.publish(make_model("talks", body=body)))
    endpoint = controller.wait_status("talks", READY).endpoint

    def logged() -> list[dict[str, Any]]:
        events = [
            json.loads(line) for line in agent.log.read_text().splitlines() if line[:1] == "{"
        ]
        return [e for e in events if e["event"] == "triton.log" and e["model"] == "talks"]

    wait_until("it is heard", lambda: [e for e in logged() if e["message"] == "seen 0"])
    assert any("successfully loaded" in e["message"] for e in logged() if e["severity"] == "info")
    agent.kill()
    launch_agent(controller, "node")
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.full((1, 4), 77, np.float32))
    with triton.InferenceServerClient(endpoint) as client:
        client.infer("talks", [tensor], client_timeout=20)
    wait_until("it is heard", lambda: [e for e in logged() if e["message"] == "seen 77"])
