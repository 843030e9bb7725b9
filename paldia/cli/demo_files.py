"""Files as magika wants to see them, and what its scores mean.

Magika 3.3 reads at most 4,096 bytes from each end of a file, drops white space from the
start of the one and the end of the other, and looks at the first and last 1,024 bytes of
what is left, padded to full length. A type is believed from a score on that may differ by
type; below it the answer is just text or unknown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Features: TypeAlias = NDArray[np.int32]

_READ_BYTES = 4096
_END_BYTES = 1024
_PADDING = 256
_FEWEST_BYTES = 8

_WANTED = (
    "README.md",
    "LICENSE",
    "Makefile",
    "pyproject.toml",
    "buf.yaml",
    "constraints.txt",
    ".gitignore",
    "protos/paldia/api/v1/control.proto",
    "paldia/core/engine.py",
    "paldia/api/v1/control_pb2.pyi",
    "services/frontend/paldia_frontend/main.py",
    "paldia/samples/magika/config.pbtxt",
    "paldia/samples/magika/labels.json",
    "paldia/samples/magika/1/model.onnx",
    "paldia/samples/traces/azure_llm_2023_conv.csv",
)


def select_files(root: Path) -> list[Path]:
    """List files of the source tree worth classifying, and two programs; those that exist."""
    programs = (Path(sys.executable).resolve(), Path("/bin/ls"))
    wanted = [*(root / name for name in _WANTED), *programs]
    return [path for path in wanted if path.is_file() and features_of(path) is not None]


def features_of(path: Path) -> Features | None:
    """Read what magika looks at of a file: int32 [2048], or None if the file has too little."""
    with path.open("rb") as file:
        start = file.read(_READ_BYTES).lstrip()[:_END_BYTES]
        size_bytes = file.seek(0, 2)
        file.seek(max(0, size_bytes - _READ_BYTES))
        end = file.read(_READ_BYTES).rstrip()[-_END_BYTES:]
    if len(start) < _FEWEST_BYTES:
        return None
    features = np.full(2 * _END_BYTES, _PADDING, np.int32)
    features[: len(start)] = np.frombuffer(start, np.uint8)
    features[len(features) - len(end) :] = np.frombuffer(end, np.uint8)
    return features


@dataclass(frozen=True, slots=True)
class Labels:
    """The types that magika knows, in the order of its scores, and when to believe them."""

    names: Sequence[str]
    text_names: frozenset[str]
    overwritten: Mapping[str, str]
    thresholds: Mapping[str, float]
    default_threshold: float

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Read the `labels.json` that lies in magika's model folder."""
        facts = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            names=facts["labels"],
            text_names=frozenset(facts["text_labels"]),
            overwritten=facts["overwritten"],
            thresholds=facts["thresholds"],
            default_threshold=facts["default_threshold"],
        )

    def judge(self, scores: NDArray[np.float32]) -> tuple[str, float]:
        """Name the type that one file's scores tell, with its score from 0 to 1."""
        best = int(scores.argmax())
        name, score = self.names[best], float(scores[best])
        label = self.overwritten.get(name, name)
        if score < self.thresholds.get(name, self.default_threshold):
            label = "txt" if label in self.text_names else "unknown"
        return label, score
