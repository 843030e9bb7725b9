"""Magika in Triton's Python backend: file contents in, one score for each type out.

One thread to an instance: instances are the unit that PALDIA counts and places, and
two instances of two threads on two cores do a third less than two of one.
"""

from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils


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
        """Answer each request by itself: ten files in one run take as long as ten runs."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        contents = pb_utils.get_input_tensor_by_name(request, "bytes").as_numpy()
        if contents.size and (contents.min() < 0 or contents.max() > 256):
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(
                    "input 'bytes' must hold 0 to 255, and 256 as padding",
                    pb_utils.TritonError.INVALID_ARG,
                )
            )
        (scores,) = self._session.run(["target_label"], {"bytes": contents})
        return pb_utils.InferenceResponse([pb_utils.Tensor("scores", scores)])
