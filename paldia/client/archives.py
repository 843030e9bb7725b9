"""Archives of strangers, unpacked: plain files below one folder, and no more than a limit."""

from __future__ import annotations

import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from paldia.api import artifact
from paldia.core.errors import InvalidArgumentError, TooLargeError

_CHUNK_BYTES = 1 << 20

OnBytes = Callable[[int, int | None], None]
"""Told the bytes that have come, and how many there are in all if that is known."""


class Budget:
    """Counts what is written against a limit, whatever sizes were announced."""

    def __init__(self, limit_bytes: int, on_bytes: OnBytes, total_bytes: int | None = None) -> None:
        self._limit_bytes, self._on_bytes, self._total_bytes = limit_bytes, on_bytes, total_bytes
        self._done_bytes = 0
        self.check(total_bytes or 0)

    def check(self, size_bytes: int) -> None:
        """Refuse what is over the limit."""
        if size_bytes > self._limit_bytes:
            raise TooLargeError(f"the model is over the limit of {self._limit_bytes} bytes")

    def copy(self, source: Any, target: Path) -> str:
        """Write a stream to a new file; give its SHA-256 in hex."""
        hasher = hashlib.sha256()
        with target.open("xb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                self._done_bytes += len(chunk)
                self.check(self._done_bytes)
                hasher.update(chunk)
                file.write(chunk)
                self._on_bytes(self._done_bytes, self._total_bytes)
        return hasher.hexdigest()


def inside(name: str) -> PurePosixPath:
    """Give a name as a path below a folder.

    Raises:
        InvalidArgumentError: it leads out of it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise InvalidArgumentError(f"{name[:200]!r} leads out of the model's folder")
    return path


def unpack(archive: Path, target: Path, limit_bytes: int) -> Path:
    """Unpack a .zip or .tar, compressed or not, into the new folder `target`.

    Gives the model folder, which is the archive's root or stands alone in it.

    Raises:
        InvalidArgumentError: it is no such archive, or holds what isn't a plain file below it.
        TooLargeError: it holds too much.
    """
    target.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                _unpack_zip(packed, target, limit_bytes)
        else:
            with archive.open("rb") as source:
                _unpack_tar(source, target, limit_bytes)
    except OSError as error:
        if error.errno not in artifact.BAD_NAMES:
            raise
        raise InvalidArgumentError(f"the archive can't be unpacked: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InvalidArgumentError(f"the archive can't be read: {error}") from error
    archive.unlink()
    inside = [*target.iterdir()]
    alone = len(inside) == 1 and inside[0].is_dir() and not inside[0].name.isdigit()
    return inside[0] if alone else target


def _unpack_zip(packed: zipfile.ZipFile, target: Path, limit_bytes: int) -> None:
    members = packed.infolist()
    if len(members) > artifact.ENTRIES_LIMIT:
        raise TooLargeError(f"the archive holds more than {artifact.ENTRIES_LIMIT} files")
    budget = Budget(limit_bytes, lambda done, total: None, sum(it.file_size for it in members))
    for member in members:
        path = target / inside(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InvalidArgumentError(f"{member.filename} in the archive is no plain file")
        if member.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(member) as source:
            budget.copy(source, path)


def _unpack_tar(source: BinaryIO, target: Path, limit_bytes: int) -> None:
    with tarfile.open(fileobj=source, mode="r:*") as packed:
        artifact.extract(packed, target, limit_bytes)
        # Cut off between files it would still read as whole, but for the zeros at its end.
        stream = packed.fileobj
        if stream is not None:
            stream.seek(packed.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it was cut off")
