"""A whole cluster as `paldia up` starts it: real processes, real Triton, both stores."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from paldia.cli.cluster import LocalCluster
from paldia.client import Client

LIMIT_S = 60.0

_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [2] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [2] }]
"""
_MODEL = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            y = pb.Tensor("y", (x * FACTOR).astype(np.float32))
            answers.append(pb.InferenceResponse(output_tensors=[y]))
        return answers
"""


def write_model(folder: Path, factor: int = 2, code: str = _MODEL, config: str = _CONFIG) -> Path:
    """Write a model folder whose model multiplies its input."""
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    text = textwrap.dedent(code).replace("FACTOR", str(factor))
    (folder / "1" / "model.py").write_text(text)
    return folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    return lambda **options: write_model(tmp_path / "scale", **options)


@pytest.fixture(scope="module", params=["embedded", "etcd"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp(request.param)
    with LocalCluster(folder, store=request.param) as running:
        yield running


@pytest.fixture
def paldia(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster.controller_address) as client:
        yield client
        for model in client.models():
            client.undeploy(model.name)
        wait_until(lambda: not any(node.models for node in client.nodes()), "nodes are empty")


@pytest.fixture
def triton(cluster: LocalCluster) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(cluster.frontend_address)
    yield client
    client.close()


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds; give its value."""
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {LIMIT_S:g} s: {what}")


@pytest.fixture
def until() -> Callable[[Callable[[], Any], str], Any]:
    return wait_until


@pytest.fixture
def infer() -> Callable[..., list[float]]:
    """Send [1, 2] to a model and give its answer."""

    def call(client: InferenceServerClient, model: str = "scale", **options: Any) -> list[float]:
        tensor = InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.array([[1, 2]], np.float32))
        answer = client.infer(model, [tensor], client_timeout=20, **options)
        values: list[float] = answer.as_numpy("y")[0].tolist()
        return values

    return call


@pytest.fixture
def refused() -> type[InferenceServerException]:
    return InferenceServerException
