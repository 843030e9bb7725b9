from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

import paldia
from paldia.cli.demo_sentences import SENTENCES, SentenceReader, cosines

TOKENIZER = Path(paldia.__file__).parent / "samples" / "minilm-tokenizer" / "tokenizer.json"


def _embed(triton: InferenceServerClient, inputs: list[InferInput]) -> np.ndarray:
    return triton.infer("minilm", inputs).as_numpy("embedding")


def _inputs(**columns: np.ndarray) -> list[InferInput]:
    inputs = []
    for name, values in columns.items():
        tensor = InferInput(name, list(values.shape), "INT64")
        tensor.set_data_from_numpy(values.astype(np.int64))
        inputs.append(tensor)
    return inputs


def test_sentences_alike_lie_nearer(triton: InferenceServerClient) -> None:
    reader = SentenceReader(TOKENIZER)
    vectors = [_embed(triton, reader.inputs_of(sentence))[0] for sentence in SENTENCES]
    assert [vector.shape for vector in vectors] == [(384,)] * len(SENTENCES)
    near = cosines(vectors)
    assert np.diagonal(near) == pytest.approx(np.ones(len(SENTENCES)), abs=1e-5)
    assert near[0, 1] > 0.6
    assert near[2, 3] > 0.6
    assert np.abs(near[:2, 2:]).max() < 0.2


def test_padding_hardly_changes_a_row(triton: InferenceServerClient) -> None:
    """Hardly, since the weights' int8 scale is taken over the whole input."""
    ids = np.array([[101, 7592, 2088, 102]])
    padded = np.pad(ids, ((0, 0), (0, 12)))
    short = _embed(
        triton,
        _inputs(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids)),
    )
    long = _embed(
        triton,
        _inputs(input_ids=padded, attention_mask=padded > 0, token_type_ids=np.zeros_like(padded)),
    )
    assert cosines([short[0], long[0]])[0, 1] > 0.98


def test_rows_of_padding_alone_become_zeros(triton: InferenceServerClient) -> None:
    zeros = np.zeros((2, 5))
    vectors = _embed(triton, _inputs(input_ids=zeros, attention_mask=zeros, token_type_ids=zeros))
    assert vectors.tolist() == np.zeros((2, 384)).tolist()


@pytest.mark.parametrize(
    ("shape", "fill", "reason"),
    [
        ((1, 8), 30_522, "input_ids must lie between 0 and 30521"),
        ((1, 513), 101, "1 to 512 tokens, not 513"),
    ],
)
def test_wrong_tokens_are_refused_with_the_reason(
    triton: InferenceServerClient, shape: tuple[int, int], fill: int, reason: str
) -> None:
    ids = np.full(shape, fill)
    inputs = _inputs(input_ids=ids, attention_mask=np.ones(shape), token_type_ids=np.zeros(shape))
    with pytest.raises(InferenceServerException, match=reason) as caught:
        _embed(triton, inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
