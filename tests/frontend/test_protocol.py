"""What the stock clients learn of server and models."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import aio, service_pb2
from tritonclient.utils import InferenceServerException

from paldia.api.v1 import routing_pb2

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def client(frontend: Any) -> Any:
    return frontend.client()


@pytest.fixture(scope="module", autouse=True)
def odd_models(controller: Any, frontend: Any, triton: Any, until: Any) -> None:
    """Add models that are known and can't answer."""
    slo = triton.route("adder").slo
    controller.tell(
        routing_pb2.ModelRoute(
            model="broken",
            state=routing_pb2.ROUTE_STATE_FAILED,
            reason="model.py raised",
            slo=slo,
        ),
        triton.route("adder", name="cold", lanes=[], state=routing_pb2.ROUTE_STATE_LOADING),
        routing_pb2.ModelRoute(
            model="new",
            state=routing_pb2.ROUTE_STATE_LOADING,
            reason="being measured",
            slo=slo,
        ),
        routing_pb2.ModelRoute(model="senseless", state=routing_pb2.ROUTE_STATE_READY),
    )
    until("the last one is known", lambda: "senseless" in index_of(frontend.client()))


def index_of(client: Any) -> dict[str, Any]:
    return {model.name: model for model in client.get_model_repository_index().models}


def test_server_lives_and_is_ready(client: Any):
    assert client.is_server_live()
    assert client.is_server_ready()


def test_server_metadata_names_what_works_here(client: Any):
    metadata = client.get_server_metadata()
    assert metadata.name == "paldia"
    assert metadata.version
    assert "statistics" in metadata.extensions
    assert not [it for it in metadata.extensions if "memory" in it or "trace" in it]


def test_models_are_ready_or_not(client: Any):
    assert client.is_model_ready("adder")
    assert client.is_model_ready("adder", "1")
    for model, version in [("adder", "2"), ("nope", ""), ("broken", ""), ("cold", ""), ("new", "")]:
        assert not client.is_model_ready(model, version), model


def test_metadata_is_tritons_own(client: Any, triton: Any):
    own = triton.stub().ModelMetadata(service_pb2.ModelMetadataRequest(name="echo"))
    assert client.get_model_metadata("echo") == own
    assert client.get_model_metadata("echo", "1") == own


def test_metadata_of_a_cold_model_comes_from_its_config(client: Any):
    warm, cold = client.get_model_metadata("adder"), client.get_model_metadata("cold")
    assert (list(cold.inputs), list(cold.outputs)) == (list(warm.inputs), list(warm.outputs))
    assert (cold.name, list(cold.versions)) == ("cold", [])


def test_config_is_tritons_own(client: Any, triton: Any):
    own = triton.stub().ModelConfig(service_pb2.ModelConfigRequest(name="adder"))
    assert client.get_model_config("adder") == own
    assert client.get_model_config("adder", "1") == own
    assert client.get_model_config("cold").config.name == "cold"


@pytest.mark.parametrize(
    ("model", "version", "code", "words"),
    [
        ("nope", "", "NOT_FOUND", "no model named 'nope'"),
        ("adder", "2", "NOT_FOUND", "version 2"),
        ("broken", "", "FAILED_PRECONDITION", "model.py raised"),
        ("new", "", "UNAVAILABLE", "being measured"),
        ("senseless", "", "FAILED_PRECONDITION", "makes no sense"),
    ],
)
def test_unknown_models_are_said_to_be(
    client: Any, model: str, version: str, code: str, words: str
):
    for ask in (client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException, match=words) as caught:
            ask(model, version)
        assert caught.value.status() == f"StatusCode.{code}"


def test_index_lists_models_with_state_and_reason(client: Any):
    index = index_of(client)
    assert (index["adder"].state, index["adder"].version) == ("READY", "1")
    assert (index["broken"].state, index["broken"].reason) == ("UNAVAILABLE", "model.py raised")
    assert index["cold"].state == "UNAVAILABLE"
    assert index["cold"].reason


def test_index_can_leave_out_what_is_not_ready(frontend: Any):
    index = frontend.stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True))
    assert "adder" in [model.name for model in index.models]
    assert not {"broken", "cold", "new"} & {model.name for model in index.models}


def test_statistics_count_what_ran(client: Any, tensor: Any):
    def count() -> int:
        (statistics,) = client.get_inference_statistics("adder").model_stats
        assert (statistics.name, statistics.version) == ("adder", "1")
        return int(statistics.inference_count)

    before = count()
    x = np.ones((3, 2), np.float32)
    client.infer("adder", [tensor("A", x), tensor("B", x)])
    assert count() == before + 3
    assert len(client.get_inference_statistics().model_stats) >= 7
    assert list(client.get_inference_statistics("cold").model_stats) == []


@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("adder", "7")])
def test_statistics_of_what_is_not_there(client: Any, model: str, version: str):
    with pytest.raises(InferenceServerException) as caught:
        client.get_inference_statistics(model, version)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


async def test_the_asyncio_client_works_as_well(frontend: Any, tensor: Any):
    async with aio.InferenceServerClient(frontend.address) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("adder")
        assert (await client.get_model_metadata("adder")).name == "adder"
        assert (await client.get_model_config("adder")).config.max_batch_size == 4
        assert (await client.get_inference_statistics("adder")).model_stats
        x = np.ones((1, 2), np.float32)
        answer = await client.infer("adder", [tensor("A", x), tensor("B", x)], request_id="7")
        assert answer.as_numpy("SUM").tolist() == [[2, 2]]
        assert answer.get_response().id == "7"


def test_admin_calls_say_how_it_is_done_here(client: Any):
    for call, words in (
        (lambda: client.load_model("adder"), "paldia deploy"),
        (lambda: client.unload_model("adder"), "paldia undeploy adder"),
        (client.get_system_shared_memory_status, "shared memory"),
        (lambda: client.register_system_shared_memory("a", "/b", 1), "shared memory"),
        (client.unregister_system_shared_memory, "shared memory"),
        (client.get_cuda_shared_memory_status, "shared memory"),
        (lambda: client.register_cuda_shared_memory("a", b"", 0, 1), "shared memory"),
        (client.unregister_cuda_shared_memory, "shared memory"),
        (client.get_trace_settings, "set them on the nodes"),
        (client.get_log_settings, "set them on the nodes"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            call()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_health_is_told(frontend: Any):
    health = health_pb2_grpc.HealthStub(frontend.channel)
    for service in ("", SERVICE):
        status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError):
        health.Check(health_pb2.HealthCheckRequest(service="nope"))


def test_reflection_describes_the_protocol(frontend: Any):
    reflection = reflection_pb2_grpc.ServerReflectionStub(frontend.channel)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, described = reflection.ServerReflectionInfo(iter(questions))
    assert SERVICE in [it.name for it in listed.list_services_response.service]
    assert described.file_descriptor_response.file_descriptor_proto
