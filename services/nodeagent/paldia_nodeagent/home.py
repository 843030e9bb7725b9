"""The agent's data folder: one agent at a time, and everything it writes.

agent.lock   held while an agent runs here
identity     a random token; names the agent's processes and shared memory
artifacts/   model folders by checksum
backends/    backend folders for the Triton found
runs/        a folder for each Triton process
logs/        what the Tritons wrote
mps/         directories of the MPS daemons, and the compute mode they changed
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from paldia.core.errors import InvalidArgumentError, UnavailableError
from paldia.kit.files import replace_text

_LOGS_MOST = 64


class Home:
    """An agent's own data folder, locked against a second agent."""

    def __init__(self, folder: Path) -> None:
        """Create and lock `folder`.

        Raises:
            InvalidArgumentError: it can't be created or written.
            UnavailableError: another agent uses it.
        """
        self.folder = folder.absolute()
        self.artifacts = self.folder / "artifacts"
        self.backends = self.folder / "backends"
        self.runs = self.folder / "runs"
        self.logs = self.folder / "logs"
        self.mps = self.folder / "mps"
        try:
            for part in (self.artifacts, self.runs, self.logs):
                part.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InvalidArgumentError(
                f"can't use {self.folder} as --data-dir: {error.strerror}"
            ) from error
        self._take_lock()
        self.token = self._identity()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._lock, 32, 0).decode().strip()
            os.close(self._lock)
            raise UnavailableError(
                f"another node agent (pid {holder}) runs in {self.folder}; stop it, or give "
                "this one a --data-dir of its own"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _identity(self) -> str:
        """Give this folder's token.

        It is random, not made from the path: containers may share /dev/shm and have
        equal paths.
        """
        path = self.folder / "identity"
        if not path.is_file() or not path.read_text().strip().isalnum():
            replace_text(path, secrets.token_hex(6))
        return path.read_text().strip()

    def log_path(self, model: str, digest: str, run: str) -> Path:
        """Give the log file of a run of an artifact's Triton; the oldest of too many logs go."""
        logs = sorted(self.logs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[_LOGS_MOST:]:
            path.unlink(missing_ok=True)
        return self.logs / f"{model}-{digest[:12]}-{run}.log"

    def close(self) -> None:
        """Let another agent use the folder."""
        os.close(self._lock)
