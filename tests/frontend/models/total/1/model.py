"""Sums over the batch, so its answer has no batch dimension, against its own config."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            time.sleep(0.1)
            total = np.array([x.sum()], np.float32)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("TOTAL", total)]))
        return answers
