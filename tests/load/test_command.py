"""`paldia load` from its options to the files it leaves."""

import asyncio
import csv
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from paldia.cli import load_inputs
from paldia.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    PaldiaError,
    UnavailableError,
    UnsupportedError,
)
from paldia.load import files
from paldia.load.plan import Questions

PALDIA = str(Path(sys.executable).with_name("paldia"))
LIMIT_S = 60.0
KEYS = [
    *("url", "model", "mode", "rate_rps", "callers", "duration_s", "warmup_s", "processes"),
    *("connections", "offered", "offered_rps", "answered", "answered_rps", "by_code", "refused"),
    *("expired", "failed", "unsent", "in_slo", "goodput_rps", "slo_ms", "mean_ms", "p50_ms"),
    *("p90_ms", "p99_ms", "p999_ms", "max_ms", "refusal_p50_ms", "refusal_p99_ms"),
    *("lag_p99_ms", "lag_max_ms", "kept_up", "advice", "details", "overhead", "timeline"),
]
ROW = ["second", "offered", "answered", "in_slo", "refused", "failed", "p50_ms", "p99_ms"]
SCHEDULE = {
    "rate": None,
    "is_uniform": False,
    "trace": None,
    "scale": 1.0,
    "function": "all",
    "closed": None,
    "duration_s": None,
    "warmup_s": 0.0,
    "seed": 0,
}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


async def _start(*arguments: object) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        PALDIA, "load", *map(str, arguments), stdout=pipe, stderr=pipe
    )


async def _paldia_load(*arguments: object) -> Ran:
    process = await _start(*arguments)
    out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def test_a_trace_is_sent_and_the_report_is_whole(echo, tmp_path: Path) -> None:
    trace = tmp_path / "counts.csv"
    trace.write_text("second,requests\n0,20\n1,0\n2,30\n")
    inputs = tmp_path / "inputs.json"
    tensor = {"name": "number", "shape": [1], "datatype": "INT32", "data": [7]}
    inputs.write_text(json.dumps({"inputs": [tensor]}))
    out = tmp_path / "made" / "out"
    ran = await _paldia_load(
        *("--url", echo.address, "--model", "any", "--trace", trace, "--scale", 2),
        *("--input", inputs, "--warmup", 0.5, "--slo-ms", 1000, "--per-request", "--out", out),
    )
    assert ran.code == 0, ran.err
    names = {"report.json", "requests.csv", "every-request.csv", "latency.png"}
    assert {path.name for path in out.iterdir()} == names
    report = json.loads((out / "report.json").read_text())
    assert list(report) == KEYS
    assert (report["mode"], report["rate_rps"], report["warmup_s"]) == ("trace", None, 0.5)
    assert report["duration_s"] == 2.5
    assert report["offered"] == report["answered"] == report["in_slo"]
    assert report["by_code"] == {"OK": report["offered"]}
    assert set(report["overhead"]) == {"cpu_us_per_request", "floor_p50_ms", "floor_p99_ms"}
    assert set(echo.seen) == {7}
    # One more asked first, whether it is what the model wants.
    assert len(echo.seen) == 101
    assert list(report["timeline"][0]) == ROW
    with (out / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["offered"]) for row in rows) == report["offered"]
    with (out / "every-request.csv").open() as file:
        every = list(csv.DictReader(file))
    assert len(every) == 100
    assert {row["code"] for row in every} == {"OK"}
    assert sum(float(row["intended_s"]) >= 0 for row in every) == report["offered"]
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "answered within 1000 ms" in ran.out
    assert "us of processor time a request" in ran.out
    assert "load 0 s: " in ran.err


async def test_ctrl_c_ends_it_and_the_report_is_of_what_was_done(echo, tmp_path: Path) -> None:
    process = await _start(
        *("--url", echo.address, "--model", "any", "--rate", 50, "--duration", 600),
        *("--json", "--out", tmp_path),
    )
    async with asyncio.timeout(LIMIT_S):
        await echo.asked(30)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    report = json.loads(out)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert 20 < report["offered"] == report["answered"]
    assert report["duration_s"] < LIMIT_S


