"""Silero's voice activity detector in Triton's Python backend, each piece of sound by itself."""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model, of one thread."""

    def initialize(self, args):
        """Open the weights that lie beside this file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        weights = Path(args["model_repository"], args["model_version"], "model.onnx")
        self._session = onnxruntime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        """Answer each request by itself, from silence."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        sound = pb_utils.get_input_tensor_by_name(request, "sound").as_numpy()
        state = np.zeros((2, len(sound), 128), np.float32)
        inputs = {"input": sound, "state": state, "sr": np.array(16000, np.int64)}
        speech = self._session.run(["output"], inputs)[0]
        return pb_utils.InferenceResponse([pb_utils.Tensor("speech", speech)])
