"""A model folder from wherever a URL says, onto this machine, before it is packed and sent.

`s3://`, `gs://` and `file://` name a folder or an archive, `http(s)://` an archive: .zip,
.tar or .tar.gz, with `#sha256=HEX` checked if it stands there. What comes is not trusted:
names stay inside the folder, only plain files are taken, and bytes and files are counted.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from paldia.api import artifact
from paldia.client.archives import Budget, OnBytes, inside, unpack
from paldia.core.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PaldiaError,
    TooLargeError,
    UnavailableError,
)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
_SCHEMES = ("s3", "gs", "gcs", "http", "https", "file")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_CONNECT_LIMIT_S = 15.0
_STALL_LIMIT_S = 60.0


def is_url(source: Path | str) -> bool:
    """Whether a deploy's source is a URL and no path."""
    return isinstance(source, str) and _URL.match(source) is not None


def name_of(url: str) -> str:
    """Give the name of the folder or archive that a URL ends in.

    Raises:
        InvalidArgumentError: it ends in none.
    """
    name = _parts(url)[-1]
    for suffix in sorted(_ARCHIVES, key=len, reverse=True):
        name = name.removesuffix(suffix)
    return name


def fetch(
    url: str,
    scratch: Path,
    on_bytes: OnBytes,
    *,
    limit_bytes: int = artifact.DEFAULT_LIMIT_BYTES,
) -> Path:
    """Give the model folder that a URL names, fetched into the empty folder `scratch`.

    Raises:
        InvalidArgumentError: the URL or what it names is no model folder, or unsafe.
        NotFoundError: nothing is there.
        TooLargeError: it is over `limit_bytes`, or this machine has no room for it.
        InternalError: its checksum is another than the URL says.
        UnavailableError: it can't be reached.
    """
    split, parts = urlsplit(url), _parts(url)
    checksum = _checksum(split)
    packed = parts[-1].endswith(_ARCHIVES)
    if checksum and not packed:
        raise InvalidArgumentError(f"{_told(split)}: a checksum goes with an archive only")
    if split.scheme == "file" and not packed:
        return Path(unquote(split.path))
    if split.scheme.startswith("http") and not packed:
        raise InvalidArgumentError(
            f"{_told(split)}: an http(s) URL can't name a folder; name an archive, one of "
            f"{', '.join(_ARCHIVES)}"
        )
    target = scratch / "model"
    with _failures(split, scratch):
        files = _file_system(split)
        place = url.partition("#")[0]
        if not packed:
            _fetch_folder(files, place, target, limit_bytes, on_bytes)
            return target
        archive = scratch / "archive"
        size_bytes = files.info(place)["size"]
        # Read from front to back, so nothing need be asked for in pieces.
        streamed = {"block_size": 0, "size": size_bytes} if split.scheme.startswith("http") else {}
        with files.open(place, "rb", **streamed) as source:
            digest = Budget(limit_bytes, on_bytes, size_bytes).copy(source, archive)
        if checksum and digest != checksum:
            raise InternalError(
                f"{_told(split)} came with the checksum {digest}, not {checksum}; it was changed "
                "or damaged"
            )
        return unpack(archive, target, limit_bytes)


def _parts(url: str) -> list[str]:
    """Give the parts of a URL's path, checked."""
    split = urlsplit(url)
    if split.scheme not in _SCHEMES:
        raise InvalidArgumentError(
            f"{split.scheme}:// is no source of models; there are "
            f"{', '.join(f'{scheme}://' for scheme in _SCHEMES)} and local folders"
        )
    parts = [part for part in unquote(split.path).split("/") if part]
    if "::" in url or ".." in parts or "\0" in "".join(parts):
        raise InvalidArgumentError(f"{_told(split)} leads out of where it begins; write it plainly")
    if not parts:
        raise InvalidArgumentError(f"{_told(split)} names no folder and no archive")
    return parts


def _checksum(split: SplitResult) -> str:
    if not split.fragment:
        return ""
    kind, _, value = split.fragment.partition("=")
    if kind != "sha256":
        raise InvalidArgumentError(f"#{kind} isn't known; write #sha256=HEX after an archive")
    return artifact.check_digest(value.lower())


def _told(split: SplitResult) -> str:
    """Give a URL as it may be shown: without secrets that its query or user may hold."""
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}"


def _without_queries(error: BaseException) -> str:
    return re.sub(r"\?[^\s'\"]*", "", str(error))


def _file_system(split: SplitResult) -> Any:
    # Slow to import, and of use to few deploys.
    import fsspec  # noqa: PLC0415

    options: dict[str, Any] = {}
    if split.scheme.startswith("http"):
        import aiohttp  # noqa: PLC0415

        options["client_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_LIMIT_S, sock_read=_STALL_LIMIT_S
            )
        }
    try:
        return fsspec.filesystem(split.scheme, **options)
    except ImportError as error:
        extra = _EXTRAS.get(split.scheme, "")
        raise InvalidArgumentError(
            f"{split.scheme}:// needs a package that isn't installed: pip install 'paldia[{extra}]'"
        ) from error


@contextmanager
def _failures(split: SplitResult, scratch: Path) -> Iterator[None]:
    """Turn what file systems raise, each its own, into errors that say what to do."""
    try:
        yield
    except PaldiaError:
        raise
    except FileNotFoundError as error:
        # Whatever goes wrong over HTTP is raised as this, with the answer as its cause.
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError | None) or getattr(cause, "status", 0) in (404, 410):
            raise NotFoundError(f"there is nothing at {_told(split)}") from error
        raise UnavailableError(f"can't fetch {_told(split)}: {_without_queries(cause)}") from error
    except PermissionError as error:
        raise InvalidArgumentError(
            f"{_told(split)} may not be read with this machine's credentials: "
            f"{_without_queries(error)}"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TooLargeError(
                f"there is no room for {_told(split)} in {scratch.parent} ({error.strerror}); "
                "make some, or name another folder in TMPDIR"
            ) from error
        raise UnavailableError(f"can't fetch {_told(split)}: {_without_queries(error)}") from error
    except Exception as error:
        raise UnavailableError(
            f"can't fetch {_told(split)}: {type(error).__name__}: {_without_queries(error)}"
        ) from error


def _fetch_folder(
    files: Any, place: str, target: Path, limit_bytes: int, on_bytes: OnBytes
) -> None:
    root = str(files._strip_protocol(place)).rstrip("/")
    found = files.find(root, detail=True)
    if not found:
        raise FileNotFoundError(place)
    if len(found) > artifact.ENTRIES_LIMIT:
        raise TooLargeError(f"{len(found)} files are there; the limit is {artifact.ENTRIES_LIMIT}")
    total_bytes = sum(int(about.get("size") or 0) for about in found.values())
    budget = Budget(limit_bytes, on_bytes, total_bytes)
    for name in sorted(found):
        # Stores without folders stand an empty object in for one.
        if name.rstrip("/") == root or name.endswith("/"):
            continue
        path = target / inside(name.removeprefix(f"{root}/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.open(name, "rb") as source:
            budget.copy(source, path)
