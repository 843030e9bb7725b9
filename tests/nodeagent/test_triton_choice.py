"""Which Triton an agent runs: the one named for its kind of machine, unless it was told another."""

from __future__ import annotations

import importlib.util
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest
from paldia_nodeagent.runtime import RuntimeFinder, named_for

from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import InvalidArgumentError

READY = pb.PLACEMENT_STATE_READY


def hardware_file(folder: Path, tritonserver: Path, kind: str = "test-kind") -> Path:
    path = folder / "hardware.yaml"
    path.write_text(
        f"hardware:\n  {kind}: {{price_usd_per_hour: 1, memory_gib: 8, cores: 2, "
        f"tritonserver: {tritonserver}}}\nnodes:\n  n: {{hardware: {kind}}}\n"
    )
    return path


def test_a_kind_has_the_triton_that_the_file_names_for_it(tmp_path: Path) -> None:
    old = tmp_path / "old" / "tritonserver"
    named = named_for("k80", hardware_file(tmp_path, old, "k80"))
    assert named is not None
    assert named.tritonserver == old
    # The catalog's kinds are known beside the file's; none of them names a program.
    assert named_for("m4.xlarge", tmp_path / "hardware.yaml") is None
    assert named_for("a-kind-of-my-own", None) is None


def test_a_kind_of_which_the_file_says_nothing_is_refused(tmp_path: Path) -> None:
    path = hardware_file(tmp_path, tmp_path / "triton", "k80")
    with pytest.raises(InvalidArgumentError, match=r"no hardware named 'k08'.*--hardware.*k80"):
        named_for("k08", path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no program"),
        ("\x7fELF of another machine", "Exec format error"),
        ("#!/bin/sh\necho libcudart.so.10.2: cannot open >&2; exit 127\n", "libcudart.so.10.2"),
        ("#!/bin/sh\nkill -ILL $$\n", "it ended with -4"),
    ],
)
def test_one_that_cannot_be_used_names_who_named_it_why_and_the_cure(
    tmp_path: Path, content: str | None, said: str
) -> None:
    server = tmp_path / "bin" / "tritonserver"
    (tmp_path / "backends").mkdir()
    server.parent.mkdir()
    if content is not None:
        server.write_text(content)
        server.chmod(stat.S_IRWXU)
    named = named_for("k80", hardware_file(tmp_path, server, "k80"))
    finder = RuntimeFinder(named, tmp_path / "unused")
    finder.look()
    assert f"tritonserver of k80 in {tmp_path / 'hardware.yaml'}: {server}" in finder.problem
    assert said in finder.problem
    assert "that was built for this machine's" in finder.problem
    server.write_text("#!/bin/sh\nexit 1\n")
    server.chmod(stat.S_IRWXU)
    finder.look()
    assert finder.found, "it was put right"


def wheel_at(folder: Path) -> Path:
    """Put the installed Triton in another place and give its program's path there."""
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (installed,) = spec.submodule_search_locations
    (folder / "pytriton").mkdir(parents=True)
    (folder / "pytriton" / "tritonserver").symlink_to(Path(installed) / "tritonserver")
    libraries = "nvidia_pytriton.libs"
    (folder / libraries).symlink_to(Path(installed).parent / libraries)
    return folder / "pytriton" / "tritonserver" / "bin" / "tritonserver"


def test_an_agent_runs_the_triton_of_its_kind(
    lone_controller: Any, launch_agent: Any, make_model: Any, tmp_path: Path
) -> None:
    server = wheel_at(tmp_path / "own")
    file = hardware_file(tmp_path, server)
    agent = launch_agent(lone_controller, "node", "--hardware-file", str(file))
    lone_controller.want("m", lone_controller.publish(make_model("m")))
    lone_controller.wait_status("m", READY)
    assert psutil.Process(agent.triton_of("m").pid).cmdline()[0] == str(server)


def test_an_agent_whose_kinds_triton_is_missing_says_so_unless_told_another(
    lone_controller: Any, launch_agent: Any, wait_until: Any, tmp_path: Path
) -> None:
    file = hardware_file(tmp_path, tmp_path / "gone" / "tritonserver")
    agent = launch_agent(lone_controller, "node", "--hardware-file", str(file))
    problem = wait_until("a problem", lambda: lone_controller.report.problem)
    assert f"tritonserver of test-kind in {file}: {tmp_path / 'gone' / 'tritonserver'}" in problem
    assert agent.stop() == 0
    told = ("--tritonserver", str(wheel_at(tmp_path / "own")))
    launch_agent(lone_controller, "node", "--hardware-file", str(file), *told)
    wait_until("no problem", lambda: not lone_controller.report.problem)
