"""A model folder as one file with a checksum: how it travels and how it is kept.

The packed form is a tar archive with everything accidental left out (order, times,
owners), so equal folders have equal checksums wherever they are packed.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from paldia.core.errors import InvalidArgumentError, TooLargeError

DEFAULT_LIMIT_BYTES = 8 << 30
ENTRIES_LIMIT = 10_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
# What the file system says of names that are too long, or a file's and a folder's at once.
BAD_NAMES = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
_SKIPPED = {"__pycache__", ".git", ".DS_Store"}


def check_digest(digest: str) -> str:
    """Give the digest back if it is a SHA-256 in hex; it becomes part of a path.

    Raises:
        InvalidArgumentError: it isn't.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgumentError(f"{digest[:80]!r} is no SHA-256 checksum in hex")
    return digest


def digest_of(path: Path) -> str:
    """Give the SHA-256 of a packed model folder, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(folder: Path, target: BinaryIO) -> None:
    """Write the packed form of a model folder to `target`.

    Raises:
        InvalidArgumentError: the folder is missing, empty, has no numbered version
            folder, or holds something other than files and folders.
        TooLargeError: it holds too many files.
    """
    if not folder.is_dir():
        raise InvalidArgumentError(
            f"{folder} is no folder; give a model folder in Triton's layout, "
            "MODEL/[config.pbtxt]/VERSION/FILE"
        )
    paths = [path for path in _walk(folder) if not _SKIPPED & {*path.relative_to(folder).parts}]
    if not any(path.is_dir() and path.parent == folder and path.name.isdigit() for path in paths):
        raise InvalidArgumentError(
            f"{folder} has no version folder such as {folder.name}/1; Triton's layout is "
            "MODEL/[config.pbtxt]/VERSION/FILE"
        )
    if len(paths) > ENTRIES_LIMIT:
        raise TooLargeError(f"{folder} holds {len(paths)} files; the limit is {ENTRIES_LIMIT}")
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                info.size, info.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    archive.addfile(info, file)


def _walk(folder: Path) -> list[Path]:
    """List files and folders, links to files followed, in an order that is always the same."""
    found = sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix())
    for path in found:
        if not (path.is_dir() or path.is_file()) or (path.is_symlink() and path.is_dir()):
            raise InvalidArgumentError(f"{path} is neither a file nor a folder; remove it")
    return found


def unpack(packed: Path, folder: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
    """Extract a packed model folder into `folder`, which must not exist; all or nothing.

    Check the digest first: an archive cut before a file or in its header still reads as whole.

    Raises:
        InvalidArgumentError: it is no such archive, or names files outside the folder.
        TooLargeError: what it holds is over `limit_bytes`.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _extract(packed, partial, limit_bytes)
        partial.rename(folder)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InvalidArgumentError(f"not a packed model folder: {error}") from error
    except OSError as error:
        if error.errno in BAD_NAMES:
            raise InvalidArgumentError(f"not a packed model folder: {error}") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(packed: Path, folder: Path, limit_bytes: int) -> None:
    with tarfile.open(packed, mode="r:") as archive:
        extract(archive, folder, limit_bytes)


def extract(archive: tarfile.TarFile, folder: Path, limit_bytes: int) -> None:
    """Extract an open archive of plain files and folders into `folder`.

    Raises:
        InvalidArgumentError: it is empty, or holds something else.
        TooLargeError: what it holds is over `limit_bytes`, or too many files.
        tarfile.TarError: it is damaged, or names files outside the folder.
    """
    size_bytes = 0
    for count, member in enumerate(archive):
        size_bytes += member.size
        if count >= ENTRIES_LIMIT or size_bytes > limit_bytes:
            raise TooLargeError(
                f"the model folder is over its limit of {ENTRIES_LIMIT} files or "
                f"{limit_bytes} bytes"
            )
        if not (member.isfile() or member.isdir()):
            raise InvalidArgumentError(f"{member.name} in the artifact is no plain file")
    if not archive.getmembers():
        raise InvalidArgumentError("not a packed model folder: it is empty")
    archive.extractall(folder, filter="data")
