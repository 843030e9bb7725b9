"""Exit codes, what stands on which stream, and the keys of --json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paldia import __version__

PALDIA = str(Path(sys.executable).with_name("paldia"))
MODEL_KEYS = {
    *("name", "phase", "reason", "slo_unreachable", "requests_per_second", "serving"),
    *("candidate", "last_failure", "placements", "resource_version"),
}


@pytest.fixture(autouse=True)
def _at(monkeypatch: pytest.MonkeyPatch, controller: str) -> None:
    monkeypatch.setenv("PALDIA_CONTROLLER", controller)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deploy", "DIR"], "--slo-ms"),
        (["deploy", "--slo-ms", "100"], "DIR"),
        (["deploy", "DIR", "--slo-ms", "0"], "above 0"),
        (["deploy", "DIR", "--slo-ms", "soon"], "--slo-ms"),
        (["deploy", "DIR", "--slo-ms", "1", "--slo-share", "1"], "0.99 is 99 %"),
        (["deploy", "DIR", "--slo-ms", "1", "--max-batch", "-1"], "max-batch"),
        (["deploy", "DIR", "--slo-ms", "1", "--on-overload", "panic"], "panic"),
        (["update", "m"], "nothing to change"),
        (["explain", "m", "--limit", "0"], "limit"),
        (["up", "--node", "a:b"], "ID:HARDWARE:PRICE"),
        (["up", "--store", "paper"], "paper"),
        (["frobnicate"], "frobnicate"),
        (["models", "--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage_exits_with_2(paldia, model_folder, arguments: list[str], said: str):
    ran = paldia(*[model_folder if word == "DIR" else word for word in arguments])
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deploy", "/nowhere/at/all", "--slo-ms", "100"], "/nowhere/at/all is no folder"),
        (["deploy", "EMPTY", "--slo-ms", "100"], "no version folder"),
        (["explain", "ghost"], "no model named 'ghost'"),
        (["explain", "ghost", "--at", "-5m"], "no model named 'ghost'"),
        (["profile", "ghost"], "no model named 'ghost'"),
        (["undeploy", "ghost"], "no model named 'ghost'"),
        (["update", "ghost", "--slo-ms", "5"], "no model named 'ghost'"),
        (["drain", "ghost"], "no node named 'ghost'"),
        (["models", "--controller", "127.0.0.1:1"], "can't reach the controller at 127.0.0.1:1"),
    ],
)
def test_failures_exit_with_1_and_one_line(paldia, tmp_path, arguments: list[str], said: str):
    ran = paldia(*[tmp_path if word == "EMPTY" else word for word in arguments])
    assert ran.code == 1
    assert ran.out == ""
    last = ran.err.splitlines()[-1]
    assert last.startswith("paldia: ")
    assert said in last
    assert "Traceback" not in ran.err


def test_json_keys_are_those_of_the_results(paldia, model_folder):
    ran = paldia("deploy", model_folder, "--slo-ms", "80", "--no-wait", "--json")
    assert (ran.code, ran.err) == (0, "")
    deployed = json.loads(ran.out)
    assert deployed.keys() == MODEL_KEYS
    assert deployed["candidate"]["slo"] == {"latency_s": 0.08, "share": 0.99}
    assert deployed["candidate"]["on_overload"] == "queue"
    updated = json.loads(paldia("update", "doubler", "--slo-ms", "90", "--json").out)
    assert updated["candidate"]["slo"]["latency_s"] == 0.09
    (listed,) = json.loads(paldia("models", "--json").out)["models"]
    assert listed.keys() == MODEL_KEYS
    status = json.loads(paldia("status", "--json").out)
    assert {"cost_usd", "cost_usd_per_hour", "decisions", "frontends", "models"} < status.keys()
    explained = json.loads(paldia("explain", "doubler", "--json").out)
    assert explained.keys() == {"model", "current", "decisions", "profiles"}
    undecided = paldia("explain", "doubler", "--replay", "--json")
    assert (undecided.code, undecided.out) == (1, "")
    assert "nothing has been decided on 'doubler' yet" in undecided.err
    assert json.loads(paldia("nodes", "--json").out) == {"nodes": []}
    assert json.loads(paldia("undeploy", "doubler", "--json").out) == {"undeployed": "doubler"}
    assert json.loads(paldia("version", "--json").out) == {"version": __version__}
    prepared = json.loads(paldia("samples", "prepare", "--json").out)["files"]
    assert [one.keys() for one in prepared] == [{"path", "size_bytes", "copied"}] * 2


def test_plain_output_is_neither_cut_nor_coloured(paldia, model_folder):
    name = "a-name-far-too-long-for-a-column-of-a-terminal-that-is-a-hundred-characters-wide"
    deployed = paldia("deploy", model_folder, "--slo-ms", "80", "--no-wait", "--name", name)
    assert deployed.out.startswith(f"{name} is profiling (generation 1)")
    assert f"{name} uploading" in deployed.err
    ran = paldia("models")
    assert ran.out.count(name) == 1
    assert "80 ms / 99 %" in ran.out
    assert "\x1b" not in ran.out
    assert paldia("undeploy", name).code == 0


@pytest.mark.parametrize(
    "command",
    [
        *("deploy", "undeploy", "update", "models", "nodes", "status", "explain", "profile"),
        *("drain", "up", "version"),
    ],
)
def test_help_shows_an_example(paldia, command: str):
    ran = paldia(command, "--help")
    assert ran.code == 0
    assert f"Example: paldia {command}" in ran.out
    assert "--json" in ran.out


def test_names_complete_from_the_cluster(paldia, model_folder, controller: str):
    assert paldia("deploy", model_folder, "--slo-ms", "80", "--no-wait").code == 0
    completed = subprocess.run(
        [PALDIA],
        env={**os.environ, "_PALDIA_COMPLETE": "complete_bash", "COMP_WORDS": "paldia explain d"}
        | {"COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout.split() == ["doubler"]
    assert paldia("undeploy", "doubler").code == 0


def test_ctrl_c_exits_with_130(controller: str):
    watching = subprocess.Popen(
        [PALDIA, "status", "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    assert "controller" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "Traceback" not in out + err


def test_a_closed_pipe_is_no_error(controller: str):
    watching = subprocess.Popen(
        [PALDIA, "status", "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.stdout.close()
    deadline_s = time.monotonic() + 20
    while watching.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert watching.returncode == 1
    assert watching.stderr is not None
    assert "Traceback" not in watching.stderr.read()
