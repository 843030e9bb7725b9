"""Says what this machine lacks to run PALDIA, and how to get it.

Runs before anything is installed, by path and with whatever Python is there, old ones
included: `python3 paldia/cli/preflight.py`. So it needs the standard library alone,
imports nothing of PALDIA, and keeps to what Python 3.6 can parse (annotations in quotes).
"""

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from typing import NamedTuple

VERSIONS = ((3, 11), (3, 12))
FREE_BYTES = 2 * 10**9


class Machine(NamedTuple):
    """What was found; `soname` is the shared library that Triton's Python backend loads."""

    system: str
    architecture: str
    version: "tuple[int, int]"
    python: str
    modules: "frozenset[str]"
    soname: str
    soname_found: bool
    debian: bool
    folder: str
    free_bytes: int


class Lack(NamedTuple):
    """Something that is missing, and its cure."""

    what: str
    cure: str


def look(folder: str) -> Machine:
    """Describe this machine; `folder` is where PALDIA will be installed."""
    version = sys.version_info[:2]
    soname = f"libpython{version[0]}.{version[1]}.so.1.0"
    places = (sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib"))
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        version=version,
        python=sys.executable,
        modules=frozenset(name for name in ("venv", "ensurepip") if importlib.util.find_spec(name)),
        soname=soname,
        soname_found=any(os.path.exists(os.path.join(place, soname)) for place in places if place),
        debian=sys.base_prefix == "/usr" and os.path.exists("/etc/debian_version"),
        folder=folder,
        free_bytes=shutil.disk_usage(folder).free,
    )


def lacks(machine: Machine) -> "list[Lack]":
    """List what is missing, the most basic first."""
    if machine.system != "Linux" or machine.architecture != "x86_64":
        return [
            Lack(
                f"Linux on x86-64; this is {machine.system} on {machine.architecture}",
                "use such a machine, or a virtual machine or container of that kind",
            )
        ]
    version = "{}.{}".format(*machine.version)
    if machine.version not in VERSIONS:
        return [
            Lack(
                f"Python 3.11 or 3.12; {machine.python} is {version}",
                "apt-get install python3.11 python3.11-venv libpython3.11 (Debian 12) or "
                "python3.12 python3.12-venv libpython3.12 (Ubuntu 24.04), then name it: "
                "make PYTHON=python3.11",
            )
        ]
    found = []
    missing = [name for name in ("venv", "ensurepip") if name not in machine.modules]
    if missing:
        found.append(
            Lack(
                f"Python's module {' and '.join(missing)}",
                f"apt-get install python{version}-venv"
                if machine.debian
                else f"use a Python {version} installed in full",
            )
        )
    if not machine.soname_found:
        found.append(
            Lack(
                f"{machine.soname}, which Triton's Python backend loads",
                f"apt-get install libpython{version}"
                if machine.debian
                else f"use a Python {version} built with --enable-shared (for pyenv: "
                f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {version})",
            )
        )
    if machine.free_bytes < FREE_BYTES:
        found.append(
            Lack(
                f"{FREE_BYTES / 1e9:.0f} GB of free disk; {machine.folder} has "
                f"{machine.free_bytes / 1e9:.1f} GB",
                "free some space, or clone onto a larger disk",
            )
        )
    return found


def report(found: "list[Lack]") -> str:
    """Say what is missing, each with its cure on the next line."""
    lines = ["This machine lacks:"]
    for lack in found:
        lines += [f"  - {lack.what}", f"      {lack.cure}"]
    return "\n".join(lines)


def main() -> int:
    """Check this machine; 1 if it lacks something."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = lacks(look(root))
    if found:
        print(report(found), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
