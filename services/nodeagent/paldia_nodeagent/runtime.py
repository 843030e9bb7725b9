"""Finds a Triton and makes sure that it can work here before anything is started.

It is the one that the agent was told of, or that is named for its kind of machine, since old
cards need an old Triton. Two layouts are known: NVIDIA's container (`/opt/tritonserver`), used as
it is, and the `nvidia-pytriton` wheel, whose Python backend wants a folder put together for the
Python at hand. What would only show later as a hang or as empty answers is checked now.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paldia.catalog.load import machines
from paldia.catalog.machines import load_machines
from paldia.core.errors import InvalidArgumentError, NotServableError

_CONTAINER_TRITON = Path("/opt/tritonserver/bin/tritonserver")
_STUB = "triton_python_backend_stub"
_PROBE_LIMIT_S = 60.0
_CANNOT_RUN = 126
"""Least exit code that says so: of a shell, or of a program without its libraries."""
_GET_TRITON = (
    "install it with: pip install 'paldia[triton]', run the agent in NVIDIA's Triton container, "
    "or name a binary with --tritonserver"
)
_GET_ANOTHER = (
    "put one there that was built for this machine's processor, driver and libraries, or name "
    "another with --tritonserver"
)


@dataclass(frozen=True, slots=True)
class Named:
    """A Triton that somebody named, and who, for whoever has to put it right."""

    tritonserver: Path
    by: str


def named_for(hardware: str, file: Path | None) -> Named | None:
    """Give the Triton that `file`, or else the catalog, names for a kind of machine, if any.

    Raises:
        InvalidArgumentError: the file is wrong, or neither knows the kind; says where.
    """
    known = {} if file is None else load_machines(file)
    kind = known.get(hardware) or machines().get(hardware)
    if kind is None and file is not None:
        raise InvalidArgumentError(
            f"{file}: there is no hardware named {hardware!r}, which --hardware says this machine "
            f"is; describe it there, or say which of {', '.join({**known, **machines()})} it is"
        )
    if kind is None or not kind.tritonserver:
        return None
    return Named(Path(kind.tritonserver), f"tritonserver of {hardware} in {file or 'the catalog'}:")


@dataclass(frozen=True, slots=True)
class Runtime:
    """A Triton that can be started, and the environment to start it in."""

    tritonserver: Path
    backends: Path
    environment: Mapping[str, str]

    def backend_names(self) -> list[str]:
        """List the backends this Triton has."""
        return sorted(path.name for path in self.backends.iterdir() if path.is_dir())


class RuntimeFinder:
    """Looks for a Triton until there is one, and says what is missing."""

    def __init__(self, named: Named | None, backends: Path) -> None:
        """Look at `named` or, without it, at the usual places; build backends in `backends`."""
        self._named = named
        self._backends = backends
        self._found: Runtime | None = None
        self.problem = ""

    @property
    def found(self) -> bool:
        """Whether there is a Triton."""
        return self._found is not None

    def runtime(self) -> Runtime:
        """Give the Triton found.

        Raises:
            NotServableError: there is none that works here.
        """
        if self._found is None:
            raise NotServableError(self.problem or "looking for Triton")
        return self._found

    def backend_names(self) -> list[str]:
        """List the backends of the Triton found; none without one."""
        return self._found.backend_names() if self._found else []

    def look(self) -> None:
        """Look again; takes up to a second, since it runs the backend's interpreter."""
        try:
            self._found = find_runtime(self._named, self._backends)
            self.problem = ""
        except NotServableError as error:
            self._found = None
            self.problem = str(error)
        except OSError as error:
            self._found = None
            self.problem = f"can't prepare Triton: {error}"


