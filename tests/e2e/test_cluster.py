"""The main job, end to end: deploy, infer, update, fail, survive."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any

import psutil
import pytest

from paldia.core.errors import NotServableError


def test_a_deployed_model_answers_from_the_cheapest_node(
    paldia: Any, triton: Any, infer: Any, model_folder: Any
) -> None:
    model = paldia.deploy(model_folder(), slo_latency_s=0.1)
    assert [place.node_id for place in model.placements] == ["cpu-half"]
    assert infer(triton) == [2.0, 4.0]
    explanation = paldia.explain("scale")
    hardware = {candidate.hardware for candidate in explanation.current.candidates}
    assert hardware == {"cpu-full", "cpu-half"}
    assert paldia.status().cost_usd > 0


def test_one_folder_serves_under_two_names(
    paldia: Any, triton: Any, infer: Any, model_folder: Any
) -> None:
    paldia.deploy(model_folder(), slo_latency_s=0.1)
    paldia.deploy(model_folder(), name="other", slo_latency_s=0.1)
    assert infer(triton) == infer(triton, "other") == [2.0, 4.0]
    assert triton.get_model_config("other").config.name == "other"


def test_a_model_that_never_loaded_says_why_to_callers(
    paldia: Any, triton: Any, infer: Any, model_folder: Any, refused: Any
) -> None:
    with pytest.raises(NotServableError):
        paldia.deploy(model_folder(code="raise RuntimeError('no such luck')"), slo_latency_s=0.1)
    with pytest.raises(refused, match="no such luck"):
        infer(triton)


def test_a_new_version_replaces_the_old_without_a_failed_request(
    paldia: Any, triton: Any, infer: Any, model_folder: Any
) -> None:
    paldia.deploy(model_folder(), slo_latency_s=0.1)
    answers, stop, failures = [], threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(infer(triton)[0])
            except Exception as error:
                failures.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        paldia.deploy(model_folder(factor=3), slo_latency_s=0.1)
        assert infer(triton) in ([2.0, 4.0], [3.0, 6.0])
        seen = len(answers)
        while 3.0 not in answers[-5:] and len(answers) < seen + 5000 and not failures:
            stop.wait(0.01)
    finally:
        stop.set()
        asker.join()
    assert failures == []
    assert answers[0] == 2.0
    assert answers[-1] == 3.0
    # Once the new version has answered, the old one is not heard of again.
    assert 2.0 not in answers[answers.index(3.0) + 5 :]


def test_a_broken_version_is_refused_with_tritons_reason_and_the_old_serves(
    paldia: Any, triton: Any, infer: Any, model_folder: Any
) -> None:
    paldia.deploy(model_folder(), slo_latency_s=0.1)
    broken = model_folder(code="raise RuntimeError('no such luck')")
    with pytest.raises(NotServableError, match="no such luck"):
        paldia.deploy(broken, slo_latency_s=0.1)
    assert infer(triton) == [2.0, 4.0]


def test_the_controller_may_be_killed_and_comes_back(
    cluster: Any, paldia: Any, triton: Any, infer: Any, model_folder: Any, until: Any
) -> None:
    paldia.deploy(model_folder(), slo_latency_s=0.1)
    cluster.kill("controller", signal.SIGKILL)
    for _ in range(20):
        assert infer(triton) == [2.0, 4.0]
    cluster.restart("controller")
    until(lambda: [node.state.value for node in paldia.nodes()].count("lost") == 0, "nodes return")
    until(lambda: _ready(paldia), "the model is ready")
    assert infer(triton) == [2.0, 4.0]


def test_a_killed_agent_adopts_its_triton(
    cluster: Any, paldia: Any, triton: Any, infer: Any, model_folder: Any, until: Any
) -> None:
    paldia.deploy(model_folder(), slo_latency_s=0.1)
    before = _serving(cluster, paldia)
    cluster.kill("cpu-half", signal.SIGKILL)
    assert infer(triton) == [2.0, 4.0]
    cluster.restart("cpu-half")
    until(lambda: _ready(paldia), "the model is ready")
    assert infer(triton) == [2.0, 4.0]
    assert _serving(cluster, paldia) == before


def test_a_killed_triton_is_replaced(
    cluster: Any, paldia: Any, triton: Any, infer: Any, model_folder: Any, until: Any
) -> None:
    paldia.deploy(model_folder(), slo_latency_s=0.1)
    pid = _serving(cluster, paldia)
    psutil.Process(pid).kill()

    def answers_again() -> bool:
        try:
            return bool(infer(triton) == [2.0, 4.0]) and pid not in _tritons(cluster)
        except Exception:
            return False

    until(answers_again, "the model answers again")


def test_draining_a_node_moves_its_models(
    paldia: Any, triton: Any, infer: Any, model_folder: Any, until: Any
) -> None:
    paldia.deploy(model_folder(), slo_latency_s=0.1)
    paldia.drain("cpu-half")
    try:
        until(
            lambda: [p.node_id for p in paldia.model("scale").placements] == ["cpu-full"],
            "the model moves",
        )
        assert infer(triton) == [2.0, 4.0]
    finally:
        paldia.drain("cpu-half", undo=True)


def test_an_unknown_model_is_not_found(triton: Any, infer: Any, refused: Any) -> None:
    with pytest.raises(refused) as error:
        infer(triton, "nobody")
    assert "NOT_FOUND" in str(error.value.status())


def _ready(paldia: Any) -> bool:
    return any(place.state.value == "ready" for place in paldia.model("scale").placements)


def _serving(cluster: Any, paldia: Any) -> int:
    """Give the pid of the Triton that answers for the model."""
    port = int(paldia.model("scale").placements[0].endpoint.rpartition(":")[2])
    for pid in _tritons(cluster):
        with contextlib.suppress(psutil.NoSuchProcess):
            listeners = psutil.Process(pid).net_connections("tcp")
            if any(listener.laddr.port == port for listener in listeners):
                return pid
    raise AssertionError(f"no Triton listens on {port}")


def _tritons(cluster: Any) -> set[int]:
    """Give the pids of the Tritons that the cluster's agents run."""
    folder = str(cluster.directory)
    found = set()
    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["name"] == "tritonserver" and folder in " ".join(command):
            found.add(process.pid)
    return found
