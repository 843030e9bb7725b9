"""Takes as long as its longest row says; a negative row is an error."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            seconds = pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy()
            if seconds.min() < 0:
                error = pb_utils.TritonError("time does not run backwards")
                answers.append(pb_utils.InferenceResponse(error=error))
                continue
            time.sleep(float(seconds.max()))
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("SLEPT", seconds)]))
        return answers
