"""Running the command in this process, and a controller for it to talk to."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from paldia.cli.children import Child, Spawner, end, ready_file
from paldia.cli.main import main


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def paldia(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ran]]:
    """Give a function that runs `paldia ARGUMENT...`."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["paldia", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        captured = capsys.readouterr()
        return Ran(code if isinstance(code, int) else int(bool(code)), captured.out, captured.err)

    yield run
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a controller without nodes."""
    folder = tmp_path_factory.mktemp("controller")
    ready = folder / "ready.json"
    command = [
        *(str(Path(sys.executable).with_name("paldia-controller")), "--bind", "127.0.0.1:0"),
        *("--data-dir", str(folder / "data"), "--ready-file", str(ready)),
    ]
    child, spawner = Child("controller", command, folder / "log", ready_file(ready)), Spawner()
    spawner.start(child)
    yield child.wait_ready(time.monotonic() + 20)["grpc"]
    end([child], 20)
    spawner.finish()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    version = tmp_path / "doubler" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("# doubles\n")
    return version.parent
