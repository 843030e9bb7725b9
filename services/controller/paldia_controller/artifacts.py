"""Packed model folders on the controller's disk, by checksum."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from paldia.api.artifact import DEFAULT_LIMIT_BYTES, check_digest
from paldia.api.v1 import control_pb2
from paldia.core.errors import InvalidArgumentError, NotFoundError, TooLargeError
from paldia.kit.rpc import CHUNK_BYTES


class Artifacts:
    """A folder of packed models. A file that is there is whole: it came by a rename."""

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.partial"):
            leftover.unlink()

    def has(self, digest: str) -> bool:
        """Whether an artifact is here."""
        return (self._folder / check_digest(digest)).is_file()

    def refresh(self, digest: str) -> None:
        """Make an artifact count as stored just now, for it is about to be used.

        Raises:
            NotFoundError: it isn't here.
        """
        try:
            os.utime(self._folder / check_digest(digest))
        except FileNotFoundError as error:
            raise NotFoundError.of("artifact", digest) from error

    def stored_before(self, wall_s: float) -> set[str]:
        """Give the artifacts stored before a time, in seconds since 1970."""
        whole = (path for path in self._folder.iterdir() if path.suffix != ".partial")
        return {path.name for path in whole if path.stat().st_mtime < wall_s}

    def remove(self, digest: str) -> None:
        """Delete an artifact; a transfer of it that is under way goes on."""
        (self._folder / check_digest(digest)).unlink(missing_ok=True)

    async def receive(self, pieces: AsyncIterator[control_pb2.UploadArtifactRequest]) -> str:
        """Store an upload under its checksum; nothing of it is kept if it breaks off.

        Raises:
            InvalidArgumentError: it is cut short, too long, or has another checksum.
            TooLargeError: it is over the limit.
        """
        first = await anext(aiter(pieces), None)
        if first is None:
            raise InvalidArgumentError("the upload is empty")
        digest, size_bytes = check_digest(first.digest), first.size_bytes
        if size_bytes > self._limit_bytes:
            raise TooLargeError(
                f"the model folder has {size_bytes} bytes; the limit is {self._limit_bytes}"
            )
        partial = self._folder / f"{digest}-{uuid.uuid4().hex}.partial"
        try:
            await self._write(partial, first, pieces)
            partial.replace(self._folder / digest)
        finally:
            partial.unlink(missing_ok=True)
        return digest

    async def _write(
        self,
        partial: Path,
        first: control_pb2.UploadArtifactRequest,
        pieces: AsyncIterator[control_pb2.UploadArtifactRequest],
    ) -> None:
        hasher, written = hashlib.sha256(), 0
        with partial.open("xb") as file:
            piece: control_pb2.UploadArtifactRequest | None = first
            while piece is not None:
                written += len(piece.chunk)
                if written > first.size_bytes:
                    raise InvalidArgumentError(
                        f"the upload is longer than the {first.size_bytes} bytes announced"
                    )
                hasher.update(piece.chunk)
                await asyncio.to_thread(file.write, piece.chunk)
                piece = await anext(pieces, None)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        if written < first.size_bytes:
            raise InvalidArgumentError(
                f"the upload broke off after {written} of {first.size_bytes} bytes"
            )
        if hasher.hexdigest() != first.digest:
            raise InvalidArgumentError(
                "the upload does not have the checksum announced; it was damaged on its way"
            )

    async def send(self, digest: str) -> AsyncIterator[bytes]:
        """Give an artifact in pieces.

        Raises:
            NotFoundError: it isn't here.
        """
        if not self.has(digest):
            raise NotFoundError.of("artifact", digest)
        with (self._folder / digest).open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
