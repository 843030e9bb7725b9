"""Layouts of trace files, and what is said about bad ones."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from paldia.core.errors import InvalidArgumentError
from paldia.sim.scenario import Times
from paldia.sim.trace import Trace
from paldia.sim.trace_files import open_trace
from paldia.sim.trace_sources import CHUNK, Counted

REAL = Path(__file__).parents[2] / "bench" / "data" / "traces"


def opened(folder: Path, text: str, function: str = "bursty") -> Trace:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return open_trace(str(path), function=function)


def arrivals(trace: Trace) -> Times:
    return np.concatenate(list(trace.chunks()))


def counts_of(trace: Trace) -> tuple[float, list[int]]:
    assert isinstance(trace.source, Counted)
    return trace.source.interval_s, trace.source.counts.tolist()


@pytest.mark.parametrize(
    ("text", "interval_s", "counts"),
    [
        ("second,requests\n0,3\n1,0\n2,7\n", 1, [3, 0, 7]),
        ("# a remark\n\nminute,requests\n480,3\n\n# another\n481,4\n", 60, [3, 4]),
        ("Minutes, Requests\r\n0, 1\r\n1, 2\r\n", 60, [1, 2]),
        ("second,requests\n5,1\n9,2\n", 1, [1, 0, 0, 0, 2]),
        ("\ufeffsecond,bytes,requests\n0,999,3\n", 1, [3]),
        ("hour_utc,requests\n2009-03-01 23:00:00,5\n2009-03-02 00:00:00,6\n", 3600, [5, 6]),
        ("day,count\n2024-02-28,1\n2024-03-01,2\n", 86400, [1, 0, 2]),
        ("minute,invocations\n0,2.0\n", 60, [2]),
    ],
)
def test_counts_per_interval(
    tmp_path: Path, text: str, interval_s: float, counts: list[int]
) -> None:
    assert counts_of(opened(tmp_path, text)) == (interval_s, counts)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("t_s\n0\n0.5\n2\n", [0, 0.5, 2]),
        ("0\n0.5\n2\n", [0, 0.5, 2]),
        ("1700000000.25\n1700000001.75\n", [0, 1.5]),
        ("t_s,context_tokens,generated_tokens\n4,9,1\n# between\n4,8,1\n7.5,7,1\n", [0, 0, 3.5]),
        ("size,time_s\n8,10\n9,11\n", [0, 1]),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
            "2023-11-16 18:17:04.0319600,3180,8\n",
            [0, 0.052],
        ),
        ("timestamp\n2024-01-01T00:00:00Z\n2024-01-01T01:00:01+01:00\n", [0, 1]),
    ],
)
def test_single_requests(tmp_path: Path, text: str, times: list[float]) -> None:
    trace = opened(tmp_path, text)
    assert arrivals(trace) == pytest.approx(times, abs=1e-6)


def test_single_requests_end_a_mean_gap_after_the_last(tmp_path: Path) -> None:
    assert opened(tmp_path, "t_s\n10\n11\n14\n").duration_s == 6
    assert opened(tmp_path, "t_s\n10\n").duration_s == 1


WIDE = "minute_of_day,calm,burst,spike\n0,5,0,0\n1,6,0,0\n2,5,9,0\n3,6,0,7\n"
AZURE = (
    "HashOwner,HashApp,HashFunction,Trigger,1,2,3,4\no,a,calm,http,5,6,5,6\n"
    "o,a,burst,queue,0,0,9,0\no,b,spike,timer,0,0,0,7\n"
)


@pytest.mark.parametrize("text", [WIDE, AZURE])
@pytest.mark.parametrize(
    ("function", "counts"),
    [
        ("bursty", [0, 0, 9, 7]),
        ("all", [5, 6, 14, 13]),
        ("calm", [5, 6, 5, 6]),
        ("b", [0, 0, 9, 0]),
    ],
)
def test_several_functions(tmp_path: Path, text: str, function: str, counts: list[int]) -> None:
    assert counts_of(opened(tmp_path, text, function)) == (60, counts)


@pytest.mark.parametrize("text", [WIDE, AZURE])
def test_a_function_that_is_not_there(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"no function's name starts with 'x'.*calm"):
        opened(tmp_path, text, "x")


def test_a_name_that_several_start_with(tmp_path: Path) -> None:
    text = "minute,f1,f12,f123\n0,1,2,3\n"
    with pytest.raises(InvalidArgumentError, match=r"several start with 'f'.*f1, f12, f123"):
        opened(tmp_path, text, "f")
    assert counts_of(opened(tmp_path, text, "f12"))[1] == [2]


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        ("", "", "no line but remarks"),
        ("# nothing\n", "", "no line but remarks"),
        ("when,what\n1,2\n", "line 1", "second,requests"),
        ("0,5\n1,6\n", "line 1", "no header that is known"),
        ("second,requests\n", "", "no counts"),
        ("second,requests\n0,0\n1,0\n", "", "all counts are 0"),
        ("second,requests\n0,3\n1,x\n", "line 3", "a whole number of requests"),
        ("second,requests\n0,3\n\n# r\n1,-1\n", "line 5", "found '-1'"),
        ("second,requests\n0,3.5\n", "line 2", "a whole number of requests"),
        ("second,requests\n0,1e13\n", "line 2", "a whole number of requests"),
        ("second,requests\n0,9999999999999\n", "line 2", "a whole number of requests"),
        ("second,requests\n0,3\n1\n", "line 3", "2 columns"),
        ("second,requests\n1,3\n1,3\n", "line 3", "later than the line before"),
        ("second,requests\n0.5,3\n", "line 2", "the number of a second"),
        ("hour,requests\n2009-03-01 23:30:00,5\n", "line 2", "the number of a hour"),
        ("second,requests\n0,3\n90000000,3\n", "line 3", "at most 10,000,000 seconds"),
        ("t_s\n", "", "no requests"),
        ("t_s\n0\n5\n4\n6\n", "line 4", "no earlier than the line above"),
        ("t_s\n0\nsoon\n", "line 3", "a time in seconds"),
        ("t_s\n0\nnan\n", "line 3", "a time in seconds"),
        ("size,t_s\n1,0\n1\n", "line 3", "in column 2"),
        ("0\n1\n\n0.5\n", "line 4", "no earlier"),
        ("HashFunction,1,3\nf,1,2\n", "line 1", "columns 1, 2, 3"),
        ("HashFunction,1,2\nf,1\n", "line 2", "3 columns"),
        ("HashFunction,1,2\nf,1,2\ng,1,many\n", "line 3", "found 'many'"),
    ],
)
def test_a_bad_trace_is_told_by_file_line_and_what_was_expected(
    tmp_path: Path, text: str, where: str, expected: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        opened(tmp_path, text)
    message = str(refused.value)
    assert str(tmp_path / "trace.csv") in message
    assert where in message
    assert expected in message


@pytest.mark.parametrize("before", [9000, CHUNK, 2 * CHUNK + 1])
def test_a_late_step_back_is_found_where_it_is(tmp_path: Path, before: int) -> None:
    times = [*range(before), before - 2, before + 1]
    with pytest.raises(InvalidArgumentError, match=rf"line {before + 2}: .* found '{before - 2}'"):
        opened(tmp_path, "t_s\n" + "\n".join(map(str, times)) + "\n")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"t_s\n0\n\xff\xfe\n")
    with pytest.raises(InvalidArgumentError, match="line 3"):
        open_trace(str(path))


def test_no_file() -> None:
    with pytest.raises(InvalidArgumentError, match=r"no trace at nowhere.csv; give a CSV file or"):
        open_trace("nowhere.csv")


@pytest.mark.parametrize(
    "spec", ["poisson:", "poisson:x", "poisson:0", "poisson:5:-1", "poisson:inf"]
)
def test_a_rate_that_is_none(spec: str) -> None:
    with pytest.raises(InvalidArgumentError, match="poisson:200"):
        open_trace(spec)


def test_a_constant_rate() -> None:
    assert open_trace("poisson:20").duration_s == 3600
    short = open_trace("poisson:20:600")
    assert short.duration_s == 600
    assert short.peak_rps() == 20
    assert len(arrivals(short)) == pytest.approx(12_000, rel=0.05)


def peak_bytes(path: Path, requests: int) -> int:
    path.write_text("t_s\n" + "".join(f"{second}.5\n" for second in range(requests)))
    tracemalloc.start()
    try:
        assert sum(map(len, open_trace(str(path)).chunks())) == requests
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_a_file_of_single_requests(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    assert peak_bytes(path, 50_000) < 1.2 * peak_bytes(path, 12_500)


@pytest.mark.parametrize(
    ("name", "function", "requests", "duration_s"),
    [
        ("azure_functions_2019", "bursty", 52_503, 8 * 3600),
        ("azure_functions_2019", "all", 1_083_148, 8 * 3600),
        ("wikipedia_2009", "bursty", 35_910_551_683, 92 * 86400),
        ("azure_llm_2023_code", "bursty", 8_819, 3436.338),
    ],
)
def test_the_traces_that_come_with_the_benchmarks(
    name: str, function: str, requests: int, duration_s: float
) -> None:
    trace = open_trace(str(REAL / f"{name}.csv"), function=function)
    assert trace.duration_s == pytest.approx(duration_s)
    if isinstance(trace.source, Counted):
        assert int(trace.source.counts.sum()) == requests
    else:
        assert len(arrivals(trace)) == requests
