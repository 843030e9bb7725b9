"""What set-up says a machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paldia.cli import preflight

GOOD = preflight.Machine(
    system="Linux",
    architecture="x86_64",
    version=(3, 11),
    python="/usr/bin/python3",
    modules=frozenset({"venv", "ensurepip"}),
    soname="libpython3.11.so.1.0",
    soname_found=True,
    debian=True,
    folder="/srv/paldia",
    free_bytes=50 * 10**9,
)


def test_a_good_machine_lacks_nothing():
    assert preflight.lacks(GOOD) == []
    assert preflight.lacks(GOOD._replace(version=(3, 12))) == []


@pytest.mark.parametrize(
    ("change", "what", "cure"),
    [
        ({"system": "Darwin"}, "this is Darwin", "virtual machine"),
        ({"architecture": "aarch64"}, "aarch64", "virtual machine"),
        ({"version": (3, 10)}, "/usr/bin/python3 is 3.10", "make PYTHON=python3.11"),
        ({"version": (3, 13)}, "is 3.13", "apt-get install python3.11"),
        ({"modules": frozenset({"venv"})}, "ensurepip", "apt-get install python3.11-venv"),
        ({"modules": frozenset()}, "venv and ensurepip", "python3.11-venv"),
        ({"modules": frozenset(), "debian": False}, "venv and ensurepip", "in full"),
        ({"soname_found": False}, "libpython3.11.so.1.0", "apt-get install libpython3.11"),
        ({"soname_found": False, "debian": False}, "libpython3.11", "--enable-shared"),
        ({"free_bytes": 10**9}, "/srv/paldia has 1.0 GB", "free some space"),
    ],
)
def test_each_lack_has_its_cure(change: dict[str, object], what: str, cure: str):
    (lack,) = preflight.lacks(GOOD._replace(**change))
    assert what in lack.what
    assert cure in lack.cure


def test_several_lacks_are_all_reported():
    machine = GOOD._replace(modules=frozenset(), soname_found=False, free_bytes=0)
    said = preflight.report(preflight.lacks(machine))
    assert said.count("apt-get install") == 2
    assert len(said.splitlines()) == 7


def test_it_runs_by_path_and_needs_nothing_installed():
    alone = subprocess.run(
        [sys.executable, "-I", "-S", preflight.__file__],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert (alone.returncode, alone.stdout) == (0, ""), alone.stderr


def test_what_it_finds_here_is_true():
    here = preflight.look(str(Path.cwd()))
    assert here.version == sys.version_info[:2]
    assert here.modules == {"venv", "ensurepip"}
    assert here.free_bytes > 0
