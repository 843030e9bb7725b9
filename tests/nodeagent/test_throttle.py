from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from paldia_nodeagent.throttle import Throttle

STOPPED = psutil.STATUS_STOPPED


@pytest.fixture
def busy() -> Iterator[psutil.Process]:
    """A process group that would keep a core busy."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()


@pytest.fixture
def make_throttle() -> Iterator[Callable[[float], Throttle]]:
    """Makes throttles that end with the test."""
    throttles: list[Throttle] = []

    def make(slowdown: float) -> Throttle:
        throttles.append(Throttle(slowdown))
        return throttles[-1]

    yield make
    for throttle in throttles:
        throttle.stop()


def helper_of(pid: int) -> psutil.Process | None:
    """Find the duty cycle's process among a process's children."""
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "paldia_nodeagent.throttle" in child.cmdline():
                return child
    return None


def test_stops_and_goes_on_and_leaves_nothing_stopped(
    busy: psutil.Process, wait_until: Any, make_throttle: Any
) -> None:
    throttle = make_throttle(20)
    throttle.add(busy.pid)
    wait_until("it is stopped", lambda: busy.status() == STOPPED)
    wait_until("it goes on", lambda: busy.status() != STOPPED)
    throttle.remove(busy.pid)
    throttle.stop()
    assert busy.status() != STOPPED
    assert helper_of(os.getpid()) is None


def test_a_killed_helper_is_replaced(
    busy: psutil.Process, wait_until: Any, make_throttle: Any
) -> None:
    throttle = make_throttle(20)
    throttle.add(busy.pid)
    helper = wait_until("its helper", lambda: helper_of(os.getpid()))
    wait_until("it is stopped", lambda: busy.status() == STOPPED)
    helper.kill()
    helper.wait(5)
    throttle.check()
    wait_until("it goes on", lambda: busy.status() != STOPPED)
    wait_until("it is stopped again", lambda: busy.status() == STOPPED)
    throttle.stop()
    assert busy.status() != STOPPED


def test_nothing_stays_stopped_when_the_agent_is_killed(
    busy: psutil.Process, wait_until: Any
) -> None:
    code = (
        "import sys, time; from paldia_nodeagent.throttle import Throttle; "
        f"t = Throttle(20); t.add({busy.pid}); time.sleep(60)"
    )
    agent = subprocess.Popen([sys.executable, "-c", code])
    helper = wait_until("its helper", lambda: helper_of(agent.pid))
    wait_until("it is stopped", lambda: busy.status() == STOPPED)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    wait_until("the helper leaves", lambda: not helper.is_running() or helper.status() == "zombie")
    assert busy.status() != STOPPED


def test_no_slowdown_starts_nothing(busy: psutil.Process, make_throttle: Any) -> None:
    throttle = make_throttle(1)
    throttle.add(busy.pid)
    throttle.check()
    assert helper_of(os.getpid()) is None
