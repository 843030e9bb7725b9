"""The demo as its user runs it, with a short replay, and ended half way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

PALDIA = Path(sys.executable).with_name("paldia")
PROMISED = {
    *("files", "requests", "failed", "slo_compliance", "p50_ms", "p99_ms", "cost_usd"),
    *("nodes", "moves", "decisions"),
}


def _start(folder: Path) -> subprocess.Popen[str]:
    # Whatever the demo writes, and the name of every process it starts, has the folder in it.
    return subprocess.Popen(
        [PALDIA, "demo", "--seconds", "2", "--out", folder / "out"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _left_over(folder: Path) -> list[str]:
    commands = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    files = [str(path) for path in folder.glob("paldia-demo-*")]
    return files + [command for command in commands if str(folder) in command]


def test_the_demo_classifies_replays_explains_and_stops(tmp_path: Path) -> None:
    process = _start(tmp_path)
    shown, _ = process.communicate(timeout=180)
    assert process.returncode == 0, shown
    assert "Why: " in shown
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report.keys() >= PROMISED
    labels = {file["path"]: file["label"] for file in report["files"]}
    assert labels["paldia/core/engine.py"] == "python"
    assert labels["/bin/ls"] == "elf"
    assert {file["node"] for file in report["files"]} <= {node["id"] for node in report["nodes"]}
    assert {node["hardware"] for node in report["nodes"]} == {
        *("cpu-full", "cpu-half", "p3.2xlarge", "g4dn.xlarge", "g3s.xlarge")
    }
    emulated = report["emulated"]
    assert emulated["requests"] == emulated["marked"] > 0
    assert report["requests"] > 0
    assert report["failed"] == 0
    assert report["cost_usd"] > 0
    assert _left_over(tmp_path) == []


def test_ended_half_way_it_stops_everything(tmp_path: Path) -> None:
    process = _start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("magika profiling:"):
            break
    else:
        raise AssertionError("it ended without measuring magika")
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, shown
    assert _left_over(tmp_path) == []
