"""Adds and subtracts."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            a, b = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("A", "B")
            )
            wanted = {"SUM": a + b, "DIFFERENCE": a - b}
            answers.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor(name, wanted[name])
                        for name in wanted
                        if name in request.requested_output_names()
                    ]
                )
            )
        return answers