async def test_what_is_wrong_is_said_in_one_line(echo, tmp_path: Path) -> None:
    ran = await _paldia_load(
        "--url", echo.address, "--model", "other", "--rate", 1, "--out", tmp_path
    )
    assert ran.code == 1
    assert ran.err == (f"paldia: {echo.address} has no model other: no model named 'other'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "one of --rate R, --trace FILE and --closed N"),
        ({"rate": 1.0, "closed": 1}, "and only one"),
        ({"rate": 0.0}, "the rate must be above 0, not 0"),
        ({"rate": 1.0, "duration_s": 0.0}, "--duration must be above 0"),
        ({"closed": 1, "duration_s": float("nan")}, "--duration must be above 0"),
        ({"rate": 0.001, "duration_s": 1.0}, "none comes in 1 s"),
        ({"trace": "missing.csv"}, "there is no trace at missing.csv"),
        ({"trace": "poisson:1:10", "warmup_s": 20.0}, "after the warm-up of 20 s"),
        ({"trace": "poisson:1:10", "scale": 0.0}, "times its requests"),
        ({"trace": "poisson:1:10", "duration_s": -1.0}, "holds nothing"),
    ],
)
def test_a_time_to_send_that_makes_no_sense_is_refused(given: dict, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        load_inputs.schedule(**(SCHEDULE | given))


def test_the_duration_is_what_comes_after_the_warm_up() -> None:
    rate = load_inputs.schedule(**(SCHEDULE | {"rate": 100.0, "duration_s": 2.0, "warmup_s": 1.0}))
    assert (rate.mode, rate.duration_s) == ("rate", 2.0)
    assert 2.9 < rate.offsets_s[-1] < 3.0
    trace = load_inputs.schedule(
        **(SCHEDULE | {"trace": "poisson:100:9", "duration_s": 2.0, "warmup_s": 1.0})
    )
    assert (trace.mode, trace.duration_s) == ("trace", 2.0)
    assert 2.9 < trace.offsets_s[-1] < 3.0
    closed = load_inputs.schedule(**(SCHEDULE | {"closed": 3}))
    assert (closed.mode, closed.offsets_s, closed.callers) == ("closed", None, 3)


@pytest.fixture
def ask() -> Callable[..., object]:
    """Give a function that asks a server in a thread."""

    async def questions(url: str, given: str = "random", **changes: object) -> object:
        settings = {"shapes": (), "bytes_length": 4, "metadata": (), "seed": 0} | changes
        return await asyncio.to_thread(load_inputs.questions, url, "any", given, **settings)

    return questions


async def test_random_inputs_are_what_the_server_wants(echo, ask) -> None:
    questions = await ask(echo.address, shapes=("number=1",), metadata=(("who", "me"),))
    assert len(questions.payloads) == 16
    assert questions.outputs == {"same"}
    assert ("who", "me") in echo.metadata
    assert len(questions.answer) > 0


async def test_a_server_that_is_not_there_is_said(ask) -> None:
    with pytest.raises(UnavailableError, match=r"no inference server answers at 127.0.0.1:1"):
        await ask("127.0.0.1:1")


async def test_an_input_that_the_model_refuses_comes_with_what_it_wants(
    echo, ask, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    tensor = {"name": "letter", "shape": [1], "datatype": "INT32", "data": [7]}
    path.write_text(json.dumps({"inputs": [tensor]}))
    with pytest.raises(
        InvalidArgumentError, match=r"there must be a number; it wants number INT32"
    ):
        await ask(echo.address, str(path))
    for shapes in (("number",), ("number=a",), ("number=0",), ("=1",)):
        with pytest.raises(InvalidArgumentError, match="--shape takes NAME=1,16"):
            await ask(echo.address, shapes=shapes)


async def test_a_first_answer_that_is_none_is_said(echo, ask) -> None:
    echo.is_empty = True
    with pytest.raises(NotServableError, match="is no answer: the answer has no outputs"):
        await ask(echo.address)


async def test_a_first_answer_is_waited_for(serving, ask) -> None:
    asked = 0

    async def answer(number: int, context: grpc.aio.ServicerContext) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not loaded yet")

    async with serving(answer) as server:
        await ask(server.address)
    assert asked == 2


async def test_a_server_that_fails_at_once_is_told_of_at_once(serving, ask) -> None:
    async def answer(number: int, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "broken\nto bits")

    async with serving(answer) as server:
        with pytest.raises(PaldiaError, match="INTERNAL: broken to bits"):
            await ask(server.address)


async def test_a_server_that_describes_nothing_needs_a_file(ask) -> None:
    class Silent(service_pb2_grpc.GRPCInferenceServiceServicer):
        pass

    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Silent(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with pytest.raises((UnsupportedError, NotFoundError), match="give --input"):
        await ask(f"127.0.0.1:{port}")
    await server.stop(0)


def test_metadata_are_pairs() -> None:
    assert load_inputs.metadata_of(["Key=a=b", "x="]) == (("key", "a=b"), ("x", ""))
    for text in ("key", "=value"):
        with pytest.raises(InvalidArgumentError, match="--metadata takes KEY=VALUE"):
            load_inputs.metadata_of([text])


def test_large_requests_lower_how_many_may_be_under_way() -> None:
    small = Questions((bytes(1000),), bytes(1000))
    large = Questions((bytes(10), bytes(1 << 20)), bytes(1 << 20))
    assert load_inputs.in_flight_limit(None, small) == 4096
    assert load_inputs.in_flight_limit(None, large) == 512
    assert load_inputs.in_flight_limit(7, large) == 7


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgumentError, match=r"nothing can be written to .*choose another"):
        files.prepare(tmp_path / "file" / "out")
