"""The comparison of data planes: all of it that needs no other server."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf import text_format
from paldia_nodeagent.emulator import folder as emulated_folder
from tritonclient.grpc import model_config_pb2, service_pb2

from bench.dataplane.children import free_address
from bench.dataplane.contenders import contenders, envoy_config
from bench.dataplane.environments import REQUIREMENTS, Environment, installed
from bench.dataplane.measure import Pilot, figures
from bench.dataplane.passthrough import serve
from bench.dataplane.report import write
from bench.dataplane.session import Session
from bench.dataplane.summary import rate_of, rows, wanted
from bench.dataplane.workloads import workloads
from bench.processes import CpuMeter, tree, tritons_and_others, used

WORKLOADS = {each.name: each for each in workloads()}
SYSTEMS = (
    *("Triton directly", "PALDIA 1 worker", "PALDIA N workers (N = 2)"),
    *("pass-through 1 process", "pass-through N processes (N = 2)", "MLServer", "Ray Serve"),
)


def visited(system: str, workload: str = "1KB", **changed: Any) -> dict[str, Any]:
    usual = {
        "peak_rps": 1000.0,
        "cpu_us_per_request": 400.0,
        "triton_cpu_us_per_request": 100.0,
        "beside_cpu_us_per_request": 1.0,
        "load_cpu_us_per_request": 200.0,
        "rate_rps": 100.0,
        "p50_ms": 2.0,
        "p99_ms": 5.0,
        "kept_up": True,
        "errors": 0,
    }
    return {"system": system, "workload": workload, **usual, **changed}


class TestWorkloads:
    @pytest.mark.parametrize("name", ["1KB", "600KB", "resnet50"])
    def test_a_model_folder_is_one_that_triton_or_an_emulated_node_takes(
        self, name: str, tmp_path: Path
    ) -> None:
        workload = WORKLOADS[name]
        folder = workload.write(tmp_path)
        text = (folder / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert config.name == folder.name == workload.model
        assert config.HasField("dynamic_batching"), "as a user would have it"
        assert [it.name for it in config.input] == [workload.input]
        assert tuple(config.input[0].dims) == workload.shape
        if workload.emulated:
            emulated_folder.read_config(folder)
        else:
            compile((folder / "1" / "model.py").read_text(), "model.py", "exec")

    def test_sizes_are_what_the_names_say(self) -> None:
        sizes = {
            name: WORKLOADS[name].requests(1)[0].nbytes for name in ("1KB", "600KB", "resnet50")
        }
        assert sizes == {"1KB": 1024, "600KB": 600_000, "resnet50": 1024}

    @pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
    def test_requests_differ_and_are_the_same_again(self, workload: Any, tmp_path: Path) -> None:
        first, second = workload.requests(2)
        assert not np.array_equal(first, second)
        assert np.array_equal(first, workload.requests(1)[0])
        told = json.loads(workload.write_requests(tmp_path / "requests.json", 1).read_text())
        (tensor,) = told[0]["inputs"]
        assert np.array_equal(np.array(tensor["data"]).reshape(tensor["shape"]), first)
        request = service_pb2.ModelInferRequest.FromString(workload.encoded(1)[0])
        assert request.raw_input_contents[0] == first.tobytes()
        assert [*request.inputs[0].shape] == [*first.shape]

    def test_a_wrong_answer_is_wrong(self) -> None:
        identity, emulated = WORKLOADS["1KB"], WORKLOADS["resnet50"]
        (sent,) = identity.requests(1)
        assert identity.is_right(sent, sent.copy())
        assert not identity.is_right(sent, identity.requests(2)[1]), "another one's answer"
        zeros = np.zeros((1, *emulated.out_shape), np.float32)
        assert emulated.is_right(sent, zeros)
        assert not emulated.is_right(sent, zeros[:, 1:])
        assert not emulated.is_right(sent, zeros + 1)


class TestContenders:
    def test_they_are_named_as_reports_are_read(self) -> None:
        made = {name: Environment(Path(name), {}) for name in REQUIREMENTS}
        names = [each.system for each in contenders(made)]
        for begins in (
            *("Triton", "PALDIA 1 worker", "PALDIA N workers", "pass-through 1"),
            *("pass-through N", "Envoy", "MLServer", "Ray Serve"),
        ):
            assert any(name.startswith(begins) for name in names), begins

    def test_who_cant_be_had_is_left_out(self) -> None:
        names = [each.system for each in contenders({})]
        assert not [name for name in names if name.startswith(("Envoy", "MLServer", "Ray"))]

    def test_whole_servers_are_not_asked_for_an_emulated_card(self) -> None:
        made = {name: Environment(Path(name), {}) for name in REQUIREMENTS}
        cant = {it.system for it in contenders(made) if not it.can(WORKLOADS["resnet50"])}
        assert cant == {"MLServer", "Ray Serve"}

    def test_envoy_listens_here_and_sends_there(self) -> None:
        told = json.dumps(envoy_config("127.0.0.1:81", "127.0.0.1:82"))
        resources = json.loads(told)["static_resources"]
        (listener,), (cluster,) = resources["listeners"], resources["clusters"]
        assert listener["address"]["socket_address"]["port_value"] == 81
        (upstream,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert upstream["endpoint"]["address"]["socket_address"]["port_value"] == 82

    def test_an_environment_counts_only_as_it_is_wanted_now(self, tmp_path: Path) -> None:
        assert installed("ray", tmp_path) == {}
        ready = tmp_path / "ray" / "ready.json"
        ready.parent.mkdir()
        known = {"wanted": REQUIREMENTS["ray"], "versions": {"ray": "2"}}
        ready.write_text(json.dumps(known))
        assert installed("ray", tmp_path) == {"ray": "2"}
        ready.write_text(json.dumps({**known, "wanted": ["ray==1"]}))
        assert installed("ray", tmp_path) == {}


class TestPassthrough:
    @pytest.fixture
    async def proxied(self) -> AsyncIterator[str]:
        """An upstream that turns bytes around, or refuses, with a pass-through before it."""

        async def turn(request: bytes, context: Any) -> bytes:
            if request == b"no":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
            return request[::-1]

        class Turning(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(turn)

        upstream = grpc.aio.server(handlers=(Turning(),))
        port = upstream.add_insecure_port("127.0.0.1:0")
        await upstream.start()
        stop, address = asyncio.Event(), free_address()
        task = asyncio.create_task(serve(address, f"127.0.0.1:{port}", None, stop))
        yield address
        stop.set()
        await task
        await upstream.stop(0)

    async def test_bytes_go_there_and_back_untouched(self, proxied: str) -> None:
        async with grpc.aio.insecure_channel(proxied) as channel:
            call = channel.unary_unary("/any.Service/Method")
            sent = bytes(range(256)) * 4000
            assert await call(sent, wait_for_ready=True, timeout=10) == sent[::-1]

    async def test_an_error_comes_as_it_was(self, proxied: str) -> None:
        async with grpc.aio.insecure_channel(proxied) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary("/any.Service/Method")(b"no", wait_for_ready=True)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert raised.value.details() == "too many"


class TestCpu:
    def test_what_was_used_before_counts_for_nothing_unless_the_process_is_new(self) -> None:
        before = {(1, 0.0): 5.0, (2, 0.0): 7.0}
        after = {(1, 0.0): 5.5, (1, 9.0): 2.0}
        assert used(before, after) == 2.5

    def test_work_is_seen_where_it_is_done(self) -> None:
        own, parent = psutil.Process(), psutil.Process(os.getppid())
        meter = CpuMeter(lambda: {"own": [own], "none": []})
        meter.start()
        began_s = time.process_time()
        while time.process_time() - began_s < 0.1:
            sum(range(1000))
        found = meter.used_s()
        assert found["own"] >= 0.08
        assert found["none"] == 0
        assert parent.pid not in [process.pid for process in tree(own.pid)]

    def test_who_has_ended_is_nobody(self) -> None:
        assert tree(2**22 + 1) == []

    def test_tritons_are_told_by_name(self) -> None:
        class Named:
            def __init__(self, name: str) -> None:
                self.name: Callable[[], str] = lambda: name

        names = ["tritonserver", "triton_python_b", "paldia-nodeagen"]
        server, stub, agent = (Named(name) for name in names)
        assert tritons_and_others([server, agent, stub]) == ([server, stub], [agent])  # type: ignore[list-item]


class TestSummary:
    def test_a_row_is_a_median_with_its_spread(self) -> None:
        found = rows(visited("MLServer", peak_rps=peak, errors=1) for peak in (3.0, 1.0, 9.0))
        (row,) = found
        assert (row["peak_rps"], row["spread"]["peak_rps"]) == (3.0, [1.0, 9.0])
        assert (row["errors"], row["repeats"]) == (3, 3)

    def test_what_is_added_is_over_the_same_workloads_direct_way(self) -> None:
        found = rows(
            [
                visited("Triton directly", p50_ms=1.0),
                visited("Envoy 1 thread", p50_ms=1.5),
                visited("Triton directly", "600KB", p50_ms=10.0),
                visited("Envoy 1 thread", "600KB", p50_ms=12.0),
            ]
        )
        assert [row["added_p50_ms"] for row in found] == [0.0, 0.5, 0.0, 2.0]

    def test_without_a_figure_there_is_no_median_and_no_difference(self) -> None:
        found = rows([visited("Triton directly"), visited("MLServer", p50_ms=None)])
        assert found[1]["p50_ms"] is None
        assert found[1]["added_p50_ms"] is None

    @pytest.fixture
    def good(self) -> list[dict[str, Any]]:
        """Visits that are just as wanted."""
        told = {
            "Triton directly": {"p50_ms": 1.0},
            "PALDIA 1 worker": {"peak_rps": 1300.0, "cpu_us_per_request": 425.0, "p50_ms": 2.35},
            "PALDIA N workers (N = 2)": {"peak_rps": 1950.0, "p50_ms": 2.35},
            "pass-through 1 process": {"cpu_us_per_request": 500.0, "p50_ms": 2.0},
            "pass-through N processes (N = 2)": {"peak_rps": 1500.0, "p50_ms": 2.0},
            "MLServer": {"peak_rps": 1500.0},
            "Ray Serve": {"peak_rps": 390.0},
        }
        return [visited(system, **told[system]) for system in SYSTEMS]

    def test_what_is_just_as_wanted_is_met(self, good: list[dict[str, Any]]) -> None:
        assert [it["met"] for it in wanted(rows(good))] == [True] * 7

    @pytest.mark.parametrize(
        ("system", "key", "failing"),
        [
            ("PALDIA 1 worker", "cpu_us_per_request", {0}),
            ("Ray Serve", "peak_rps", {1}),
            ("MLServer", "peak_rps", {2}),
            ("pass-through 1 process", "peak_rps", {3}),
            ("pass-through N processes (N = 2)", "peak_rps", {4}),
            ("PALDIA 1 worker", "p50_ms", {5}),
            ("PALDIA N workers (N = 2)", "p50_ms", {6}),
        ],
    )
    def test_each_ratio_can_fail(
        self, good: list[dict[str, Any]], system: str, key: str, failing: set[int]
    ) -> None:
        worse = [{**it, key: it[key] * 1.02} if it["system"] == system else it for it in good]
        judged = wanted(rows(worse))
        assert {at for at, it in enumerate(judged) if it["met"] is False} == failing

    def test_who_is_missing_fails_nothing(self, good: list[dict[str, Any]]) -> None:
        without = [it for it in good if it["system"] != "Ray Serve"]
        assert [it["met"] for it in wanted(rows(without))].count(None) == 1

    def test_other_workloads_are_not_judged(self) -> None:
        large = rows(visited(system, "600KB") for system in SYSTEMS)
        assert {it["met"] for it in wanted(large)} == {None}

    def test_latencies_are_compared_where_the_slowest_is_half_busy(self) -> None:
        assert rate_of({"a": 500.0, "b": 80.0}) == 40.0


def test_cpu_is_shared_out_over_what_was_answered() -> None:
    report = {
        "answered_rps": 50.0,
        "offered_rps": 51.0,
        "offered": 110,
        "answered": 100,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "kept_up": True,
        "overhead": {"cpu_us_per_request": 9.0},
    }
    found = figures(report, {**report, "answered": 110}, {"system": 0.05, "triton": 0.01})
    assert found["cpu_us_per_request"] == pytest.approx(500.0)
    assert found["triton_cpu_us_per_request"] == pytest.approx(100.0)
    assert found["beside_cpu_us_per_request"] == 0.0
    assert found["errors"] == 10


class TestSession:
    def test_a_stopped_run_goes_on_and_a_torn_line_is_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "visits.jsonl"
        first = Session(path, 8.0)
        first.keep_pilot(("MLServer", "1KB"), Pilot(100.0, 32))
        first.keep_visit(("MLServer", "1KB"), 0, {"peak_rps": 90.0})
        with path.open("a") as file:
            file.write('{"system": "MLSer')
        again = Session(path, 8.0)
        again.read()
        assert again.pilots == first.pilots
        assert again.visits == first.visits
        assert [*again.visits] == [("MLServer", "1KB", 0)]

    def test_loads_of_another_length_are_not_mixed(self, tmp_path: Path) -> None:
        path = tmp_path / "visits.jsonl"
        Session(path, 3.0).keep_visit(("MLServer", "1KB"), 0, {"peak_rps": 90.0})
        again = Session(path, 8.0)
        again.read()
        assert again.visits == {}


def test_the_report_says_it_all(tmp_path: Path) -> None:
    found = rows([*map(visited, SYSTEMS), visited("Triton directly", "600KB", p50_ms=None)])
    write(
        tmp_path,
        found,
        versions={"ray": "2.60.0"},
        skipped={"envoy": "no such package"},
        machine={"cores": 2, "processor": "some"},
    )
    document = json.loads((tmp_path / "report.json").read_text())
    assert {row["system"] for row in document["rows"]} == set(SYSTEMS)
    assert {row["workload"] for row in document["rows"]} == {"1KB", "600KB"}
    assert len(document["wanted"]) == 7
    text = (tmp_path / "report.md").read_text()
    assert "Left out: envoy: no such package." in text
    assert all(f"| {system} |" in text for system in SYSTEMS)
    assert (tmp_path / "dataplane.png").stat().st_size > 0
