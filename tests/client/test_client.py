"""The clients against a real controller."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from paldia.api import artifact, recording
from paldia.api.v1 import control_pb2 as pb
from paldia.api.v1 import control_pb2_grpc
from paldia.client import AsyncClient, Client, ModelPhase, OverloadPolicy
from paldia.core.errors import (
    ConflictError,
    ExpiredError,
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    PaldiaError,
    UnavailableError,
)

MakeFolder = Callable[..., Path]


def test_deploy_waits_until_it_serves_and_tells_each_stage(client, node, make_folder: MakeFolder):
    told = []
    model = client.deploy(
        make_folder(), slo_latency_s=0.1, max_batch=4, timeout_s=20, on_progress=told.append
    )
    assert model.phase is ModelPhase.READY
    assert [place.node_id for place in model.placements] == ["n1"]
    assert model.serving is not None
    assert (model.serving.slo.latency_s, model.serving.max_batch) == (0.1, 4)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages[:2] == ["packing", "uploading"]
    assert stages[-1] == "ready"
    uploads = [progress for progress in told if progress.stage == "uploading"]
    assert uploads[-1].fraction == 1


def test_a_url_is_fetched_first_and_gives_the_name(client, node, make_folder: MakeFolder, tmp_path):
    shutil.make_archive(str(tmp_path / "zipped"), "gztar", make_folder())
    told = []
    url = f"file://{tmp_path}/zipped.tar.gz"
    model = client.deploy(url, slo_latency_s=0.1, timeout_s=20, on_progress=told.append)
    assert (model.name, model.phase) == ("zipped", ModelPhase.READY)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages[:3] == ["fetching", "packing", "uploading"]
    same = client.deploy(make_folder(), name="zipped", slo_latency_s=0.1, wait=False)
    assert same.serving.artifact_digest == model.serving.artifact_digest
    with pytest.raises(NotFoundError, match="nothing at file://"):
        client.deploy(f"file://{tmp_path}/none.zip", slo_latency_s=0.1)


async def test_the_async_client_does_the_same(controller, client, node, make_folder: MakeFolder):
    async with AsyncClient(controller.address) as aio:
        deployed = await aio.deploy(make_folder(), slo_latency_s=0.1, timeout_s=20)
        assert deployed.phase is ModelPhase.READY
        assert await aio.models() == client.models()
        assert (await aio.nodes())[0].node_id == "n1"
        assert (await aio.explain("doubler")).profiles[0].points[0].latency_s == 0.01
        placed = (await aio.explain("doubler")).decisions[0]
        record = await aio.decision("doubler", placed.decided_at, with_step=True)
        assert (record.decision, record.unchanged) == (placed, False)
        made = recording.unpacked(record.step)
        assert made.run_again() == made.outcome
        assert client.decision("doubler").step is None
        too_early = placed.decided_at - timedelta(seconds=1)
        with pytest.raises(NotFoundError, match="the oldest that is kept"):
            client.decision("doubler", too_early)
        async for change in aio.watch("doubler", timeout_s=10):
            assert change.snapshot
            break
        await aio.undeploy("doubler")
        with pytest.raises(NotFoundError, match="doubler"):
            await aio.model("doubler")


def test_a_broken_version_fails_with_its_reason_and_the_old_one_goes_on(
    client, node, make_folder: MakeFolder
):
    first = client.deploy(make_folder(), slo_latency_s=0.1, timeout_s=20)
    node.failure = "ModuleNotFoundError: No module named 'nonsense'"
    with pytest.raises(NotServableError) as failed:
        client.deploy(make_folder(text="second"), slo_latency_s=0.1, timeout_s=20)
    assert "No module named 'nonsense'" in str(failed.value)
    assert "generation 1 goes on serving" in str(failed.value)
    after = client.model("doubler")
    assert after.phase is ModelPhase.READY
    assert after.serving == first.serving
    assert after.last_failure.generation == 2


def test_a_deploy_that_another_replaced_says_so(client, node, make_folder: MakeFolder):
    node.hold()
    with ThreadPoolExecutor() as pool:
        profiling = threading.Event()
        waiting = pool.submit(
            client.deploy,
            make_folder(),
            slo_latency_s=0.1,
            timeout_s=20,
            on_progress=lambda progress: progress.model and profiling.set(),
        )
        assert profiling.wait(10)
        client.deploy(make_folder(text="second"), slo_latency_s=0.1, wait=False)
        with pytest.raises(ConflictError, match="superseded by generation 2"):
            waiting.result(10)
    node.release()


def test_a_model_undeployed_while_it_is_deployed_ends_the_wait(
    client, node, make_folder: MakeFolder
):
    node.hold()
    with ThreadPoolExecutor() as pool:
        profiling = threading.Event()
        waiting = pool.submit(
            client.deploy,
            make_folder(),
            slo_latency_s=0.1,
            timeout_s=20,
            on_progress=lambda progress: progress.model and profiling.set(),
        )
        assert profiling.wait(10)
        client.undeploy("doubler")
        with pytest.raises(ConflictError, match="undeployed"):
            waiting.result(10)


def test_waiting_for_a_deploy_has_an_end(client, make_folder: MakeFolder):
    with pytest.raises(ExpiredError, match="doesn't serve yet"):
        client.deploy(make_folder(), slo_latency_s=0.1, timeout_s=0.5)
    assert client.model("doubler").phase is ModelPhase.PROFILING


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_deploy_outlives_a_restart_of_the_controller(
    controller, client, node, make_folder: MakeFolder, end: str
):
    node.hold()
    with ThreadPoolExecutor() as pool:
        profiling = threading.Event()
        waiting = pool.submit(
            client.deploy,
            make_folder(),
            slo_latency_s=0.1,
            timeout_s=30,
            on_progress=lambda progress: progress.model and profiling.set(),
        )
        assert profiling.wait(10)
        getattr(controller, end)()
        controller.start()
        node.release()
        assert waiting.result(30).phase is ModelPhase.READY


def test_update_is_compare_and_set(client, make_folder: MakeFolder):
    old = client.deploy(make_folder(), slo_latency_s=0.1, wait=False)
    new = client.update("doubler", slo_latency_s=0.2, on_overload=OverloadPolicy.SHED)
    assert (new.candidate.slo.latency_s, new.candidate.slo.share) == (0.2, 0.99)
    assert new.candidate.on_overload is OverloadPolicy.SHED
    assert new.candidate.artifact_digest == old.candidate.artifact_digest
    with pytest.raises(ConflictError):
        client.update("doubler", slo_share=0.9, resource_version=old.resource_version)
    assert client.model("doubler").candidate.slo.share == 0.99
    with pytest.raises(InvalidArgumentError, match="share"):
        client.update("doubler", slo_share=1.5)


def test_concurrent_updates_lose_nothing(client, make_folder: MakeFolder):
    client.deploy(make_folder(), slo_latency_s=0.1, wait=False)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(client.update, "doubler", max_batch=7)
        two = pool.submit(client.update, "doubler", min_replicas=3)
        one.result(10), two.result(10)
    candidate = client.model("doubler").candidate
    assert (candidate.max_batch, candidate.min_replicas) == (7, 3)


def test_watch_gives_a_snapshot_and_then_what_changes(client, make_folder: MakeFolder):
    client.deploy(make_folder("one"), slo_latency_s=0.1, wait=False)
    changes = client.watch(timeout_s=10)
    first = next(changes)
    assert first.snapshot
    assert [model.name for model in first.models] == ["one"]
    client.deploy(make_folder("two"), slo_latency_s=0.1, wait=False)
    assert [model.name for model in next(changes).models] == ["two"]
    client.undeploy("one")
    assert next(changes).removed == ("one",)
    changes.close()


def test_profile_and_drain_reach_the_node(client, node, make_folder: MakeFolder):
    client.deploy(make_folder(), slo_latency_s=0.1, timeout_s=20)
    (profile,) = client.profile("doubler", timeout_s=20)
    assert (profile.hardware, profile.points[0].samples) == ("scripted", 10)
    assert client.drain("n1").state.value == "draining"
    assert client.drain("n1", undo=True).state.value != "draining"
    with pytest.raises(NotFoundError, match="n9"):
        client.drain("n9")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root / "missing", "is no folder"),
        (lambda root: root, "no version folder"),
    ],
)
def test_a_wrong_folder_is_refused_before_anything_is_sent(tmp_path: Path, make, said: str):
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError, match=said):
        client.deploy(make(tmp_path), slo_latency_s=0.1)


def test_an_upload_cut_off_leaves_nothing(controller, client, make_folder: MakeFolder, tmp_path):
    folder = make_folder(text="x" * 3_000_000)
    packed = tmp_path / "packed"
    with packed.open("wb") as file:
        artifact.pack(folder, file)
    digest = artifact.digest_of(packed)
    sent = threading.Event()

    def half() -> Iterator[pb.UploadArtifactRequest]:
        data = packed.read_bytes()
        yield pb.UploadArtifactRequest(digest=digest, size_bytes=len(data), chunk=data[:1_000_000])
        sent.set()
        threading.Event().wait(10)

    with grpc.insecure_channel(controller.address) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        call = stub.UploadArtifact.future(half())
        assert sent.wait(10)
        call.cancel()
        request = pb.DeployModelRequest()
        request.spec.name, request.spec.artifact_digest = "doubler", digest
        request.spec.slo.latency.FromMilliseconds(100)
        request.spec.slo.share = 0.99
        with pytest.raises(grpc.RpcError, match="artifact"):
            stub.DeployModel(request, timeout=10)
    assert client.models() == ()
    assert client.deploy(folder, slo_latency_s=0.1, wait=False).candidate is not None


async def test_no_controller_is_said_with_the_cure(make_folder: MakeFolder):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with (
        Client(address) as client,
        pytest.raises(UnavailableError, match=f"{address}.*paldia up.*PALDIA_CONTROLLER"),
    ):
        client.models()
    async with AsyncClient(address) as aio:
        with pytest.raises(UnavailableError, match=f"{address}.*paldia up"):
            await aio.deploy(make_folder(), slo_latency_s=0.1)


def test_a_controller_that_never_answers_runs_into_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address, timeout_s=0.3) as client:
            began_s = time.monotonic()
            with pytest.raises(PaldiaError):
                client.status()
            assert time.monotonic() - began_s < 10


def test_the_controller_comes_from_the_environment(controller, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PALDIA_CONTROLLER", controller.address)
    with Client() as client:
        assert client.status().store == "embedded"


async def test_infer_client_needs_a_frontend(controller, client):
    with pytest.raises(NotServableError, match="no frontend"):
        client.infer_client()
    with client.infer_client("127.0.0.1:1") as infer:
        assert type(infer).__module__.startswith("tritonclient.grpc")
    async with AsyncClient(controller.address) as aio:
        infer = await aio.infer_client("127.0.0.1:1")
        assert type(infer).__module__.startswith("tritonclient.grpc.aio")
        await infer.close()
