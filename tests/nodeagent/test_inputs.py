from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from paldia_nodeagent.inputs import Tensor, batch_sizes, make_request, sample_item
from paldia_nodeagent.repository import ModelConfig
from tritonclient.grpc import model_config_pb2

from paldia.core.errors import InvalidArgumentError

RANDOM = np.random.default_rng(0)


def parse(text: str) -> ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize(
    ("model_limit", "task_limit", "sizes"),
    [
        (0, 0, [1]),
        (0, 16, [1]),
        (1, 0, [1]),
        (8, 0, [1, 2, 4, 8]),
        (8, 4, [1, 2, 4]),
        (8, 64, [1, 2, 4, 8]),
        (6, 0, [1, 2, 4, 6]),
        (64, 3, [1, 2, 3]),
    ],
)
def test_batch_sizes(model_limit: int, task_limit: int, sizes: list[int]) -> None:
    assert batch_sizes(model_limit, task_limit) == sizes


def test_inputs_are_made_from_what_the_model_declares(tmp_path: Path) -> None:
    config = parse(
        """
        max_batch_size: 8
        input [
          { name: "image" data_type: TYPE_FP32 dims: [3, -1] },
          { name: "ids" data_type: TYPE_INT64 dims: [2] },
          { name: "text" data_type: TYPE_STRING dims: [2] },
          { name: "maybe" data_type: TYPE_FP32 dims: [1] optional: true }
        ]
        """
    )
    item = sample_item(config, tmp_path, RANDOM)
    image, ids, text = item
    assert (image.shape, len(image.raw)) == ((3, 1), 12)
    assert ids == Tensor("ids", "INT64", (2,), bytes(16))
    assert text.raw == (b"\x06\x00\x00\x00" + b"paldia") * 2
    request = make_request("m", config, item, 4)
    assert [[*tensor.shape] for tensor in request.inputs] == [[4, 3, 1], [4, 2], [4, 2]]
    assert [len(raw) for raw in request.raw_input_contents] == [48, 64, 80]


def test_a_model_without_batches_gets_no_batch_dimension(tmp_path: Path) -> None:
    config = parse('input [{ name: "x" data_type: TYPE_UINT8 dims: [5] }]')
    request = make_request("m", config, sample_item(config, tmp_path, RANDOM), 1)
    assert [*request.inputs[0].shape] == [5]
    assert [*request.raw_input_contents] == [bytes(5)]


def test_the_first_warm_up_sample_is_used(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "real").write_bytes(b"abcd")
    config = parse(
        """
        max_batch_size: 8
        input [{ name: "a" data_type: TYPE_FP32 dims: [-1] }]
        model_warmup [{
          name: "typical"
          batch_size: 1
          inputs { key: "a" value { data_type: TYPE_INT32 dims: [7] zero_data: true } }
          inputs { key: "b" value { data_type: TYPE_INT16 dims: [3] random_data: true } }
          inputs { key: "c" value { data_type: TYPE_UINT8 dims: [4] input_data_file: "real" } }
        }]
        """
    )
    a, b, c = sample_item(config, tmp_path, RANDOM)
    assert a == Tensor("a", "INT32", (7,), bytes(28))
    assert (b.shape, len(b.raw)) == ((3,), 6)
    assert c == Tensor("c", "UINT8", (4,), b"abcd")


def test_a_warm_up_file_that_is_missing_is_named(tmp_path: Path) -> None:
    config = parse(
        """
        model_warmup [{ inputs { key: "a" value {
          data_type: TYPE_UINT8 dims: [4] input_data_file: "lost" } } }]
        """
    )
    with pytest.raises(InvalidArgumentError, match="lost"):
        sample_item(config, tmp_path, RANDOM)


def test_absurd_dimensions_are_refused(tmp_path: Path) -> None:
    config = parse('input [{ name: "x" data_type: TYPE_FP32 dims: [1000000, 1000000] }]')
    with pytest.raises(InvalidArgumentError, match="too large"):
        sample_item(config, tmp_path, RANDOM)


def test_sequence_models_get_a_sequence_of_one(tmp_path: Path) -> None:
    config = parse('sequence_batching {} input [{ name: "x" data_type: TYPE_BOOL dims: [1] }]')
    request = make_request("m", config, sample_item(config, tmp_path, RANDOM), 1)
    assert request.parameters["sequence_start"].bool_param
    assert request.parameters["sequence_end"].bool_param
