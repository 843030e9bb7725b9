"""The benchmark's models in Ray Serve, behind its gRPC ingress with Triton's own service.

`python ray_app.py '{"port": ..., ...}'` serves until it is told to end.
"""

import json
import os
import signal
import sys
import tempfile
import threading

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Otherwise it keeps a token in the user's home.
os.environ["RAY_AUTH_MODE"] = "disabled"
# Its workers import what lies beside this file.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))

import numpy as np
import ray
from compute import computing
from ray import serve
from ray.serve.config import gRPCOptions
from tritonclient.grpc import service_pb2 as pb

ADD_SERVICE = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
DTYPES = {"FP32": np.float32, "INT32": np.int32}


@serve.deployment
class Served:
    """A model that `computing` describes, with the calls that clients of the protocol make."""

    def __init__(self, told):
        self._told = told
        self._dtype = DTYPES[told["datatype"]]
        self._compute = computing(told["weights"], told["input"], told["tensor"])

    async def ServerLive(self, request):  # noqa: N802 - the protocol's name
        """Say that the server lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request):  # noqa: N802 - the protocol's name
        """Say that the server is ready."""
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(self, request):  # noqa: N802 - the protocol's name
        """Say that the model is ready."""
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request):  # noqa: N802 - the protocol's name
        """Describe the model."""
        told = self._told
        tensors = {
            "inputs": [(told["input"], told["datatype"], told["shape"])],
            "outputs": [(told["output"], "FP32", told["out_shape"])],
        }
        answer = pb.ModelMetadataResponse(name=told["model"], versions=["1"], platform="ray")
        for field, described in tensors.items():
            for name, datatype, shape in described:
                getattr(answer, field).add(name=name, datatype=datatype, shape=[-1, *shape])
        return answer

    async def ModelInfer(self, request):  # noqa: N802 - the protocol's name
        """Answer one request."""
        (sent,) = request.inputs
        array = np.frombuffer(request.raw_input_contents[0], self._dtype).reshape(sent.shape)
        result = self._compute(array)
        answer = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name=self._told["output"], datatype="FP32", shape=result.shape)
        answer.raw_output_contents.append(result.tobytes())
        return answer


def main():
    """Serve until SIGTERM."""
    told = json.loads(sys.argv[1])
    ended = threading.Event()
    # Sockets in the folder have long names, and a socket's path may have 107 letters.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(include_dashboard=False, _temp_dir=folder)
        _deploy(told)
        # Now, since Ray sets its own.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: ended.set())
        ended.wait()
        ray.shutdown()


def _deploy(told):
    serve.start(
        http_options={"host": "127.0.0.1", "port": told["http_port"]},
        grpc_options=gRPCOptions(port=told["port"], grpc_servicer_functions=[ADD_SERVICE]),
    )
    served = Served.options(
        num_replicas=told["replicas"],
        max_ongoing_requests=told["at_once"],
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    )
    serve.run(served.bind(told), route_prefix="/")


if __name__ == "__main__":
    main()
