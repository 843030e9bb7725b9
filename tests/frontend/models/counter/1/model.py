"""Sums over each sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        answers = []
        for request in requests:
            start, sequence, x = (
                int(pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel()[0])
                for name in ("START", "SEQUENCE", "X")
            )
            self.sums[sequence] = x if start else self.sums[sequence] + x
            total = np.array([[self.sums[sequence]]], np.int32)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("SUM", total)]))
        return answers
