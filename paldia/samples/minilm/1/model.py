"""all-MiniLM-L6-v2 in Triton's Python backend: tokens in, one unit vector for each row out.

The vector is the mean over a row's tokens, padding left out, scaled to length 1.
One thread to an instance, as instances are the unit that PALDIA counts and places.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOKENS_LIMIT = 512
VOCABULARY = 30_522
SEGMENTS = 2


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args):
        """Open the weights that lie beside this file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        weights = Path(args["model_repository"], args["model_version"], "model.onnx")
        self._session = onnxruntime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        """Answer each request by itself: their lengths differ, and padding costs time."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tokens = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS
        }
        fault = _fault(**tokens)
        if fault:
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(fault, pb_utils.TritonError.INVALID_ARG)
            )
        (states,) = self._session.run(["last_hidden_state"], tokens)
        mask = tokens["attention_mask"].astype(np.float32)[:, :, np.newaxis]
        # A row that is all padding has no mean; it becomes the zero vector.
        means = (states * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        vectors = means / np.maximum(lengths, 1e-9)
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors)])


def _fault(input_ids, attention_mask, token_type_ids):
    """Say what is wrong with a request's tokens; nothing if they are fine."""
    shapes = [tensor.shape for tensor in (input_ids, attention_mask, token_type_ids)]
    if len({*shapes}) > 1:
        return f"the three inputs must have one shape, not {shapes}"
    if not 1 <= input_ids.shape[1] <= TOKENS_LIMIT:
        return f"a row must have 1 to {TOKENS_LIMIT} tokens, not {input_ids.shape[1]}"
    if input_ids.min() < 0 or input_ids.max() >= VOCABULARY:
        return f"input_ids must lie between 0 and {VOCABULARY - 1}"
    if token_type_ids.min() < 0 or token_type_ids.max() >= SEGMENTS:
        return f"token_type_ids must lie between 0 and {SEGMENTS - 1}"
    return ""