def find_runtime(named: Named | None, backends: Path) -> Runtime:
    """Find a Triton and check its needs.

    Raises:
        NotServableError: none is there, or it couldn't work; says what to do.
    """
    binary = _locate(named)
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        # Lanes are processes: two of two threads on two cores lose a third of the throughput.
        environment.setdefault(name, "1")
    root = binary.parent.parent
    if not (root / "python_backend_stubs").is_dir():
        runtime = Runtime(binary, root / "backends", environment)
    else:
        library_folder = find_libpython()
        libraries = [root.parent.parent / "nvidia_pytriton.libs", library_folder]
        if inherited := environment.get("LD_LIBRARY_PATH"):
            libraries.append(Path(inherited))
        environment["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
        # The stub embeds the first python3 on PATH, with its packages.
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
        runtime = Runtime(binary, _assemble_backends(root, backends), environment)
    if not runtime.backends.is_dir():
        raise NotServableError(f"{binary} has no backends beside it in {runtime.backends}")
    _check_runs(binary, environment, named.by if named else "Triton:")
    if "python" in runtime.backend_names():
        check_numpy(environment)
    return runtime


def _locate(named: Named | None) -> Path:
    if named is not None:
        path = named.tritonserver
        if not os.access(path, os.X_OK) or path.is_dir():
            raise NotServableError(f"{named.by} {path} is no program; {_GET_ANOTHER}")
        return path.absolute()
    if os.access(_CONTAINER_TRITON, os.X_OK):
        return _CONTAINER_TRITON
    # Importing pytriton would start much that isn't wanted; finding it is enough.
    spec = importlib.util.find_spec("pytriton")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "tritonserver" / "bin" / "tritonserver"
        if binary.is_file():
            return binary
    raise NotServableError(f"there is no Triton inference server here; {_GET_TRITON}")


def _check_runs(binary: Path, environment: Mapping[str, str], by: str) -> None:
    """Check that it is for this machine's processor and finds its libraries."""
    try:
        answer = _probe([str(binary), "--help"], environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotServableError(
            f"{by} {binary} doesn't run here: {error}; {_GET_ANOTHER}"
        ) from error
    if 0 <= answer.returncode < _CANNOT_RUN:
        return
    lines = answer.stderr.strip().splitlines() or [f"it ended with {answer.returncode}"]
    raise NotServableError(f"{by} {binary} doesn't run here: {lines[-1]}; {_GET_ANOTHER}")


def _probe(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PROBE_LIMIT_S,
        check=False,
    )


def find_libpython() -> Path:
    """Give the folder of the running Python's shared library, which the stub needs.

    Raises:
        NotServableError: it isn't installed; names the Debian package.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = folder / (sysconfig.get_config_var("MULTIARCH") or "")
    for candidate in (folder, multiarch):
        if (candidate / name).exists():
            return candidate
    if ctypes.util.find_library(f"python{version}"):
        return folder
    raise NotServableError(
        f"Triton's Python backend needs {name}, which isn't in {folder}; on Debian and Ubuntu: "
        f"apt-get install libpython{version}; a Python built from source needs --enable-shared"
    )


def _assemble_backends(root: Path, backends: Path) -> Path:
    """Link the Python backend and the stub for this Python into one folder."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        raise NotServableError(
            f"this Triton has no Python backend for Python {version} ({stub} is missing); "
            "run the agent on another Python"
        )
    sources = [*(root / "backends" / "python").iterdir(), stub]
    folder = backends / "python"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for source in sources:
        if source.is_file():
            (folder / source.name).symlink_to(source)
    return backends


def check_numpy(environment: Mapping[str, str]) -> None:
    """Check that the backend's interpreter has a numpy below 2.

    With numpy 2 the Python backend answers with empty tensors and reports no error.

    Raises:
        NotServableError: it has another, none, or doesn't run.
    """
    interpreter = shutil.which("python3", path=environment.get("PATH"))
    if interpreter is None:
        raise NotServableError("Triton's Python backend finds no python3 on PATH")
    try:
        answer = _probe([interpreter, "-c", "import numpy; print(numpy.__version__)"], environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotServableError(f"{interpreter}, Triton's Python, doesn't run: {error}") from error
    version = answer.stdout.strip()
    if answer.returncode != 0 or not version[:1].isdigit():
        lines = answer.stderr.strip().splitlines() or ["no output"]
        raise NotServableError(
            f"{interpreter}, Triton's Python, can't import numpy ({lines[-1]}); "
            f"{interpreter} -m pip install 'numpy<2'"
        )
    if int(version.partition(".")[0]) >= 2:
        raise NotServableError(
            f"{interpreter}, Triton's Python, has numpy {version}; with numpy 2 Triton's Python "
            "backend silently returns empty tensors, so Triton isn't started. "
            f"{interpreter} -m pip install 'numpy<2'"
        )
