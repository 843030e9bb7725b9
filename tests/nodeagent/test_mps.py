"""The MPS daemon of one GPU: started, adopted, started anew, given up, against a stand-in."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from paldia_nodeagent.devices.mps import Mps

from paldia.core.errors import UnavailableError
from tests.nodeagent.mps.install import StandIn

UUID = "GPU-aaaaaaaa-0000-0000-0000-000000000001"
PIPE, LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"


class Time:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def mps_of(
    stand_in: StandIn, tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Mps]]:
    """Makes supervisors, all on one folder."""
    for key, value in stand_in.environment().items():
        monkeypatch.setenv(key, value)
    made: list[Mps] = []

    def make(uuid: str = UUID, folder: Path = tmp_path / "mps", limit_s: float = 5.0) -> Mps:
        made.append(Mps(str(stand_in.program), folder, uuid, call_limit_s=limit_s, clock=clock))
        return made[-1]

    yield make
    for mps in made:
        mps.stop()
    assert not stand_in.running()


def daemon(stand_in: StandIn) -> psutil.Process:
    """Give the only daemon that runs."""
    (process,) = stand_in.running("nvidia-cuda-mps-control")
    return process


def tell(stand_in: StandIn, mps: Mps, command: str) -> None:
    subprocess.run(
        [stand_in.program],
        input=command,
        text=True,
        env=mps.environment(100),
        check=True,
        timeout=20,
    )


def test_it_is_started_for_its_card_and_ended(
    mps_of: Callable[..., Mps], stand_in: StandIn, tmp_path: Path
) -> None:
    mps = mps_of()
    mps.start()
    environment = mps.environment(100)
    told = daemon(stand_in).environ()
    assert environment["CUDA_VISIBLE_DEVICES"] == UUID
    assert {key: told[key] for key in environment} == environment
    assert (Path(environment[LOG]) / "control.log").read_text()
    mps.look_after()
    assert not mps.trouble
    assert len(stand_in.starts()) == 1
    mps.stop()
    assert not stand_in.running()
    assert not list((tmp_path / "mps").iterdir())
    assert not mps.running


@pytest.mark.parametrize(("percent", "told"), [(1, "1"), (99, "99"), (100, None)])
def test_a_share_is_a_limit_only_below_all(
    percent: int, told: str | None, mps_of: Callable[..., Mps]
) -> None:
    mps = mps_of()
    mps.start()
    assert mps.environment(percent).get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") == told


def test_a_process_is_held_to_its_memory(
    mps_of: Callable[..., Mps], stand_in: StandIn, tmp_path: Path
) -> None:
    mps = mps_of()
    mps.start()
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in mps.environment(100)
    held = Mps(str(stand_in.program), tmp_path / "mps", UUID, memory_limit_bytes=12 << 30)
    held.start()
    assert held.environment(30)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=12288M"


def test_the_next_agent_adopts_a_healthy_daemon(
    mps_of: Callable[..., Mps], stand_in: StandIn
) -> None:
    first = mps_of()
    first.start()
    tell(stand_in, first, "start_server -uid 0")
    pids = {process.pid for process in stand_in.running()}
    second = mps_of()
    second.start()
    assert second.environment(30) == first.environment(30)
    assert {process.pid for process in stand_in.running()} == pids
    assert len(stand_in.starts()) == 1


def test_the_next_agent_replaces_a_daemon_that_does_not_answer(
    mps_of: Callable[..., Mps], stand_in: StandIn
) -> None:
    first = mps_of()
    first.start()
    hung = daemon(stand_in)
    hung.suspend()
    second = mps_of(limit_s=2.0)
    second.start()
    assert not psutil.pid_exists(hung.pid) or hung.status() == psutil.STATUS_ZOMBIE
    assert second.environment(100)[PIPE] != first.environment(100)[PIPE]
    assert not Path(first.environment(100)[PIPE]).exists()


def test_the_next_agent_ends_the_daemon_of_another_card(
    mps_of: Callable[..., Mps], stand_in: StandIn
) -> None:
    mps_of().start()
    other = mps_of("GPU-other")
    other.start()
    assert daemon(stand_in).environ()["CUDA_VISIBLE_DEVICES"] == "GPU-other"


def test_the_daemon_of_another_agent_is_left_alone(
    mps_of: Callable[..., Mps], stand_in: StandIn, tmp_path: Path
) -> None:
    mps_of().start()
    beside = mps_of(folder=tmp_path / "beside")
    beside.start()
    assert len(stand_in.running("nvidia-cuda-mps-control")) == 2
    beside.stop()
    assert len(stand_in.running("nvidia-cuda-mps-control")) == 1


def test_after_a_fault_it_is_started_anew_elsewhere(
    mps_of: Callable[..., Mps], stand_in: StandIn, clock: Time
) -> None:
    mps = mps_of()
    mps.start()
    tell(stand_in, mps, "start_server -uid 0")
    before = mps.environment(100)
    killed = daemon(stand_in)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    clock.now_s += 5
    mps.look_after()
    assert "Cannot find MPS control daemon" in mps.trouble
    with pytest.raises(UnavailableError, match="Cannot find MPS"):
        mps.environment(100)
    # The orphaned server holds the card, and its clients are to leave.
    assert not stand_in.running()
    mps.look_after()
    assert not stand_in.running(), "it waits a little first"
    clock.now_s += 1
    mps.look_after()
    assert not mps.trouble
    assert mps.environment(100)[PIPE] != before[PIPE]
    assert daemon(stand_in).environ()[PIPE] == mps.environment(100)[PIPE]


def test_a_server_that_dies_is_a_fault(
    mps_of: Callable[..., Mps], stand_in: StandIn, clock: Time
) -> None:
    mps = mps_of()
    mps.start()
    tell(stand_in, mps, "start_server -uid 0")
    clock.now_s += 5
    mps.look_after()
    assert not mps.trouble
    (server,) = stand_in.running("nvidia-cuda-mps-server")
    server.kill()
    clock.now_s += 5
    mps.look_after()
    assert mps.trouble == f"its server {server.pid} died"
    clock.now_s += 1
    mps.look_after()
    assert mps.running


def test_a_daemon_that_hangs_is_killed_at_the_deadline(
    mps_of: Callable[..., Mps], stand_in: StandIn, clock: Time
) -> None:
    mps = mps_of()
    mps.start()
    daemon(stand_in).suspend()
    mps._call_limit_s = 0.3
    clock.now_s += 5
    mps.look_after()
    assert mps.trouble == "it didn't answer within 0.3 s"
    assert not stand_in.running()


def test_it_gives_up_after_six_failures_in_a_row_ever_further_apart(
    mps_of: Callable[..., Mps], stand_in: StandIn, clock: Time
) -> None:
    stand_in.refuse("Failed to start: insufficient privileges")
    mps = mps_of()
    mps.start()
    tries_s, began_s = [0.0], clock.now_s
    while not mps.gave_up:
        before = mps._next_s
        clock.now_s += 0.5
        mps.look_after()
        if mps._next_s != before:
            tries_s.append(clock.now_s - began_s)
        assert clock.now_s < 1000
    assert tries_s == [0, 1, 3, 7, 15, 31]
    assert mps.trouble == "it didn't start: Failed to start: insufficient privileges"
    (stand_in.folder / "refuse").unlink()
    clock.now_s += 1000
    mps.look_after()
    assert not stand_in.running()
    mps.replace("the GPU was away")
    clock.now_s += 1
    mps.look_after()
    assert mps.running


def test_what_ran_for_a_minute_has_recovered(
    mps_of: Callable[..., Mps], stand_in: StandIn, clock: Time
) -> None:
    mps = mps_of()
    mps.start()
    for _ in range(10):
        daemon(stand_in).kill()
        clock.now_s += 5
        mps.look_after()
        clock.now_s += 1
        mps.look_after()
        assert mps.running
        clock.now_s += 61
        mps.look_after()
    assert not mps.gave_up


def test_a_path_too_long_for_a_socket_is_told_with_the_cure(
    mps_of: Callable[..., Mps], tmp_path: Path
) -> None:
    mps = mps_of(folder=tmp_path / ("long" * 20))
    mps.start()
    assert not mps.running
    assert "--data-dir" in mps.trouble


def test_a_folder_that_cannot_be_made_is_a_failure_like_others(
    mps_of: Callable[..., Mps], tmp_path: Path, clock: Time
) -> None:
    blocked = tmp_path / "mps"
    blocked.write_text("in the way")
    mps = mps_of()
    mps.start()
    assert "Not a directory" in mps.trouble
    blocked.unlink()
    clock.now_s += 1
    mps.look_after()
    assert mps.running


def test_without_the_program_it_says_so(tmp_path: Path, clock: Time, stand_in: StandIn) -> None:
    mps = Mps(str(tmp_path / "missing"), tmp_path / "mps", UUID, clock=clock)
    mps.start()
    assert "No such file" in mps.trouble
    assert not os.listdir(tmp_path / "mps")
