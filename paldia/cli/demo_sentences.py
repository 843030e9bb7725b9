"""Sentences as minilm wants to see them, and how near they lie to each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tritonclient.grpc import InferInput

SENTENCES = (
    "How do I make my computer run faster?",
    "What can I do to speed up a slow laptop?",
    "Grandmother bakes an apple pie every Sunday.",
    "On Sundays my grandma makes a pie with apples.",
)

_TOKENS_LIMIT = 128


class SentenceReader:
    """Turns sentences into minilm's inputs."""

    def __init__(self, tokenizer: Path) -> None:
        """Read a `tokenizer.json`."""
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_TOKENS_LIMIT)

    def arrays_of(self, sentence: str) -> dict[str, NDArray[np.int64]]:
        """Give the inputs of one sentence by name, int64 [1, N], as long as it is."""
        tokens = self._tokenizer.encode(sentence)
        columns = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        return {name: np.array([values], np.int64) for name, values in columns.items()}

    def inputs_of(self, sentence: str) -> list[InferInput]:
        """Give the input tensors of one sentence."""
        inputs = []
        for name, array in self.arrays_of(sentence).items():
            tensor = InferInput(name, list(array.shape), "INT64")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return inputs


def cosines(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Give the cosine of the angle between each two of several unit vectors."""
    stacked = np.stack(vectors)
    products: NDArray[np.float32] = stacked @ stacked.T
    return products
