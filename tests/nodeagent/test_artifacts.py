from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from paldia_nodeagent.artifacts import ArtifactCache

from paldia.api import artifact
from paldia.core.errors import InternalError, InvalidArgumentError, UnavailableError


class Source:
    """Gives packed artifacts in pieces, and counts how often."""

    def __init__(self) -> None:
        self.packed: dict[str, bytes] = {}
        self.asked = 0

    async def fetch(self, digest: str) -> AsyncIterator[bytes]:
        self.asked += 1
        for start in range(0, len(self.packed[digest]), 1000):
            await asyncio.sleep(0)
            yield self.packed[digest][start : start + 1000]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def publish(source: Source, make_model: Any, lone_controller: Any) -> Any:
    def publish(body: str) -> str:
        digest: str = lone_controller.publish(make_model("m", body=body))
        source.packed[digest] = lone_controller.artifacts[digest]
        return digest

    return publish


async def test_is_fetched_once_whoever_asks(tmp_path: Path, source: Source, publish: Any) -> None:
    digest = publish("a = 1")
    cache = ArtifactCache(tmp_path, source.fetch)
    folders = await asyncio.gather(*(cache.obtain(digest) for _ in range(5)))
    assert {*folders} == {tmp_path / digest}
    assert "a = 1" in (folders[0] / "1" / "model.py").read_text()
    assert source.asked == 1
    await ArtifactCache(tmp_path, source.fetch).obtain(digest)
    assert source.asked == 1, "what an earlier agent fetched serves the next"


async def test_a_damaged_copy_is_fetched_again(
    tmp_path: Path, source: Source, publish: Any
) -> None:
    digest = publish("a = 1")
    folder = await ArtifactCache(tmp_path, source.fetch).obtain(digest)
    (folder / "1" / "model.py").write_text("a = 2")
    await ArtifactCache(tmp_path, source.fetch).obtain(digest)
    assert source.asked == 2
    assert "a = 1" in (folder / "1" / "model.py").read_text()


async def test_what_comes_damaged_never_appears(
    tmp_path: Path, source: Source, publish: Any
) -> None:
    digest = publish("a = 1")
    whole = source.packed[digest]
    cache = ArtifactCache(tmp_path, source.fetch)
    source.packed[digest] = whole[:2000]
    with pytest.raises(InternalError, match="came damaged"):
        await cache.obtain(digest)
    assert not [*tmp_path.iterdir()]
    source.packed[digest] = whole
    assert (await cache.obtain(digest)).is_dir()


async def test_a_broken_transfer_leaves_nothing(tmp_path: Path) -> None:
    async def fetch(digest: str) -> AsyncIterator[bytes]:
        yield b"some"
        raise UnavailableError("gone")

    with pytest.raises(UnavailableError):
        await ArtifactCache(tmp_path, fetch).obtain("0" * 64)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_full_disk_costs_what_nobody_wants_and_is_told(
    tmp_path: Path, source: Source, publish: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    unused, used, new = publish("a = 1"), publish("a = 2"), publish("a = 3")
    cache = ArtifactCache(tmp_path, source.fetch)
    for digest in (unused, used):
        await cache.obtain(digest)
    cache.keep({used, new})

    def full(packed: Path, folder: Path) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "unpack", full)
        with pytest.raises(UnavailableError, match=r"no room for the model.*--data-dir"):
            await cache.obtain(new)
    assert {path.name for path in tmp_path.iterdir()} == {used}
    assert (await cache.obtain(new)).is_dir()


async def test_only_checksums_become_paths(tmp_path: Path, source: Source) -> None:
    with pytest.raises(InvalidArgumentError):
        await ArtifactCache(tmp_path, source.fetch).obtain("../../etc")


async def test_over_its_limit_the_least_used_go_but_none_in_use(
    tmp_path: Path, source: Source, publish: Any
) -> None:
    old, used, new = publish("a = 1"), publish("a = 2"), publish("a = 3")
    cache = ArtifactCache(tmp_path, source.fetch, limit_bytes=1)
    for age, digest in enumerate((used, old)):
        cache.keep({used, old})
        os.utime(await cache.obtain(digest), (age, age))
    cache.keep({used, new})
    await cache.obtain(new)
    assert {path.name for path in tmp_path.iterdir()} == {used, new}
