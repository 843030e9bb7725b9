"""Answers as often as it is asked to (decoupled)."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count = int(pb_utils.get_input_tensor_by_name(request, "FROM").as_numpy()[0])
            for left in range(count - 1, -1, -1):
                tensor = pb_utils.Tensor("LEFT", np.array([left], np.int32))
                sender.send(pb_utils.InferenceResponse([tensor]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
