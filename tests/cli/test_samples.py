"""Where the sample weights come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from paldia.cli import samples
from paldia.core.errors import NotServableError


def test_weights_are_copied_once_and_mended(tmp_path: Path):
    first = samples.prepare(tmp_path)
    assert [one.copied for one in first] == [True, True]
    assert all(one.path.stat().st_size == one.size_bytes > 1_000_000 for one in first)
    assert [one.copied for one in samples.prepare(tmp_path)] == [False, False]
    with first[0].path.open("r+b") as file:
        file.write(b"spoiled")
    assert [one.copied for one in samples.prepare(tmp_path)] == [True, False]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "model.onnx",
        "model.onnx",
    ]


@pytest.mark.parametrize("package", ["no_such_package", "json"])
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, package: str):
    wanted = samples.Weights(package, "model.onnx", "m/1/model.onnx")
    with pytest.raises(NotServableError, match=r"model.onnx.*paldia\[demo\]"):
        samples.prepare(tmp_path, [wanted])
