"""Models fetched from URLs: what comes, and what doesn't get in."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import http.server
import io
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from paldia.client import fetching
from paldia.client.deploying import model_name
from paldia.core.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PaldiaError,
    TooLargeError,
    UnavailableError,
)

FILES = {"config.pbtxt": b'backend: "python"', "1/model.py": b"pass\n" * 100}


def tar_of(files: dict[str, bytes], mode: Any = "w:gz", root: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(root + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def tar_with(name: str, kind: bytes, link: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        archive.addfile(info)
    return packed.getvalue()


def zip_of(files: dict[str, bytes], mode: int = 0) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return packed.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL under which HTTP serves it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, bytes]], None]]:
    """Stands in for an object store: a real file system of fsspec's, under s3's name."""
    files = MemoryFileSystem()
    files.store.clear()

    class Bucket(MemoryFileSystem):
        protocol = ("s3",)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            stripped: str = super()._strip_protocol(path.replace("s3://", "memory://"))
            return stripped

    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **_: Bucket())

    def fill(contents: dict[str, bytes]) -> None:
        for name, content in contents.items():
            files.pipe_file(name, content)

    yield fill
    files.store.clear()


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Path]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def run(url: str, **options: Any) -> Path:
        told: Any = options.pop("on_bytes", lambda done, total: None)
        return fetching.fetch(url, scratch, told, **options)

    return run


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("m.tar.gz", tar_of(FILES)),
        ("m.tgz", tar_of(FILES, root="anything/")),
        ("m.tar", tar_of(FILES, "w", root="./")),
        ("m.zip", zip_of(FILES)),
        ("m.zip", zip_of({f"m/{name}": content for name, content in FILES.items()})),
    ],
)
def test_an_archive_comes_over_http(
    served: tuple[Path, str], fetch: Callable[..., Path], name: str, packed: bytes
) -> None:
    folder, url = served
    (folder / name).write_bytes(packed)
    told: list[Any] = []
    checksum = hashlib.sha256(packed).hexdigest()
    found = fetch(
        f"{url}/{name}?token=secret#sha256={checksum}", on_bytes=lambda *news: told.append(news)
    )
    assert contents(found) == FILES
    assert told[-1] == (len(packed), len(packed))


def test_a_folder_comes_from_an_object_store(
    bucket: Callable[..., None], fetch: Callable[..., Path]
) -> None:
    bucket({f"/bucket/models/m/{name}": content for name, content in FILES.items()})
    bucket({"/bucket/models/mm/1/other": b"not of this one"})
    assert contents(fetch("s3://bucket/models/m")) == FILES
    assert model_name("s3://bucket/models/m/", None) == "m"


def test_an_archive_comes_from_an_object_store_and_from_a_file(
    bucket: Callable[..., None], fetch: Callable[..., Path], tmp_path: Path
) -> None:
    bucket({"/bucket/m.zip": zip_of(FILES)})
    assert contents(fetch("s3://bucket/m.zip")) == FILES


def test_a_file_url_is_a_folder_or_an_archive_here(
    fetch: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "with space").mkdir()
    assert fetch(f"file://{tmp_path}/with%20space") == tmp_path / "with space"
    (tmp_path / "m.tar.gz").write_bytes(tar_of(FILES))
    assert contents(fetch(f"file://{tmp_path}/m.tar.gz")) == FILES


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/../other/m", "leads out"),
        ("s3://bucket/%2e%2e/other", "leads out"),
        ("https://host/m.zip::file:///etc", "leads out"),
        ("https://host", "names no folder"),
        ("https://host/models/m", "can't name a folder"),
        ("ftp://host/m.zip", "ftp:// is no source of models"),
        ("memory://m", "no source of models"),
        ("s3://bucket/m#sha256=" + "0" * 64, "goes with an archive only"),
        ("https://host/m.zip#sha256=12", "no SHA-256"),
        ("https://host/m.zip#md5=12", "#sha256=HEX"),
    ],
)
def test_urls_that_are_none_of_a_model(fetch: Callable[..., Path], url: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        fetch(url)


@pytest.mark.parametrize(
    "packed",
    [
        tar_of({"../escaped": b"x"}),
        tar_with("link", tarfile.SYMTYPE, "/etc/passwd"),
        tar_with("link", tarfile.LNKTYPE, "../secret"),
        tar_with("device", tarfile.CHRTYPE),
        zip_of({"../escaped": b"x"}),
        zip_of({"/escaped": b"x"}),
        zip_of({"a\\..\\..\\escaped": b"x"}),
        zip_of({"link": b"/etc/passwd"}, mode=0o120777),
        zip_of({"a": b"x", "a/b": b"y"}),
        b"neither",
        tar_of(FILES)[:80],
        zip_of(FILES)[:-40],
        b"",
    ],
    # Named by number: their bytes hold the time, and would name a test anew in each process.
    ids=[*map(str, range(13))],
)
def test_what_an_archive_may_not_hold(
    bucket: Callable[..., None], fetch: Callable[..., Path], tmp_path: Path, packed: bytes
) -> None:
    bucket({"/bucket/m.zip": packed})
    before = {path for path in tmp_path.rglob("*") if "scratch" not in path.parts}
    with pytest.raises(InvalidArgumentError):
        fetch("s3://bucket/m.zip")
    assert {path for path in tmp_path.rglob("*") if "scratch" not in path.parts} == before
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_names_of_an_object_store_stay_inside(
    bucket: Callable[..., None], fetch: Callable[..., Path], tmp_path: Path
) -> None:
    bucket({"/bucket/m/1/a": b"x"})
    MemoryFileSystem.store["/bucket/m/../../../escaped"] = MemoryFileSystem.store["/bucket/m/1/a"]
    with pytest.raises(InvalidArgumentError, match="leads out"):
        fetch("s3://bucket/m")
    assert not [*tmp_path.rglob("escaped")]


@pytest.mark.parametrize(
    "packed",
    [tar_of({"1/weights": bytes(5000)}), zip_of({"1/weights": bytes(5000)})],
    ids=["tar", "zip"],
)
def test_what_unpacks_to_more_than_the_limit_is_refused(
    bucket: Callable[..., None], fetch: Callable[..., Path], packed: bytes
) -> None:
    bucket({"/bucket/m.zip": packed})
    with pytest.raises(TooLargeError, match="limit"):
        fetch("s3://bucket/m.zip", limit_bytes=4000)


def test_a_folder_over_the_limit_is_refused_whatever_size_it_announces(
    bucket: Callable[..., None],
    fetch: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    bucket({"/bucket/m/1/weights": bytes(5000)})
    with pytest.raises(TooLargeError):
        fetch("s3://bucket/m", limit_bytes=4000)
    assert not [*tmp_path.rglob("weights")], "it announces its size"
    find = MemoryFileSystem.find

    def lie(self: Any, path: str, **options: Any) -> Any:
        return {name: {**about, "size": 0} for name, about in find(self, path, **options).items()}

    monkeypatch.setattr(MemoryFileSystem, "find", lie)
    with pytest.raises(TooLargeError):
        fetch("s3://bucket/m", limit_bytes=4000)


def test_a_checksum_that_differs_is_told(
    served: tuple[Path, str], fetch: Callable[..., Path]
) -> None:
    folder, url = served
    (folder / "m.zip").write_bytes(zip_of(FILES))
    with pytest.raises(InternalError, match="changed or damaged"):
        fetch(f"{url}/m.zip#sha256={'0' * 64}")


def test_what_is_not_in_a_store_is_not_found(
    fetch: Callable[..., Path], bucket: Callable[..., None]
) -> None:
    with pytest.raises(NotFoundError):
        fetch("s3://bucket/nowhere")
    with pytest.raises(NotFoundError):
        fetch("s3://bucket/nowhere.zip")


def test_nothing_there_and_nobody_there(
    served: tuple[Path, str], fetch: Callable[..., Path]
) -> None:
    _, url = served
    with pytest.raises(NotFoundError) as failed:
        fetch(f"{url}/m.zip?token=secret")
    assert "secret" not in str(failed.value)
    with pytest.raises(UnavailableError, match="can't fetch"):
        fetch("http://127.0.0.1:9/m.zip")


def test_a_transfer_that_breaks_off_is_told(fetch: Callable[..., Path], tmp_path: Path) -> None:
    class Liar(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"some")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UnavailableError, match="can't fetch"):
            fetch(f"http://127.0.0.1:{server.server_port}/m.zip")
        server.shutdown()


def test_a_full_disk_is_told_with_what_to_do(
    served: tuple[Path, str], fetch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    (folder / "m.zip").write_bytes(zip_of(FILES))
    opened = Path.open

    @contextlib.contextmanager
    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Iterator[Any]:
        with opened(self, mode, *args, **options) as file:
            if mode == "xb":
                file.close()
                raise OSError(errno.ENOSPC, "No space left on device")
            yield file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(TooLargeError, match="TMPDIR"):
        fetch(f"{url}/m.zip")


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_a_missing_package_is_named(
    fetch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str
) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PaldiaError, match=rf"pip install 'paldia\[{extra}\]'"):
        fetch(f"{scheme}://bucket/m")


def test_names_come_from_what_is_fetched() -> None:
    assert model_name("https://host/models/resnet.tar.gz?x=1#sha256=0", None) == "resnet"
    assert model_name("file:///models/bert/", None) == "bert"
    assert model_name("s3://bucket/m", "other") == "other"
    assert model_name("models/m", None) == "m"
