"""`paldia load`: requests to any server of the protocol, and what becomes of them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console, RenderableType

from paldia.cli import load_inputs as told
from paldia.cli import load_options as option
from paldia.cli.options import SLO_MS, AsJson
from paldia.cli.output import print_json, show, table
from paldia.cli.progress import Update, progress
from paldia.load import files
from paldia.load.plan import Plan
from paldia.load.run import LoadRun, Progress, Result
from paldia.sim.trace_columns import BURSTY

_OUT = Path("out/load")
_STAGE_S = 5
"""Off a terminal, a line for so many seconds."""


def load(
    *,
    url: option.Url = "127.0.0.1:8001",
    model: option.ModelName,
    rate: option.Rate = None,
    uniform: option.Uniform = False,
    trace: option.TraceSpec = None,
    scale: option.Scale = 1.0,
    function: option.Function = BURSTY,
    closed: option.Closed = None,
    duration: option.Duration = None,
    warmup: option.Warmup = 0.0,
    given: option.Input = told.RANDOM,
    shape: option.Shapes = None,
    bytes_length: option.BytesLength = 16,
    slo_ms: Annotated[float | None, SLO_MS] = None,
    deadline_ms: option.DeadlineMs = 30_000.0,
    processes: option.Processes = None,
    connections: option.Connections = 8,
    in_flight: option.InFlight = None,
    check: option.Check = 100,
    metadata: option.Metadata = None,
    per_request: option.PerRequest = False,
    seed: option.Seed = 0,
    out: option.Out = _OUT,
    as_json: AsJson = False,
) -> None:
    """Send requests to any server of the KServe V2 protocol and measure what becomes of them.

    At a rate or as in a trace each request is sent when it is due, however the others fare, and
    latency counts from then. Leaves report.json, requests.csv and latency.png. Ctrl-C ends it and
    writes what there is.
    """
    files.prepare(out)
    when = told.schedule(
        rate=rate,
        is_uniform=uniform,
        trace=trace,
        scale=scale,
        function=function,
        closed=closed,
        duration_s=duration,
        warmup_s=warmup,
        seed=seed,
    )
    pairs = told.metadata_of(metadata or ())
    what = told.questions(
        url,
        model,
        given,
        shapes=shape or (),
        bytes_length=bytes_length,
        metadata=pairs,
        seed=seed,
    )
    plan = Plan(
        url,
        model,
        what,
        when,
        deadline_s=deadline_ms / 1e3,
        slo_s=None if slo_ms is None else slo_ms / 1e3,
        connections=connections,
        in_flight_limit=told.in_flight_limit(in_flight, what),
        processes=processes,
        check_every=check,
        metadata=pairs,
    )
    _run(plan, rate, out, per_request=per_request, as_json=as_json)


def _run(
    plan: Plan,
    rate_rps: float | None,
    out: Path,
    *,
    per_request: bool,
    as_json: bool,
) -> None:
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_interruptible())
        update = stack.enter_context(progress(Console(stderr=True, quiet=as_json), "load"))
        update("measuring the generator itself")
        if per_request:
            sheet = files.every_request(out / "every-request.csv", plan.when.warmup_s)
            run = LoadRun(plan, stack.enter_context(sheet))
        else:
            run = LoadRun(plan)
        run.go(lambda now: _tell(update, now), lambda: bool(signals))
    if not signals or run.tally.offered:
        result = run.result()
        document = files.document(plan, result, rate_rps)
        files.write(out, document, run.tally, plan.slo_s)
        _draw(plan, run, result, out)
        print_json(document) if as_json else show(*_shown(plan, result), f"{out / 'report.json'}")
    if signals:
        raise typer.Exit(128 + signals[0])


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Let Ctrl-C end the run and not the program; the second one does. Gives the signals."""
    seen: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _tell(update: Update, now: Progress) -> None:
    seen = now.window
    latencies = "no answers"
    if seen.p50_s is not None and seen.p99_s is not None:
        latencies = f"p50 {seen.p50_s * 1e3:.1f} ms, p99 {seen.p99_s * 1e3:.1f} ms"
    update(
        f"{int(now.at_s) // _STAGE_S * _STAGE_S} s",
        f"{now.offered}/s offered, {seen.answered}/s answered, {latencies}, {seen.refused} "
        f"refused, {seen.failed} failed, {seen.lag_s * 1e3:.1f} ms late"
        + (", warm-up" if now.is_warmup else ""),
        min(1.0, now.at_s / now.total_s),
    )


def _draw(plan: Plan, run: LoadRun, result: Result, out: Path) -> None:
    # It takes a second to import.
    from paldia.load.plots import draw  # noqa: PLC0415

    report = result.report
    remark = f"{report.answered:,} of {report.offered:,} answered in {report.duration_s:g} s"
    draw(out / "latency.png", run.tally, plan.slo_s, f"{plan.model} at {plan.address}", remark)


def _shown(plan: Plan, result: Result) -> list[RenderableType]:
    report, floor = result.report, result.floor
    latencies = table(
        (">MEAN MS", ">P50", ">P90", ">P99", ">P99.9", ">MAX"),
        [
            tuple(
                "none" if value is None else f"{value:.2f}"
                for value in (
                    *(report.mean_ms, report.p50_ms, report.p90_ms),
                    *(report.p99_ms, report.p999_ms, report.max_ms),
                )
            )
        ],
    )
    ends = {
        "refused": report.refused,
        "expired": report.expired,
        "failed": report.failed,
        "unsent": report.unsent,
    }
    lines = [
        f"{report.offered:,} requests in {report.duration_s:g} s, {report.offered_rps:,.1f}/s; "
        f"{report.answered:,} answered, {report.answered_rps:,.1f}/s"
        + "".join(f", {count:,} {name}" for name, count in ends.items() if count)
    ]
    if report.in_slo is not None:
        lines.append(
            f"{report.compliance:.2%} answered within {report.slo_ms:g} ms: goodput "
            f"{report.goodput_rps:,.1f}/s"
        )
    lines += [f"first {code}: {said}" for code, said in sorted(result.details.items())]
    overhead = (
        f"the generator: {result.processes} process{'es' if result.processes > 1 else ''}, "
        f"{result.connections} connections, "
        f"{result.cpu_s_per_request * 1e6:.0f} us of processor time a request, "
        f"{report.lag_p99_ms:.2f} ms late in the 99th percentile; by itself "
        f"{floor.p50_s * 1e3:.2f} ms at p50 and {floor.p99_s * 1e3:.2f} ms at p99"
    )
    return [*lines, latencies, overhead, *result.advice]
