"""`python -m bench.compiled MODULE [ARGUMENT ...]`: run a benchmark with the simulator compiled.

What a request passes through in the simulator is compiled to C by mypyc, just as it is, in a copy
of the package; the benchmark runs with that in a third to two thirds of the time. Before a copy is
used for the first time it must have come to the same figures as the package itself. One is made
whenever a source has changed, and the ones before it go. It takes a C compiler and a minute.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.paper.cells import ALL, Cell, HardwareSet
from bench.paper.run import figures

ROOT = Path(__file__).parents[1]
COPIES = ROOT / "out" / "compiled"
PARTS = (
    *("core/device.py", "core/dispatch/*.py"),
    *("sim/arrivals.py", "sim/cluster.py", "sim/events.py", "sim/measure.py"),
    *("sim/serving.py", "sim/stream.py"),
)
"""What is compiled: what happens for each request or batch."""
LEFT_OUT = ("samples", "__pycache__")
CHECKED = (
    Cell("resnet50", "azure-bursty", 0.9, HardwareSet.FAILING, "paldia"),
    Cell("bert", "azure-llm-code", 0.9, HardwareSet.FAILING, "infless-llama-cost"),
    Cell("mobilenet_v2", "azure-bursty", 0.6, HardwareSet.T4, "molecule-cost"),
    Cell(ALL, "azure-bursty", 0.6, HardwareSet.PAPER, "triton-dynamic"),
)
"""Cells that a copy must give the same figures for: overload, failures, mixes, other policies."""
_CHECK = "from bench.compiled import checked_figures; print(checked_figures())"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile if need be, and become the benchmark; 2 if none is named, 1 if it can't be."""
    wanted = list(sys.argv[1:] if arguments is None else arguments)
    if not wanted:
        print(
            "name a benchmark: python -m bench.compiled bench.paper [ARGUMENT ...]", file=sys.stderr
        )
        return 2
    try:
        copy = compiled(COPIES)
    except CannotCompileError as error:
        print(error, file=sys.stderr)
        return 1
    command = _command("-m", *wanted)
    os.execve(sys.executable, command, _environment(copy))  # noqa: S606 - an argument list


class CannotCompileError(Exception):
    """There is no compiled copy that could be used."""


def compiled(copies: Path) -> Path:
    """Give the folder with the compiled copy of the package as it is now.

    Raises:
        CannotCompileError: it doesn't compile, or comes to other figures.
    """
    copies.mkdir(parents=True, exist_ok=True)
    copy = copies / digest(ROOT / "paldia")
    if copy.exists():
        return copy
    print("compiling the simulator; this takes a minute", file=sys.stderr)
    for old in copies.iterdir():
        shutil.rmtree(old)
    # Under its own name only once it is complete and checked.
    making = Path(tempfile.mkdtemp(prefix="making-", dir=copies))
    shutil.copytree(ROOT / "paldia", making / "paldia", ignore=shutil.ignore_patterns(*LEFT_OUT))
    _compile(making)
    _check(making)
    making.rename(copy)
    return copy


def _compile(copy: Path) -> None:
    """Put what is compiled beside the sources that it was made of."""
    files = [
        path.relative_to(copy).as_posix()
        for part in PARTS
        for path in sorted((copy / "paldia").glob(part))
    ]
    made = subprocess.run(
        [sys.executable, "-m", "mypyc", *files],
        check=False,
        cwd=copy,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise CannotCompileError(
            f"{made.stdout[-2000:]}{made.stderr[-2000:]}\nthe simulator could not be compiled: "
            "install a C compiler and Python's headers, or run the benchmark without this"
        )
    shutil.rmtree(copy / "build")


def _check(copy: Path) -> None:
    """Compare the copy's figures with the package's own."""
    print("checking that it comes to the same figures", file=sys.stderr)
    command = _command("-c", _CHECK)
    said = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for environment in (_environment(copy), _environment(ROOT))
    ]
    if said[0] != said[1]:
        raise CannotCompileError(
            "the compiled simulator came to other figures than the one it was made of, so it is "
            "not used; run the benchmark without it, and see what of PARTS differs"
        )


def checked_figures() -> str:
    """Give what the package in use comes to."""
    return "\n".join(repr(figures(cell) | {"cpu_s": 0.0}) for cell in CHECKED)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", *arguments]


def _environment(folder: Path) -> dict[str, str]:
    """Have the package imported from a folder, and all else from here."""
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def digest(folder: Path) -> str:
    """Fingerprint of a package's sources, and of the interpreter that compiles them."""
    taken = hashlib.sha256(sys.version.encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".py", ".yaml"}:
            taken.update(path.relative_to(folder).as_posix().encode())
            taken.update(path.read_bytes())
    return taken.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
