"""Child processes: how they end, and that they always do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from paldia.cli.children import Child, Spawner, end
from paldia.core.errors import ExpiredError, UnavailableError

LIMIT_S = 20.0
Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Give a function that starts a Python program; it serves once it has printed something."""
    spawner, children = Spawner(), []

    def start(program: str) -> Child:
        log = tmp_path / "log"
        child = Child(
            "thing",
            [sys.executable, "-c", program],
            log,
            lambda: {"said": log.read_text()} if log.read_text() else None,
        )
        spawner.start(child)
        children.append(child)
        return child

    yield start
    end(children, 0)
    spawner.finish()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def soon() -> float:
    return time.monotonic() + LIMIT_S


def test_a_child_runs_in_a_group_of_its_own_and_its_facts_come_back(start: Start):
    child = start("import time; print('hello'); time.sleep(60)")
    assert child.wait_ready(soon())["said"] == "hello\n"
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    end([child], LIMIT_S)
    assert child.exit_code() == -signal.SIGTERM


def test_a_child_that_ends_instead_of_serving_is_quoted(start: Start, tmp_path: Path):
    child = start("import sys; sys.exit('paldia-thing: the port is taken')")
    child.probe = lambda: None
    with pytest.raises(UnavailableError) as failed:
        child.wait_ready(soon())
    said = f"thing ended with code 1: paldia-thing: the port is taken (log: {tmp_path / 'log'})"
    assert str(failed.value) == said


def test_one_that_dies_of_something_else_shows_the_end_of_its_log(start: Start):
    child = start("import os; print('line', flush=True); os.kill(os.getpid(), 9)")
    assert until(lambda: child.exit_code() is not None)
    assert child.epitaph() == "thing ended by SIGKILL; its last lines:\nline"


def test_waiting_for_a_child_to_serve_has_an_end(start: Start):
    child = start("import time; time.sleep(60)")
    with pytest.raises(ExpiredError, match="thing doesn't serve in time"):
        child.wait_ready(time.monotonic() + 0.1)


def test_a_child_that_will_not_end_is_killed(start: Start):
    child = start(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1); "
        "time.sleep(60)"
    )
    child.wait_ready(soon())
    end([child], 0.1)
    assert child.exit_code() == -signal.SIGKILL


def test_a_stopped_child_ends_too(start: Start):
    child = start("import time; print(1); time.sleep(60)")
    child.wait_ready(soon())
    child.signal(signal.SIGSTOP)
    assert until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
    end([child], LIMIT_S)
    assert child.exit_code() == -signal.SIGTERM


def test_a_child_outlives_the_thread_that_asked_for_it(start: Start):
    program = (
        "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: print('alive', flush=True));"
        "print('started', flush=True)\nwhile True: time.sleep(60)"
    )
    made: list[Child] = []

    def ask() -> None:
        made.append(start(program))
        made[0].wait_ready(soon())

    asker = threading.Thread(target=ask)
    asker.start()
    asker.join()
    task = Path("/proc/self/task", str(asker.native_id))
    assert until(lambda: not task.exists())
    made[0].signal(signal.SIGUSR1)
    assert until(lambda: made[0].exit_code() is not None or "alive" in made[0].tail())
    assert made[0].exit_code() is None


PARENT = """
import sys, time
from pathlib import Path
from paldia.cli.children import Child, Spawner
log = Path(sys.argv[1])
program = "import time; print('started', flush=True); time.sleep(60)"
child = Child("thing", [sys.executable, "-c", program], log, lambda: log.read_text() or None)
spawner = Spawner()
spawner.start(child)
child.wait_ready(time.monotonic() + 20)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_its_parent(tmp_path: Path, signum: int):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.send_signal(signum)
    parent.wait(LIMIT_S)
    assert until(lambda: gone(pid))
    parent.stdout.close()
