"""Our reading of files and scores against the magika package's own, on real files."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from magika import Magika
from magika.types import Seekable
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

import paldia
from paldia.cli.demo_files import Features, Labels, features_of, select_files

ROOT = Path(paldia.__file__).parent.parent
SAMPLE = ROOT / "paldia" / "samples" / "magika"


@pytest.fixture(scope="module")
def magika() -> Magika:
    return Magika()


def _score(triton: InferenceServerClient, features: Features) -> np.ndarray:
    tensor = InferInput("bytes", [1, 2048], "INT32")
    tensor.set_data_from_numpy(features[np.newaxis])
    scores = triton.infer("magika", [tensor]).as_numpy("scores")
    assert scores.shape == (1, 214)
    return scores[0]


def test_labels_are_those_of_the_package(triton: InferenceServerClient, magika: Magika) -> None:
    files = [*select_files(ROOT), Path(os.__file__), SAMPLE / "1" / "model.py"]
    files += sorted((ROOT / "docs").rglob("*.md"))[:5] + sorted(ROOT.glob("protos/**/*.proto"))
    assert len(files) > 10
    labels = Labels.read(SAMPLE / "labels.json")
    ours = {}
    theirs = {}
    for path in files:
        features = features_of(path)
        if features is None:
            continue
        label, score = labels.judge(_score(triton, features))
        result = magika.identify_path(path)
        ours[path] = (label, pytest.approx(score, abs=1e-4))
        theirs[path] = (str(result.output.label), result.score)
    assert theirs == ours


def test_facts_anyone_can_check(triton: InferenceServerClient) -> None:
    labels = Labels.read(SAMPLE / "labels.json")
    for path, expected in ((Path(os.__file__), "python"), (Path(sys.executable), "elf")):
        features = features_of(path)
        assert features is not None
        label, score = labels.judge(_score(triton, features))
        assert label == expected
        assert score > 0.99


def test_bytes_out_of_range_are_refused_with_the_reason(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="must hold 0 to 255") as caught:
        _score(triton, np.full(2048, 257, np.int32))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@given(
    content=st.one_of(
        st.binary(max_size=64),
        st.tuples(
            st.text("\n\t ab", max_size=12), st.integers(0, 5000), st.text("\n\t ab", max_size=12)
        ).map(lambda parts: (parts[0] + "x" * parts[1] + parts[2]).encode()),
        st.tuples(st.integers(0, 9000), st.binary(min_size=1, max_size=3)).map(
            lambda parts: b" " * parts[0] + parts[1] + b"\n" * parts[0]
        ),
    )
)
def test_features_equal_the_packages(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    with path.open("rb") as stream:
        theirs = Magika._extract_features_from_seekable(
            Seekable(stream), 1024, 0, 1024, 256, 4096, False
        )
    ours = features_of(path)
    if ours is None:
        assert theirs.beg[7] == 256
    else:
        assert ours.tolist() == theirs.beg + theirs.end


def test_labels_below_their_threshold_become_text_or_unknown() -> None:
    labels = Labels.read(SAMPLE / "labels.json")

    def judged(name: str, score: float) -> str:
        scores = np.zeros(214, np.float32)
        scores[labels.names.index(name)] = score
        return labels.judge(scores)[0]

    assert judged("python", 0.6) == "python"
    assert judged("python", 0.4) == "txt"
    assert judged("markdown", 0.7) == "txt"
    assert judged("elf", 0.4) == "unknown"
    assert judged("randombytes", 0.9) == "unknown"
