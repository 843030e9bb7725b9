"""The MPS control daemon of one GPU, supervised.

It outlives the agent. Its processes carry their pipe directory in their environment, which
is all the record there is: an agent started again finds them by it, adopts a healthy
daemon and ends any other. A daemon that is replaced gets a new pipe directory, so what is
attached to the old one can be told by its environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from paldia.core.errors import UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent import processes

PROGRAM = "nvidia-cuda-mps-control"
_FAMILY = "nvidia-cuda-mps"
_PIPE, _LOG, _CARDS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES"
_ALL_SMS = 100
_CHECK_EVERY_S = 2.0
_CALL_LIMIT_S = 5.0
_DEATH_LIMIT_S = 5.0
_POLL_S = 0.05
_BACKOFF_FIRST_S = 1.0
_BACKOFF_MOST_S = 30.0
_FAILURES_MOST = 5
# Up for so long, it has recovered: the next failure is the first again.
_STABLE_S = 60.0
_LOG_MOST_BYTES = 8 << 20
# A Unix socket's path holds 107 bytes; the longest name in a pipe directory takes 20 of them.
_PIPE_PATH_MOST = 87


class Mps:
    """The daemon of one card."""

    def __init__(
        self,
        program: str,
        folder: Path,
        uuid: str,
        *,
        memory_limit_bytes: int = 0,
        call_limit_s: float = _CALL_LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Do nothing yet. `folder` is for its directories alone.

        A process may take `memory_limit_bytes` of the card's memory, 0 for all of it; a call to
        the daemon has `call_limit_s` seconds.
        """
        self._program = program
        self._folder = folder
        self._uuid = uuid
        self._memory_limit_bytes = memory_limit_bytes
        self._call_limit_s = call_limit_s
        self._clock = clock
        self._run: Path | None = None
        self._servers: set[int] = set()
        self._failures = 0
        self._next_s = 0.0
        self._up_since_s = 0.0
        self.trouble = ""
        """What went wrong last; empty while all is well."""
        self.gave_up = False
        """Whether it failed too often in a row to be started again."""

    @property
    def running(self) -> bool:
        """Whether it can be attached to."""
        return self._run is not None

    def environment(self, sm_percent: int) -> dict[str, str]:
        """Give what attaches a process to it, held to a share of the SMs.

        Raises:
            UnavailableError: it is being started anew.
        """
        run = self._run
        if run is None:
            raise UnavailableError(f"NVIDIA MPS is being started anew: {self.trouble}")
        limits = {}
        if sm_percent < _ALL_SMS:
            limits["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(sm_percent)
        if self._memory_limit_bytes:
            # Of the first card that it sees, which is its only one.
            limits["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={self._memory_limit_bytes >> 20}M"
        return self._directories(run) | limits

    def _directories(self, run: Path) -> dict[str, str]:
        return {_CARDS: self._uuid, _PIPE: str(run / "pipe"), _LOG: str(run / "log")}

    def start(self) -> None:
        """Adopt the healthy daemon that an earlier agent left, or start one; end all others."""
        for run in sorted({path for path, cards in self._left() if cards == self._uuid}):
            if not self._fault(run):
                self._run = run
                logger().info("mps.adopted", gpu=self._uuid, folder=str(run))
                break
        self._sweep()
        if self._run is None:
            self._begin()
        self._up_since_s = self._clock()

    def look_after(self) -> None:
        """Check its health if that is due; after a fault start it anew, ever more slowly."""
        now_s = self._clock()
        if self.gave_up or now_s < self._next_s:
            return
        self._next_s = now_s + _CHECK_EVERY_S
        if self._run is None:
            self._begin()
        elif fault := self._fault(self._run):
            self._fail(fault)
        else:
            _trim_logs(self._run / "log")
            if now_s - self._up_since_s > _STABLE_S:
                self._failures = 0

    def replace(self, why: str) -> None:
        """Start it anew, whatever failed before, since what it stands on was away."""
        self._failures, self.gave_up = 0, False
        self._fail(why)

    def stop(self) -> None:
        """End it, in order if it still listens, and remove what it leaves behind."""
        if self._run is not None:
            with contextlib.suppress(UnavailableError):
                self._tell(self._run, "quit")
        self._run = None
        self._sweep()

    def _begin(self) -> None:
        run = self._folder / secrets.token_hex(3)
        environment = self._directories(run)
        said = run / "said"
        try:
            (run / "pipe").mkdir(parents=True)
            (run / "log").mkdir()
            if len(os.fsencode(environment[_PIPE])) > _PIPE_PATH_MOST:
                raise UnavailableError(
                    f"{environment[_PIPE]} is too long for a socket; give the agent a --data-dir "
                    "with a shorter path"
                )
            with said.open("wb") as output:
                # A file, since the daemon may hold on to what it is given.
                subprocess.run(
                    [self._program, "-d"],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    timeout=self._call_limit_s,
                    check=True,
                )
            self._await_answer(run)
        except (OSError, subprocess.SubprocessError, UnavailableError) as error:
            words = said.read_text(errors="replace").strip() if said.is_file() else ""
            self._fail(f"it didn't start: {words.splitlines()[-1] if words else error}")
            return
        self._run, self.trouble = run, ""
        self._up_since_s = self._clock()
        logger().info("mps.started", gpu=self._uuid, folder=str(run))

    def _await_answer(self, run: Path) -> None:
        end_s = time.monotonic() + self._call_limit_s
        while fault := self._fault(run):
            if time.monotonic() > end_s:
                raise UnavailableError(fault)
            time.sleep(_POLL_S)

    def _fault(self, run: Path) -> str:
        """Say what is wrong with the daemon of a run; empty if nothing is."""
        try:
            answer = self._tell(run, "get_server_list")
        except UnavailableError as error:
            return str(error)
        words = answer.split()
        if not all(word.isdigit() for word in words):
            return f"get_server_list gave {answer.strip()[:200]!r}"
        servers = set(map(int, words))
        if gone := self._servers - servers:
            # A server stays while its daemon does, and its clients are lost with it.
            return f"its server {min(gone)} died"
        self._servers = servers
        return ""

    def _tell(self, run: Path, command: str) -> str:
        """Give the daemon of a run a command and return its answer.

        Raises:
            UnavailableError: it refused, or didn't answer in time.
        """
        try:
            answer = subprocess.run(
                [self._program],
                env={**os.environ, **self._directories(run)},
                input=f"{command}\n",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._call_limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"it didn't answer within {self._call_limit_s:g} s") from error
        except OSError as error:
            raise UnavailableError(f"{self._program} doesn't run: {error.strerror}") from error
        if answer.returncode != 0:
            words = (answer.stderr or answer.stdout).strip() or f"exit code {answer.returncode}"
            raise UnavailableError(words.splitlines()[-1])
        return answer.stdout

    def _fail(self, why: str) -> None:
        """End what is left of it; let it be started anew after a while, or give up."""
        self._run = None
        self._sweep()
        self._servers = set()
        self.trouble = why
        self.gave_up = self._failures >= _FAILURES_MOST
        wait_s = min(_BACKOFF_FIRST_S * 2**self._failures, _BACKOFF_MOST_S)
        self._next_s = self._clock() + wait_s
        self._failures += 1
        logger().error("mps.failed", gpu=self._uuid, why=why, gave_up=self.gave_up)

    def _left(self) -> list[tuple[Path, str]]:
        """List the daemons in its folder: where each has its directories, and its cards."""
        return [(run, cards) for process, run, cards in find(self._folder) if _is_daemon(process)]

    def _sweep(self) -> None:
        """End every process of MPS in its folder but the one in use, and remove their files."""
        doomed = [process for process, run, _ in find(self._folder) if run != self._run]
        for process in doomed:
            with contextlib.suppress(psutil.Error):
                process.kill()
        end_s = time.monotonic() + _DEATH_LIMIT_S
        while any(processes.started_ticks(process.pid) is not None for process in doomed):
            if time.monotonic() > end_s:
                logger().error("mps.unkillable", pids=[process.pid for process in doomed])
                break
            time.sleep(_POLL_S)
        for run in self._folder.glob("*/"):
            if run != self._run:
                shutil.rmtree(run, ignore_errors=True)


def find(folder: Path) -> list[tuple[psutil.Process, Path, str]]:
    """List the processes of MPS with a pipe directory in `folder`: where that is, their cards."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        # The second word is the program where an interpreter runs it.
        words = (process.info["cmdline"] or [])[:2]
        if not any(Path(word).name.startswith(_FAMILY) for word in words):
            continue
        with contextlib.suppress(psutil.Error):
            environment: Mapping[str, str] = process.environ()
            run = Path(environment.get(_PIPE, "")).parent
            if run.parent == folder:
                found.append((process, run, environment.get(_CARDS, "")))
    return found


def _trim_logs(folder: Path) -> None:
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            if path.stat().st_size > _LOG_MOST_BYTES:
                os.truncate(path, 0)


def _is_daemon(process: psutil.Process) -> bool:
    return any(Path(word).name == PROGRAM for word in process.info["cmdline"][:2])
