"""Cores, memory, the data folder, and what Triton needs to find here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from paldia_nodeagent.cores import parse_cores, pin
from paldia_nodeagent.devices.cpu import Cpu, find_memory_limit
from paldia_nodeagent.home import Home
from paldia_nodeagent.ledger import Ledger, Record
from paldia_nodeagent.runtime import Named, RuntimeFinder, check_numpy, find_runtime

from paldia.core.errors import InvalidArgumentError, NotServableError, UnavailableError


@pytest.mark.parametrize(
    ("text", "cores"), [("0", {0}), ("0,2-3", {0, 2, 3}), (" 1 , 1 ", {1}), ("4-4", {4})]
)
def test_reads_lists_of_cores(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-1", "1-2-3", "0;1", "9" * 9])
def test_refuses_lists_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_cores(text)


def test_refuses_cores_there_are_not() -> None:
    with pytest.raises(InvalidArgumentError, match="99999"):
        pin(frozenset({99999}))


def test_cpu_is_what_this_process_may_use() -> None:
    cpu = Cpu()
    assert cpu.cores == len(os.sched_getaffinity(0))
    assert 0 <= cpu.share() <= 1
    assert 0 < cpu.memory_used_bytes() < cpu.memory_bytes


def test_a_control_group_with_less_memory_rules(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 200000\n")
    cpu = Cpu(tmp_path)
    assert cpu.memory_bytes == 1_000_000
    assert cpu.memory_used_bytes() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert find_memory_limit(tmp_path) is None


def test_a_data_folder_has_one_agent_and_one_identity(tmp_path: Path) -> None:
    home = Home(tmp_path / "data")
    with pytest.raises(UnavailableError, match=f"pid {os.getpid()}"):
        Home(tmp_path / "data")
    token = home.token
    home.close()
    again = Home(tmp_path / "data")
    assert again.token == token
    again.close()
    other = Home(tmp_path / "other")
    assert other.token != token
    other.close()


def test_records_survive_and_nonsense_is_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    record = Record(ledger.new_run(), "m", "d", "serve", 1, 2, "h:1", 1.5)
    ledger.write(record)
    broken = ledger.folder(ledger.new_run()) / "process.json"
    for text in ("{", "[]", '{"pid": 1}', '"x"'):
        broken.write_text(text)
        assert ledger.read() == [record]
    ledger.forget_all_but(frozenset({record.run}))
    assert [path.name for path in tmp_path.iterdir()] == [record.run]


def interpreter(folder: Path, script: str) -> dict[str, str]:
    """Put a python3 on a PATH of its own."""
    folder.mkdir()
    (folder / "python3").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python3").chmod(stat.S_IRWXU)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.mark.parametrize("version", ["2.0.0", "2.1.3", "3.0.0rc1", "10.0"])
def test_numpy_2_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(NotServableError, match="empty tensors"):
        check_numpy(interpreter(tmp_path / "bin", f"echo {version}"))


def test_numpy_1_passes_and_its_absence_is_told(tmp_path: Path) -> None:
    check_numpy(interpreter(tmp_path / "one", "echo 1.26.4"))
    missing = "echo \"ModuleNotFoundError: No module named 'numpy'\" >&2; exit 1"
    with pytest.raises(NotServableError, match="No module named 'numpy'"):
        check_numpy(interpreter(tmp_path / "none", missing))
    with pytest.raises(NotServableError, match="no python3"):
        check_numpy({"PATH": str(tmp_path)})


def test_triton_is_found_and_its_backend_put_together(tmp_path: Path) -> None:
    runtime = find_runtime(None, tmp_path / "backends")
    assert runtime.backend_names() == ["python"]
    assert runtime.environment["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "1")
    assert (runtime.backends / "python" / "triton_python_backend_stub").is_file()
    # Again, over what the last start left.
    assert find_runtime(None, tmp_path / "backends") == runtime


def test_a_named_triton_in_the_containers_layout_is_used_as_it_is(tmp_path: Path) -> None:
    server = tmp_path / "bin" / "tritonserver"
    server.parent.mkdir()
    server.write_text("#!/bin/sh\n")
    finder = RuntimeFinder(Named(server, "--tritonserver"), tmp_path / "unused")
    finder.look()
    assert "--tritonserver" in finder.problem
    server.chmod(stat.S_IRWXU)
    (tmp_path / "backends" / "onnxruntime").mkdir(parents=True)
    finder.look()
    assert not finder.problem
    assert finder.backend_names() == ["onnxruntime"]
    assert not (tmp_path / "unused").exists()
