"""`paldia up` and the cluster behind it, with real processes and a real Triton."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from paldia.cli.cluster import LocalCluster
from paldia.cli.node_options import NodeOptions, default_nodes, parse_node
from paldia.client import Client
from paldia.core.errors import InvalidArgumentError, NotFoundError, UnavailableError

LIMIT_S = 60.0
PALDIA = str(Path(sys.executable).with_name("paldia"))
ANYWHERE = [
    *("--controller-bind", "127.0.0.1:0", "--frontend-bind", "127.0.0.1:0"),
    *("--metrics-bind", "127.0.0.1:0"),
]
ROOT = Path(__file__).parents[2]
MAGIKA = ROOT / "paldia" / "samples" / "magika"


def left_behind(folder: Path) -> list[str]:
    """List what runs with `folder` in an argument."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(" ".join(words))
    return found


def until(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts `paldia up` in a folder of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [PALDIA, "up", "--json", "--dir", str(tmp_path / "up"), *ANYWHERE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=LIMIT_S)
    assert until(lambda: left_behind(tmp_path) == []), left_behind(tmp_path)


def document(process: subprocess.Popen[str]) -> dict:
    """Read the JSON document that `paldia up` prints once everything serves."""
    assert process.stdout is not None
    text = ""
    while line := process.stdout.readline():
        text += line
        if line == "}\n":
            return json.loads(text)
    assert process.stderr is not None
    raise AssertionError(f"no document but {text!r}; {process.stderr.read()}")


def test_the_sdk_example_runs_and_a_dead_agent_leaves_no_triton(
    up, paldia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    process = up("--node", "big:fast:0.10:0", "--node", "small:slow:0.04:0:2.0")
    cluster = document(process)
    monkeypatch.setenv("PALDIA_CONTROLLER", cluster["controller"])
    deployed = paldia("deploy", MAGIKA, "--slo-ms", "1000")
    assert deployed.code == 0, deployed.err
    assert "magika serves on " in deployed.out
    assert "magika profiling: measuring it on fast, slow" in deployed.err

    blocking, awaited = documented_examples()
    said = run_python(blocking)
    assert any(line.startswith("magika ready ['") for line in said)
    assert "python" in said
    assert [line.split()[0] for line in said[-2:]] == ["fast", "slow"]
    assert run_python(awaited)[-1].endswith("['magika']")

    explained = paldia("explain", "magika").out
    assert "Why: " in explained
    assert {"fast", "slow"} <= set(explained.split())
    again = paldia("explain", "magika", "--at", "-0s", "--replay")
    assert again.code == 0, again.out + again.err
    assert "same answer in all " in again.out

    pids = {one["name"]: one["pid"] for one in cluster["processes"]}
    os.kill(pids["small"], signal.SIGKILL)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert err.startswith("paldia: small ended by SIGKILL")
    assert left_behind(tmp_path) == []


def documented_examples() -> list[str]:
    text = (ROOT / "docs" / "sdk.md").read_text()
    return [block.partition("```")[0] for block in text.split("```python\n")[1:]]


def run_python(program: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_up_says_which_process_ended_and_stops_the_others(up, tmp_path: Path):
    process = up("--node", "n1:kind:0.1")
    pids = {one["name"]: one["pid"] for one in document(process)["processes"]}
    assert pids.keys() == {"controller", "frontend", "n1"}
    os.kill(pids["frontend"], signal.SIGKILL)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert err.startswith("paldia: frontend ended by SIGKILL")
    assert str(tmp_path / "up" / "logs" / "frontend.log") in err
    assert left_behind(tmp_path) == []


def test_killed_without_warning_it_leaves_nothing_behind(up, tmp_path: Path):
    process = up("--node", "n1:kind:0.1")
    document(process)
    assert len(left_behind(tmp_path)) > 3
    process.kill()
    assert until(lambda: left_behind(tmp_path) == [])


def test_a_second_cluster_in_a_folder_is_refused_and_harms_nobody(up, paldia, tmp_path: Path):
    process = up("--node", "n1:kind:0.1")
    cluster = document(process)
    second = paldia("up", "--dir", tmp_path / "up", *ANYWHERE)
    assert second.code == 1
    assert "another cluster runs in" in second.err
    assert paldia("nodes", "--controller", cluster["controller"]).code == 0
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (130, "", "")
    assert left_behind(tmp_path) == []


def test_a_taken_port_is_said_in_one_line(paldia, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = paldia("up", "--dir", tmp_path, *ANYWHERE, "--controller-bind", address)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert f"can't listen on {address}" in line
    assert left_behind(tmp_path) == []


def test_an_address_others_can_reach_wants_insecure(paldia, tmp_path: Path):
    ran = paldia("up", "--dir", tmp_path, *ANYWHERE, "--controller-bind", "0.0.0.0:0")
    assert ran.code == 1
    assert "--insecure" in ran.err


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Give a cluster on etcd with one node."""
    nodes = [NodeOptions("n1", "kind", 0.1)]
    with LocalCluster(tmp_path_factory.mktemp("cluster"), nodes=nodes, store="etcd") as started:
        yield started
    codes = {child.name: child.exit_code() for child in started._children.values()}
    assert codes == {"etcd": -signal.SIGTERM, "controller": 0, "frontend": 0, "n1": 0}
    assert left_behind(started.directory) == []


def test_processes_can_be_killed_and_restarted_where_they_were(cluster: LocalCluster):
    assert cluster.names == ("etcd", "controller", "frontend", "n1")
    before = cluster.controller_address, cluster.frontend_address, cluster.metrics_address
    for name in cluster.names:
        pid = cluster.pid(name)
        cluster.kill(name)
        with pytest.raises(UnavailableError, match=f"{name} ended by SIGKILL"):
            cluster.check()
        cluster.restart(name)
        cluster.check()
        assert cluster.pid(name) != pid
    assert before == (
        cluster.controller_address,
        cluster.frontend_address,
        cluster.metrics_address,
    )
    with Client(cluster.controller_address) as client:
        assert until(lambda: [node.node_id for node in client.nodes()] == ["n1"])
        assert until(lambda: len(client.status().frontends) == 1)
        assert client.status().store == "etcd"
    with pytest.raises(NotFoundError, match="n9"):
        cluster.restart("n9")


def test_the_default_nodes_share_out_the_cores():
    full, half = default_nodes([2, 5, 7])
    assert (full.cores, full.slowdown, half.cores, half.slowdown) == ((5,), 1.0, (2,), 2.0)
    assert full.price_usd_per_hour > half.price_usd_per_hour
    assert {node.cores for node in default_nodes([3])} == {(3,)}


def test_nodes_are_read_from_text():
    assert parse_node("a:t4:0.35") == NodeOptions("a", "t4", 0.35)
    assert parse_node("a:t4:0.35:0,2-4") == NodeOptions("a", "t4", 0.35, (0, 2, 3, 4))
    assert parse_node("a:t4:0.35::2") == NodeOptions("a", "t4", 0.35, (), 2.0)
    assert parse_node("a:emulated:g4dn.xlarge") == NodeOptions(
        "a", "g4dn.xlarge", 0.526, device="emulated:g4dn.xlarge"
    )
    with pytest.raises(InvalidArgumentError, match=r"did you mean p3\.2xlarge"):
        parse_node("a:emulated:p3.2xlagre")
    for wrong in (
        ":emulated:p3.2xlarge",
        "a:t4:1:0-999999999999",
        "",
        "a:t4",
        "a:t4:free",
        "a:t4:1:x",
        "a:t4:1:0:2:3",
        ":t4:1",
    ):
        with pytest.raises(InvalidArgumentError, match="ID:HARDWARE:PRICE"):
            parse_node(wrong)


@pytest.mark.parametrize(
    ("ids", "said"),
    [(["a", "a"], "differ"), (["controller"], "differ"), (["../a"], "folder"), ([""], "folder")],
)
def test_node_ids_are_distinct_and_fit_a_path(tmp_path: Path, ids: list[str], said: str):
    with pytest.raises(InvalidArgumentError, match=said):
        LocalCluster(tmp_path, nodes=[NodeOptions(one, "kind", 0.1) for one in ids])
