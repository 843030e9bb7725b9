"""The controller as its users, agents and frontends see it, over the wire."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import model_config_pb2

from paldia.api import convert, recording
from paldia.api.v1 import control_pb2, routing_pb2, types_pb2


async def test_a_deployed_model_is_measured_placed_and_routed(
    cluster: Any, slow: Any, fast: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, fast, frontend)
    model = await cluster.deploy()
    assert model.candidate.generation == 1
    ready = await cluster.ready()
    assert [placement.node_id for placement in ready.status.placements] == ["slow-0"]
    route = await until(lambda: frontend.routes["m"].lanes and frontend.routes["m"], "a route")
    assert route.state == routing_pb2.ROUTE_STATE_READY
    # Measured under whatever name, it is served under its own.
    assert model_config_pb2.ModelConfig.FromString(route.model_config).name == "m"
    assert route.lanes[0].endpoint == "slow-0:1"
    assert [convert.seconds(point.latency) for point in route.lanes[0].points] == [0.02, 0.04]
    digest = ready.serving.spec.artifact_digest
    assert slow.fetched[digest] == fast.fetched[digest] != b""


async def test_explain_names_every_kind_with_its_numbers(
    cluster: Any, slow: Any, fast: Any
) -> None:
    cluster.join(slow, fast)
    await cluster.deploy()
    await cluster.ready()
    answer = await cluster.call("ExplainModel", control_pb2.ExplainModelRequest(name="m"))
    decision = answer.decisions[0]
    assert decision.action == "place"
    assert {c.hardware: c.verdict for c in decision.candidates} == {
        "fast": "feasible",
        "slow": "feasible",
    }
    assert decision.candidates[decision.chosen].hardware == "slow"
    assert {profile.hardware for profile in answer.profiles} == {"fast", "slow"}


async def test_rising_demand_moves_the_model_and_the_bill_follows(
    cluster: Any, slow: Any, fast: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, fast, frontend)
    await cluster.deploy()
    await cluster.ready()
    await until(lambda: frontend.routes.get("m"), "a route")
    frontend.rate["m"] = 60.0

    def moved() -> bool:
        return [lane.node_id for lane in frontend.routes["m"].lanes] == ["fast-0"]

    await until(moved, "the route moves")
    await until(lambda: not slow.desired.deployments, "the old place is given up")
    status = await cluster.call("GetStatus", control_pb2.GetStatusRequest())
    assert status.moves == 1
    assert status.cost_usd_per_hour == pytest.approx(0.10)
    assert status.cost_usd > 0


async def test_the_bill_is_split_between_the_model_and_idleness(
    cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, frontend)
    await cluster.deploy()
    await cluster.ready()
    frontend.rate["m"] = 20.0

    async def used() -> Any:
        status = await cluster.call("GetStatus", control_pb2.GetStatusRequest())
        return status if status.cost_usd_by_model["m"] > 0 else None

    status = await until(used, "the model is charged")
    assert status.idle_cost_usd > 0
    split = sum(status.cost_usd_by_model.values()) + status.idle_cost_usd
    assert split == pytest.approx(status.cost_usd, rel=1e-9)
    (node,) = status.nodes
    assert node.cost_usd == status.cost_usd
    assert node.energy_joules == node.estimated_energy_joules == status.energy_joules
    # Between idle and rated power, for as long as its price was charged.
    paid_s = status.cost_usd / 0.04 * 3600
    assert 10.0 * paid_s < status.energy_joules < 50.0 * paid_s


async def test_the_old_route_stays_until_the_new_place_is_ready(
    cluster: Any, slow: Any, fast: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, fast, frontend)
    await cluster.deploy()
    await cluster.ready()
    fast.loads = False
    await until(lambda: frontend.routes.get("m"), "a route")
    frontend.rate["m"] = 60.0
    await until(lambda: fast.desired.deployments, "the new place is asked for")
    assert slow.desired.deployments
    assert [lane.node_id for lane in frontend.routes["m"].lanes] == ["slow-0"]


async def test_a_revision_that_cannot_load_leaves_the_old_one_serving(
    cluster: Any, slow: Any, until: Any
) -> None:
    cluster.join(slow)
    await cluster.deploy()
    await cluster.ready()
    slow.failure = "model.py raised: no such luck"
    await cluster.deploy(content="broken")

    async def given_up() -> Any:
        model = await cluster.model()
        return model.last_failure.generation == 2 and model

    model = await until(given_up, "the candidate is given up")
    assert model.last_failure.reason == "model.py raised: no such luck"
    assert model.serving.generation == 1
    assert model.status.phase == types_pb2.MODEL_PHASE_READY
    slow.failure = ""
    await cluster.deploy(content="broken")
    assert (await cluster.ready(generation=3)).last_failure.reason == ""


async def test_a_first_revision_that_cannot_load_is_known_as_failed(
    cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    slow.failure = "no backend of that name"
    cluster.join(slow, frontend)
    await cluster.deploy()

    def failed() -> bool:
        route = frontend.routes.get("m")
        return route is not None and route.state == routing_pb2.ROUTE_STATE_FAILED

    await until(failed, "the route fails")
    assert frontend.routes["m"].reason == "no backend of that name"
    assert (await cluster.model()).status.phase == types_pb2.MODEL_PHASE_FAILED


async def test_a_new_artifact_is_switched_to_without_a_gap(
    cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, frontend)
    await cluster.deploy()
    first = await cluster.ready()
    await cluster.deploy(content="y")
    second = await cluster.ready(generation=2)
    assert second.serving.spec.artifact_digest != first.serving.spec.artifact_digest
    await until(lambda: frontend.routes["m"].generation == 2, "the route changes")
    await until(lambda: len(slow.desired.deployments) == 1, "the old artifact is given up")


async def test_undeploy_removes_route_and_deployment(
    cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, frontend)
    await cluster.deploy()
    await cluster.ready()
    await until(lambda: "m" in frontend.routes, "a route")
    await cluster.call("UndeployModel", control_pb2.UndeployModelRequest(name="m"))
    await until(lambda: "m" not in frontend.routes, "the route goes")
    await until(lambda: not slow.desired.deployments, "the deployment goes")


async def test_an_unused_model_goes_cold_and_a_waiting_request_wakes_it(
    cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, frontend)
    await cluster.deploy(min_replicas=0, keep_alive=convert.duration(0.5))

    async def cold() -> bool:
        phase = (await cluster.model()).status.phase
        return bool(phase == types_pb2.MODEL_PHASE_COLD)

    await until(cold, "it goes cold")
    frontend.backlog["m"] = 1
    await until(lambda: frontend.routes["m"].lanes, "it wakes")


async def test_a_node_can_be_drained_and_taken_back(
    cluster: Any, slow: Any, fast: Any, until: Any
) -> None:
    cluster.join(slow, fast)
    await cluster.deploy()
    await cluster.ready()
    await cluster.call("DrainNode", control_pb2.DrainNodeRequest(node_id="slow-0"))
    await until(lambda: not slow.desired.deployments, "the node is emptied")
    assert fast.desired.deployments
    await cluster.call("DrainNode", control_pb2.DrainNodeRequest(node_id="slow-0", undo=True))
    await until(lambda: slow.desired.deployments, "the cheaper node is used again")


async def test_profile_measures_anew(cluster: Any, slow: Any) -> None:
    cluster.join(slow)
    await cluster.deploy()
    await cluster.ready()
    slow.latency_s = 0.03
    *_, answer = await cluster.profile()
    assert convert.seconds(answer.profiles[0].points[0].latency) == 0.03
    assert answer.profiles[0].full
    explained = await cluster.call("ExplainModel", control_pb2.ExplainModelRequest(name="m"))
    assert convert.seconds(explained.profiles[0].points[0].latency) == 0.03


async def test_what_frontends_see_corrects_what_was_measured(
    cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, frontend)
    digest = (await cluster.deploy()).candidate.spec.artifact_digest
    await cluster.ready()
    lanes = await until(lambda: frontend.routes["m"].lanes, "the route has a lane")
    assert lanes[0].correction == 1
    assert lanes[0].artifact_digest == digest
    frontend.checks["m"] = routing_pb2.BatchCheck(
        node_id="slow-0", artifact_digest=digest, batches=250, ratios=500.0
    )

    def corrected() -> Any:
        lanes = frontend.routes["m"].lanes
        return lanes and lanes[0].correction == 2 and lanes[0]

    lane = await until(corrected, "the route is corrected")
    assert convert.seconds(lane.points[0].latency) == pytest.approx(0.04)
    explained = await cluster.call("ExplainModel", control_pb2.ExplainModelRequest(name="m"))
    # What was measured is told as it was.
    assert convert.seconds(explained.profiles[0].points[0].latency) == pytest.approx(0.02)
    assert explained.profiles[0].check.stale
    status = await cluster.call("GetStatus", control_pb2.GetStatusRequest())
    (stale,) = status.stale_profiles
    assert (stale.model, stale.hardware, stale.check.ratio) == ("m", "slow", 2.0)
    # Measured anew, it is held against the new figures.
    await cluster.profile()
    await until(lambda: frontend.routes["m"].lanes[0].correction == 1, "the correction has gone")


async def test_a_stale_profile_is_measured_anew_in_idle_time(
    cluster: Any, slow: Any, frontend: Any, until: Any
) -> None:
    cluster.controller.stop()
    cluster.controller.start("--idle-s", "0.5")
    cluster.join(slow, frontend)
    await cluster.deploy()
    await cluster.ready()

    async def full() -> Any:
        explained = await cluster.call("ExplainModel", control_pb2.ExplainModelRequest(name="m"))
        return explained.profiles[0].full and explained.profiles[0]

    first = await until(full, "it is measured in full")
    slow.latency_s = 0.03
    frontend.checks["m"] = routing_pb2.BatchCheck(
        node_id="slow-0", artifact_digest=first.artifact_digest, batches=250, ratios=375.0
    )

    async def anew() -> bool:
        profile = await full()
        return bool(convert.seconds(profile.points[0].latency) == 0.03)

    await until(anew, "it is measured anew")


async def test_a_failed_remeasurement_keeps_the_old_profile(cluster: Any, slow: Any) -> None:
    cluster.join(slow)
    await cluster.deploy()
    await cluster.ready()
    slow.failure = "out of memory"
    *_, answer = await cluster.profile(quick=True)
    assert answer.profiles[0].failure == "out of memory"
    assert (await cluster.model()).status.phase == types_pb2.MODEL_PHASE_READY


async def test_update_is_compare_and_set(cluster: Any, slow: Any) -> None:
    cluster.join(slow)
    await cluster.deploy()
    model = await cluster.ready()
    spec = types_pb2.ModelSpec()
    spec.CopyFrom(model.serving.spec)
    spec.artifact_digest = ""
    spec.slo.latency.CopyFrom(convert.duration(0.5))
    request = control_pb2.UpdateModelRequest(spec=spec, resource_version=model.resource_version)
    await cluster.call("UpdateModel", request)
    updated = await cluster.ready(generation=2)
    assert convert.seconds(updated.serving.spec.slo.latency) == 0.5
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cluster.call("UpdateModel", request)
    assert refused.value.code() is grpc.StatusCode.ABORTED


async def test_deploys_of_one_name_at_once_are_put_in_order(cluster: Any, slow: Any) -> None:
    cluster.join(slow)
    await cluster.upload()
    await asyncio.gather(*(cluster.deploy(slo_s=0.1 + n / 10) for n in range(4)))
    # Each was accepted and numbered, so the last of them is the fourth.
    assert (await cluster.ready(generation=4)).last_failure.reason == ""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restarted_controller_goes_on_where_it_was(
    cluster: Any, slow: Any, fast: Any, frontend: Any, until: Any, signum: int
) -> None:
    cluster.join(slow, fast, frontend)
    await cluster.deploy()
    await cluster.ready()
    before = await cluster.call("GetStatus", control_pb2.GetStatusRequest())
    await cluster.leave()
    cluster.controller.stop(signum)
    cluster.controller.start()
    cluster.join(slow, fast, frontend)
    model = await cluster.ready()
    assert [placement.node_id for placement in model.status.placements] == ["slow-0"]
    after = await cluster.call("GetStatus", control_pb2.GetStatusRequest())
    assert after.decisions == before.decisions
    assert after.cost_usd >= before.cost_usd > 0
    assert not slow.desired.profile_tasks


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"name": "../etc"}, grpc.StatusCode.INVALID_ARGUMENT, "no model name"),
        ({"slo_s": 0}, grpc.StatusCode.INVALID_ARGUMENT, "latency"),
        ({"min_replicas": -1}, grpc.StatusCode.INVALID_ARGUMENT, "min replicas"),
    ],
)
async def test_a_wrong_spec_is_refused(
    cluster: Any, change: dict[str, Any], code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cluster.deploy(**change)
    assert refused.value.code() is code
    assert words in (refused.value.details() or "")


async def test_an_artifact_nobody_uploaded_is_refused(cluster: Any) -> None:
    spec = types_pb2.ModelSpec(name="m", artifact_digest="0" * 64)
    spec.slo.latency.FromMilliseconds(100)
    spec.slo.share = 0.99
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cluster.call("DeployModel", control_pb2.DeployModelRequest(spec=spec))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "empty"),
        ([("0" * 64, 10, b"12345")], "broke off after 5 of 10"),
        ([("0" * 64, 3, b"12345")], "longer than the 3 bytes"),
        ([("0" * 64, 5, b"12345")], "checksum"),
        ([("../../x", 5, b"12345")], "no SHA-256"),
    ],
)
async def test_a_damaged_upload_is_refused_and_leaves_nothing(
    cluster: Any, pieces: list[tuple[str, int, bytes]], words: str
) -> None:
    requests = [
        control_pb2.UploadArtifactRequest(digest=digest, size_bytes=size, chunk=chunk)
        for digest, size, chunk in pieces
    ]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cluster.call("UploadArtifact", iter(requests))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in (refused.value.details() or "")
    assert list((cluster.controller.folder / "data" / "artifacts").iterdir()) == []


async def test_unknown_names_are_not_found(cluster: Any) -> None:
    for method, request in (
        ("GetModel", control_pb2.GetModelRequest(name="nobody")),
        ("UndeployModel", control_pb2.UndeployModelRequest(name="nobody")),
        ("ExplainModel", control_pb2.ExplainModelRequest(name="nobody")),
        ("DrainNode", control_pb2.DrainNodeRequest(node_id="nobody")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cluster.call(method, request)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert "nobody" in (refused.value.details() or "")


def test_a_taken_port_is_named(controller: Any, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("paldia-controller")),
        *("--bind", controller.address, "--data-dir", str(tmp_path / "other")),
    ]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert controller.address in second.stderr
    assert "taken" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_others_can_reach_needs_consent(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("paldia-controller")),
        *("--bind", "0.0.0.0:0", "--data-dir", str(tmp_path / "data")),
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 1
    assert "--insecure" in refused.stderr


async def test_another_policy_decides_dispatches_and_is_recorded(
    cluster: Any, slow: Any, fast: Any, frontend: Any, until: Any
) -> None:
    cluster.controller.stop()
    cluster.controller.start("--policy", "infless-llama-perf")
    cluster.join(slow, fast, frontend)
    await cluster.deploy()
    ready = await cluster.ready()
    assert [placement.node_id for placement in ready.status.placements] == ["fast-0"]
    route = await until(lambda: frontend.routes["m"].lanes and frontend.routes["m"], "a route")
    assert (route.late_keep_turn, route.unteachable) == (True, True)
    assert convert.seconds(route.linger) == convert.seconds(ready.serving.spec.slo.latency)
    asked = control_pb2.GetDecisionRequest(name="m", with_step=True)
    made = recording.unpacked((await cluster.call("GetDecision", asked)).step)
    assert made.policy == "infless-llama-perf"
    assert made.run_again() == made.outcome
    under_paldia = replace(made, policy="paldia").run_again()
    assert under_paldia.plan["m"].target != made.outcome.plan["m"].target


def test_a_policy_that_must_know_what_comes_is_refused(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("paldia-controller")),
        *("--bind", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--policy", "oracle"),
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 1
    assert "can only be simulated" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "data").exists(), "nothing is touched"


def test_a_stop_is_clean(controller: Any) -> None:
    assert controller.stop() == 0


async def test_after_a_restart_nobody_is_moved_before_the_nodes_have_spoken(
    cluster: Any, slow: Any, fast: Any, frontend: Any, until: Any
) -> None:
    cluster.join(slow, fast, frontend)
    await cluster.deploy()
    await cluster.ready()
    await until(lambda: frontend.routes.get("m") and frontend.routes["m"].lanes, "a route")
    await cluster.leave()
    cluster.controller.stop(signal.SIGKILL)
    cluster.controller.start()
    fast.loads = False
    cluster.join(fast, frontend)

    async def returned() -> bool:
        answer = await cluster.call("ListNodes", control_pb2.ListNodesRequest())
        return [node.id for node in answer.nodes] == ["fast-0"]

    await until(returned, "the other node is back")
    cluster.join(slow)
    await until(lambda: frontend.snapshots == 2, "a new snapshot")
    assert [lane.node_id for lane in frontend.routes["m"].lanes] == ["slow-0"]
    model = await cluster.model()
    assert [placement.node_id for placement in model.status.placements] == ["slow-0"]
    assert not fast.desired.deployments


async def test_a_profile_that_makes_no_sense_is_a_failed_one(
    cluster: Any, slow: Any, until: Any
) -> None:
    slow.latency_s = 0.0
    cluster.join(slow)
    await cluster.deploy()

    async def given_up() -> Any:
        model = await cluster.model()
        return model.last_failure.generation == 1 and model

    model = await until(given_up, "the candidate is given up")
    assert "makes no sense" in model.last_failure.reason
    slow.latency_s = 0.01
    await cluster.deploy()
    await cluster.ready(generation=2)


async def test_measuring_what_never_loaded_is_refused_at_once(
    cluster: Any, slow: Any, until: Any
) -> None:
    slow.failure = "no such luck"
    cluster.join(slow)
    await cluster.deploy()

    async def failed() -> bool:
        return bool((await cluster.model()).status.phase == types_pb2.MODEL_PHASE_FAILED)

    await until(failed, "the model has failed")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cluster.profile()
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
