"""A model folder packed, carried and unpacked; and what must never be unpacked."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paldia.api import artifact
from paldia.core.errors import InvalidArgumentError, TooLargeError

NAMES = st.text(st.sampled_from("abZ09._-\u00e9 "), min_size=1, max_size=8).filter(
    lambda name: name.strip(". ") and name not in {"1"}
)
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/".join(("1", *parts))),
    st.binary(max_size=2000),
    max_size=6,
).filter(lambda files: not any(f"{a}/" in b for a in files for b in files))


def write(folder, files, *, times=None):
    (folder / "1").mkdir(parents=True, exist_ok=True)
    for n, (name, content) in enumerate(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if times:
            os.utime(path, (times + n, times + n))
            path.chmod(0o600)


def read(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def packed(folder):
    target = io.BytesIO()
    artifact.pack(folder, target)
    return target.getvalue()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    write(folder, [("config.pbtxt", b"name: 'm'"), ("1/model.py", b"x = 1\n" * 1000)])
    return folder


@pytest.fixture
def pack_file(tmp_path):
    def pack_file(content):
        path = tmp_path / "packed.tar"
        path.write_bytes(content)
        return path

    return pack_file


@settings(max_examples=60, deadline=None)
@given(files=FILES, data=st.data())
def test_equal_folders_have_equal_packs_that_unpack_to_them(files, data):
    shuffled = data.draw(st.permutations([*files.items()]))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root / "one", files.items())
        write(root / "other", shuffled, times=1_000_000)
        pack = packed(root / "one")
        assert packed(root / "other") == pack
        (root / "packed").write_bytes(pack)
        artifact.unpack(root / "packed", root / "three")
        assert read(root / "three") == read(root / "one")
        assert packed(root / "three") == pack


def test_different_folders_have_different_packs(model):
    first = packed(model)
    (model / "1" / "model.py").write_bytes(b"x = 2\n" * 1000)
    second = packed(model)
    (model / "1" / "empty").mkdir()
    assert len({first, second, packed(model)}) == 3


def test_the_digest_is_of_the_packed_file(model, pack_file):
    path = pack_file(packed(model))
    digest = artifact.digest_of(path)
    assert artifact.check_digest(digest) == digest
    assert len(digest) == 64


@pytest.mark.parametrize(
    "digest", ["", "a" * 63, "a" * 65, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n", "g" * 64]
)
def test_what_is_no_digest_is_refused(digest):
    with pytest.raises(InvalidArgumentError, match="SHA-256"):
        artifact.check_digest(digest)


class TestPack:
    def test_leavings_of_tools_stay_out(self, model):
        clean = packed(model)
        for leaving in ("1/__pycache__/model.cpython-311.pyc", ".git/HEAD", "1/.DS_Store"):
            path = model / leaving
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
        assert packed(model) == clean

    def test_a_link_to_a_file_becomes_the_file(self, model, tmp_path):
        (tmp_path / "weights").write_bytes(b"w" * 100)
        (model / "1" / "weights").symlink_to(tmp_path / "weights")
        linked = packed(model)
        (model / "1" / "weights").unlink()
        (model / "1" / "weights").write_bytes(b"w" * 100)
        assert packed(model) == linked

    @pytest.mark.parametrize("target", ["/", "nowhere", "."])
    def test_other_links_are_refused(self, model, target):
        (model / "1" / "link").symlink_to(target)
        with pytest.raises(InvalidArgumentError, match="link is neither a file nor a folder"):
            packed(model)

    def test_a_pipe_is_refused_and_not_read(self, model):
        os.mkfifo(model / "1" / "pipe")
        with pytest.raises(InvalidArgumentError, match="pipe is neither"):
            packed(model)

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(InvalidArgumentError, match="nothing is no folder"):
            packed(tmp_path / "nothing")

    @pytest.mark.parametrize("names", [[], ["config.pbtxt"], ["v1/model.py"], ["sub/1/model.py"]])
    def test_without_a_version_folder_it_is_refused(self, tmp_path, names):
        folder = tmp_path / "m"
        folder.mkdir()
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        with pytest.raises(InvalidArgumentError, match="no version folder such as m/1"):
            packed(folder)

    def test_too_many_files_are_refused(self, model, monkeypatch):
        monkeypatch.setattr(artifact, "ENTRIES_LIMIT", 3)
        packed(model)
        (model / "1" / "more").write_bytes(b"")
        with pytest.raises(TooLargeError, match=r"holds 4 .* limit is 3"):
            packed(model)


def tar(*members):
    """Pack members as an attacker would: (name, type or content, link target)."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content, *link in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes) and not link and len(content) != 1:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                continue
            info.type, info.mode = content, 0o755
            info.linkname = link[0] if link else ""
            archive.addfile(info)
    return target.getvalue()


