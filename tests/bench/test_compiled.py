"""The compiled copy of the simulator: when it is made, and that a bad one is never used."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import compiled


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of one module stands for the whole."""
    module = tmp_path / "paldia" / "core" / "device.py"
    module.parent.mkdir(parents=True)
    module.write_text("ANSWER: int = 42\n")
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    return module


def test_every_part_is_there() -> None:
    for part in compiled.PARTS:
        assert list((compiled.ROOT / "paldia").glob(part)), part


def test_a_copy_is_used_until_a_source_changes(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / compiled.digest(tmp_path / "paldia")
    copy.mkdir(parents=True)
    assert compiled.compiled(tmp_path / "copies") == copy
    package.write_text("ANSWER: int = 43\n")
    assert compiled.digest(tmp_path / "paldia") != copy.name


def test_what_does_not_compile_is_told_and_leaves_no_copy(package: Path, tmp_path: Path) -> None:
    package.write_text("ANSWER: int = 'none'\n")
    copies = tmp_path / "copies"
    with pytest.raises(compiled.CannotCompileError, match="install a C compiler"):
        compiled.compiled(copies)
    assert not (copies / compiled.digest(tmp_path / "paldia")).exists()


def test_a_copy_that_comes_to_other_figures_is_not_used(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Either is asked in turn, and names the folder that it is.
    monkeypatch.setattr(compiled, "_CHECK", "import os; print(os.environ['PYTHONPATH'])")
    monkeypatch.setattr(compiled, "_compile", lambda _: None)
    copies = tmp_path / "copies"
    with pytest.raises(compiled.CannotCompileError, match="other figures"):
        compiled.compiled(copies)
    assert not (copies / compiled.digest(tmp_path / "paldia")).exists()


def test_a_benchmark_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled.main([]) == 2
    assert "name a benchmark" in capsys.readouterr().err
