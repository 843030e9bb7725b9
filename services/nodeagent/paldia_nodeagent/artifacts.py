"""Model folders by checksum, fetched from the controller once.

A folder appears under its checksum whole and checked, or not at all. What an earlier
agent left is checked again on its first use, so a damaged copy is fetched anew.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import shutil
from collections.abc import AsyncIterator, Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING

from paldia.api import artifact
from paldia.core.errors import InternalError, PaldiaError, TooLargeError, UnavailableError
from paldia.kit.observability import logger

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

CACHE_LIMIT_BYTES = 64 << 30
_DIGEST_LENGTH = 64
# The disk is full, or its owner may have no more of it.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ArtifactCache:
    """A bounded folder of unpacked artifacts."""

    def __init__(
        self,
        folder: Path,
        fetch: Callable[[str], AsyncIterator[bytes]],
        *,
        limit_bytes: int = CACHE_LIMIT_BYTES,
    ) -> None:
        """Keep artifacts in `folder`; `fetch` gives the packed pieces of a checksum."""
        self._folder = folder
        self._fetch = fetch
        self._limit_bytes = limit_bytes
        self._checked: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        self._tasks: dict[str, asyncio.Task[Path]] = {}
        for leftover in folder.glob("*.partial"):
            _remove(leftover)

    async def obtain(self, digest: str) -> Path:
        """Give the unpacked folder of an artifact, fetching it if need be.

        Raises:
            InvalidArgumentError: `digest` is no checksum, or the artifact no model folder.
            InternalError: what came has another checksum.
            UnavailableError: the controller can't be reached, or there is no room for it.
            PaldiaError: the controller refused.
        """
        artifact.check_digest(digest)
        task = self._tasks.get(digest)
        if task is None:
            task = self._tasks[digest] = asyncio.create_task(self._obtain(digest))
            task.add_done_callback(lambda _: self._tasks.pop(digest))
        # It goes on without its caller: a thread that unpacks can't be stopped, and the
        # next caller must not unpack beside it.
        return await asyncio.shield(task)

    async def _obtain(self, digest: str) -> Path:
        folder = self._folder / digest
        unchecked = folder.is_dir() and digest not in self._checked
        if unchecked and not await asyncio.to_thread(_is_intact, folder, digest):
            logger().warning("artifact.damaged", digest=digest)
            await asyncio.to_thread(_remove, folder)
        if not folder.is_dir():
            await self._download(digest, folder)
        self._checked.add(digest)
        # The cache drops what was used least recently.
        folder.touch()
        return folder

    async def _download(self, digest: str, folder: Path) -> None:
        packed = folder.with_name(f"{digest}.tar.partial")
        hasher = hashlib.sha256()
        size_bytes = 0
        try:
            with packed.open("wb") as file:
                async for chunk in self._fetch(digest):
                    size_bytes += len(chunk)
                    if size_bytes > artifact.DEFAULT_LIMIT_BYTES:
                        raise TooLargeError(
                            f"the artifact is over the limit of {artifact.DEFAULT_LIMIT_BYTES} "
                            "bytes"
                        )
                    hasher.update(chunk)
                    file.write(chunk)
            if hasher.hexdigest() != digest:
                raise InternalError(
                    f"the artifact came damaged: its checksum is {hasher.hexdigest()}, not {digest}"
                )
            await asyncio.to_thread(artifact.unpack, packed, folder)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            packed.unlink(missing_ok=True)
            # The next try may find room where what nobody wants has been.
            await asyncio.to_thread(self._trim, 0)
            raise UnavailableError(
                f"the agent's data folder has no room for the model ({error.strerror}); make "
                "some, or move it (--data-dir) to a larger disk"
            ) from error
        finally:
            packed.unlink(missing_ok=True)
        logger().info("artifact.fetched", digest=digest, size_bytes=size_bytes)
        await asyncio.to_thread(self._trim, self._limit_bytes)

    def keep(self, digests: Set[str]) -> None:
        """Say which artifacts are in use or wanted, and must stay."""
        self._kept = frozenset(digests)

    def _trim(self, limit_bytes: int) -> None:
        """Over a limit, remove the artifacts unused for longest."""
        folders = sorted(
            (path for path in self._folder.iterdir() if len(path.name) == _DIGEST_LENGTH),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: _size_bytes(path) for path in folders}
        total_bytes = sum(sizes.values())
        for folder in folders:
            if total_bytes > limit_bytes and folder.name not in self._kept:
                _remove(folder)
                total_bytes -= sizes[folder]
                logger().info("artifact.removed", digest=folder.name)


class _Checksum(io.BytesIO):
    """A file to write to, of which only the checksum is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256 = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: Buffer, /) -> int:
        self.sha256.update(data)
        size_bytes = memoryview(data).nbytes
        self._size_bytes += size_bytes
        return size_bytes

    def tell(self) -> int:
        return self._size_bytes


def _is_intact(folder: Path, digest: str) -> bool:
    """Pack the folder again, keeping the checksum alone, and compare."""
    packed = _Checksum()
    try:
        artifact.pack(folder, packed)
    except (PaldiaError, OSError):
        return False
    return packed.sha256.hexdigest() == digest


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