class TestUnpack:
    def test_it_is_all_or_nothing(self, model, pack_file, tmp_path):
        content = packed(model)
        folder = tmp_path / "unpacked"
        # Folder and file take a header of 512 bytes each, the file 6,000 bytes more.
        for length in (0, 1, 511, 1500, 5000, 7000):
            with pytest.raises(InvalidArgumentError):
                artifact.unpack(pack_file(content[:length]), folder)
            assert not folder.exists()
            assert not folder.with_name("unpacked.partial").exists()
        artifact.unpack(pack_file(content), folder)
        assert read(folder) == read(model)

    @pytest.mark.parametrize(
        "content", [b"not a tar" * 200, b"\x1f\x8b" + b"x" * 2000, b"\0" * 10240]
    )
    def test_what_is_no_archive_is_refused(self, content, pack_file, tmp_path):
        with pytest.raises(InvalidArgumentError, match="not a packed model folder"):
            artifact.unpack(pack_file(content), tmp_path / "unpacked")
        assert [it.name for it in tmp_path.iterdir()] == ["packed.tar"]

    @pytest.mark.parametrize(
        "members",
        [
            [("../evil", b"content")],
            [("1/../../evil", b"content")],
            [("1/link", tarfile.SYMTYPE, "../../evil")],
            [("1/link", tarfile.SYMTYPE, "/etc")],
            [("1/link", tarfile.LNKTYPE, "/etc/passwd")],
            [("1/dir", tarfile.SYMTYPE, ".."), ("1/dir/evil", b"content")],
            [("1/pipe", tarfile.FIFOTYPE)],
            [("1/null", tarfile.CHRTYPE)],
            [("1/sda", tarfile.BLKTYPE)],
            [("1", b"a file"), ("1/model.py", b"and a folder")],
            [("1/" + "n" * 300, b"content")],
        ],
        ids=lambda members: members[-1][0][:20],
    )
    def test_what_could_reach_outside_or_fail_half_way_is_refused(
        self, members, pack_file, tmp_path
    ):
        path = pack_file(tar(("1/good", b"content"), *members))
        with pytest.raises(InvalidArgumentError):
            artifact.unpack(path, tmp_path / "unpacked")
        assert [it.name for it in tmp_path.iterdir()] == ["packed.tar"]

    def test_a_name_with_a_null_is_refused(self, pack_file, tmp_path):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("1/model.py")
            info.pax_headers = {"path": "1/model\0.py"}
            archive.addfile(info)
        with pytest.raises(InvalidArgumentError):
            artifact.unpack(pack_file(target.getvalue()), tmp_path / "unpacked")
        assert [it.name for it in tmp_path.iterdir()] == ["packed.tar"]

    def test_a_folder_that_is_there_stays(self, model, pack_file, tmp_path):
        path = pack_file(packed(model))
        artifact.unpack(path, tmp_path / "unpacked")
        with pytest.raises(OSError, match="not empty"):
            artifact.unpack(path, tmp_path / "unpacked")
        assert read(tmp_path / "unpacked") == read(model)

    def test_an_absolute_name_lands_inside(self, pack_file, tmp_path):
        artifact.unpack(pack_file(tar(("/1/model.py", b"content"))), tmp_path / "unpacked")
        assert read(tmp_path / "unpacked") == {"1": None, "1/model.py": b"content"}

    def test_more_bytes_than_allowed_are_refused(self, model, pack_file, tmp_path):
        size_bytes = sum(it.stat().st_size for it in model.rglob("*") if it.is_file())
        path = pack_file(packed(model))
        with pytest.raises(TooLargeError, match=f"{size_bytes - 1} bytes"):
            artifact.unpack(path, tmp_path / "unpacked", limit_bytes=size_bytes - 1)
        assert not (tmp_path / "unpacked").exists()
        artifact.unpack(path, tmp_path / "unpacked", limit_bytes=size_bytes)

    def test_a_size_that_is_a_lie_is_refused(self, pack_file, tmp_path):
        info = tarfile.TarInfo("1/huge")
        info.size = 1 << 40
        path = pack_file(info.tobuf() + b"\0" * 1024)
        with pytest.raises(TooLargeError):
            artifact.unpack(path, tmp_path / "unpacked")
        assert [it.name for it in tmp_path.iterdir()] == ["packed.tar"]

    def test_more_files_than_allowed_are_refused(self, model, pack_file, tmp_path, monkeypatch):
        path = pack_file(packed(model))
        monkeypatch.setattr(artifact, "ENTRIES_LIMIT", 2)
        with pytest.raises(TooLargeError, match="2 files"):
            artifact.unpack(path, tmp_path / "unpacked")
        monkeypatch.setattr(artifact, "ENTRIES_LIMIT", 3)
        artifact.unpack(path, tmp_path / "unpacked")

    def test_what_an_interrupted_attempt_left_is_replaced(self, model, pack_file, tmp_path):
        partial = tmp_path / "unpacked.partial"
        partial.mkdir()
        (partial / "old").write_bytes(b"x")
        artifact.unpack(pack_file(packed(model)), tmp_path / "unpacked")
        assert read(tmp_path / "unpacked") == read(model)
