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

    def inputs_of(self, sentence: str) -> list[InferInput]:
        """Give the input tensors of one sentence, as long as it is."""
        tokens = self._tokenizer.encode(sentence)
        columns = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        inputs = []
        for name, values in columns.items():
            tensor = InferInput(name, [1, len(values)], "INT64")
            tensor.set_data_from_numpy(np.array([values], np.int64))
            inputs.append(tensor)
        return inputs


def cosines(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Give the cosine of the angle between each two of several unit vectors."""
    stacked = np.stack(vectors)
    products: NDArray[np.float32] = stacked @ stacked.T
    return products
