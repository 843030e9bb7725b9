"""How far a deploy has come, and results from messages of a newer controller."""

from __future__ import annotations

import pytest

from paldia.api.v1 import types_pb2 as pb
from paldia.client import GpuProcess, decode
from paldia.client.deploying import judge
from paldia.client.results import ModelPhase, PlacementState
from paldia.core.errors import ConflictError, NotServableError

READY = pb.PLACEMENT_STATE_READY
LOADING = pb.PLACEMENT_STATE_LOADING


def model(
    *,
    serving: int = 0,
    candidate: int = 0,
    failed: int = 0,
    phase: pb.ModelPhase.ValueType = pb.MODEL_PHASE_READY,
    placements: tuple[tuple[str, pb.PlacementState.ValueType], ...] = (),
):
    message = pb.Model(name="m")
    for revision, generation in ((message.serving, serving), (message.candidate, candidate)):
        if generation:
            revision.generation = generation
            revision.spec.artifact_digest = f"digest{generation}"
            revision.spec.slo.latency.FromMilliseconds(100)
            revision.spec.slo.share = 0.99
    if failed:
        message.last_failure.generation = failed
        message.last_failure.reason = "it raised"
    message.status.phase = phase
    for digest, state in placements:
        message.status.placements.add(node_id="n", artifact_digest=digest, state=state)
    return decode.model(message)


@pytest.mark.parametrize(
    ("seen", "stage"),
    [
        (model(candidate=2), "profiling"),
        (model(serving=1, candidate=2, placements=(("digest1", READY),)), "profiling"),
        (model(serving=1, candidate=2, failed=1), "profiling"),
        (model(serving=2, phase=pb.MODEL_PHASE_STARTING), "starting"),
        # The old version still answers; the new one is what counts.
        (model(serving=2, placements=(("digest1", READY), ("digest2", LOADING))), "starting"),
        (model(serving=2, placements=(("digest1", LOADING), ("digest2", READY))), "ready"),
        (model(serving=2, candidate=3, placements=(("digest2", READY),)), "ready"),
        (model(serving=2, phase=pb.MODEL_PHASE_COLD), "cold"),
        (model(serving=2, phase=pb.MODEL_PHASE_UNPLACED), "unplaced"),
    ],
)
def test_stage_of_generation_2(seen, stage: str):
    assert judge(seen, 2).stage == stage


@pytest.mark.parametrize(
    "seen", [model(serving=3), model(serving=1, candidate=3), model(serving=1, failed=3)]
)
def test_a_later_generation_supersedes(seen):
    with pytest.raises(ConflictError, match="superseded by generation 3"):
        judge(seen, 2)


def test_a_failure_carries_its_reason():
    with pytest.raises(NotServableError, match="it raised"):
        judge(model(failed=2), 2)
    with pytest.raises(NotServableError, match="generation 1 goes on"):
        judge(model(serving=1, failed=2), 2)


def test_values_of_a_newer_controller_are_unknown():
    message = pb.Model(name="m")
    message.status.phase = 99  # type: ignore[assignment]
    message.status.placements.add(node_id="n", state=98)  # type: ignore[arg-type]
    decoded = decode.model(message)
    assert decoded.phase is ModelPhase.UNKNOWN
    assert decoded.placements[0].state is PlacementState.UNKNOWN


def test_absent_figures_are_none():
    message = pb.Node(id="n", state=pb.NODE_STATE_PARKED)
    message.hardware.gpus.add(uuid="u", name="T4", memory_bytes=16)
    message.utilisation.gpus.add(uuid="u", sm=0.5)
    (gpu,) = decode.node(message).gpus
    assert (gpu.sm_utilisation, gpu.memory_used_bytes, gpu.power_watts) == (0.5, None, None)
    assert gpu.throttled_by is gpu.fault_count is gpu.processes is gpu.index is gpu.mig is None
    message.utilisation.gpus[0].throttling.SetInParent()
    message.utilisation.gpus[0].faults.SetInParent()
    message.utilisation.gpus[0].processes.processes.add(pid=7)
    message.hardware.gpus[0].index = 0
    (gpu,) = decode.node(message).gpus
    assert (gpu.throttled_by, gpu.fault_count, gpu.index) == ((), 0, 0)
    assert gpu.processes == (GpuProcess(7, None),)
    assert decode.node(message).last_report_at is None
