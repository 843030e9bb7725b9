"""report.md: what came out, to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from paldia.sim.outcome import ModelOutcome, Outcome
from paldia.sim.report import Settings, bill, together

_LEAST_BEND = 1e-9


def report_text(
    settings: Settings,
    outcomes: Sequence[Outcome],
    pictures: Mapping[str, str],
    unfinished: Sequence[str] = (),
) -> str:
    """Write the report in Markdown.

    Args:
        pictures: captions by file name, relative to the report.
        unfinished: policies that were to be run and weren't.
    """
    parts = [
        f"# {settings.workload} under {settings.trace}",
        f"**Interrupted**: {', '.join(unfinished)} didn't run to the end." if unfinished else "",
        "\n".join(_sentences(settings, outcomes)),
        *_section("Policies", _policies(settings, outcomes)),
        *_section("Models", _models(outcomes)),
        *_section("Where the money went", _money(settings, outcomes)),
        *_section("What the slowest 1 % of answers waited for", _tail(outcomes)),
        "## Pictures" if pictures else "",
        *(f"![{caption}]({name})\n\n{caption}" for name, caption in pictures.items()),
        "## What was simulated",
        "\n".join(_what(settings)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, table: str) -> tuple[str, ...]:
    return (f"## {title}", table) if table else ()


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; headings that start with > stand over numbers."""
    if not rows:
        return ""
    rule = ["--:" if heading.startswith(">") else "---" for heading in headings]
    lines = [[heading.removeprefix(">") for heading in headings], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sentences(settings: Settings, outcomes: Sequence[Outcome]) -> Iterator[str]:
    slo = f"{settings.slo_s * 1e3:g} ms"
    for outcome in outcomes:
        every = together(outcome)
        yield (
            f"- **{outcome.policy}** answered {_percent(every.slo_compliance)} of "
            f"{every.requests:,} requests within {slo}, for {_usd(outcome.cost_usd)}."
        )


def _policies(settings: Settings, outcomes: Sequence[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        every = together(outcome)
        per_million = outcome.cost_usd / every.requests * 1e6 if every.requests else 0.0
        unanswered = every.requests - every.answered - every.refused - every.failed
        rows.append(
            (
                outcome.policy,
                _percent(every.slo_compliance),
                _latency(every, 0.5),
                _latency(every, 0.99),
                f"{every.answered - every.in_slo:,}",
                f"{every.refused + every.failed + unanswered:,}",
                _usd(outcome.cost_usd),
                _usd(per_million),
                f"{outcome.node_hours:.3f}",
                str(outcome.switches),
            )
        )
    headings = (
        *("policy", f">within {settings.slo_s * 1e3:g} ms", ">p50", ">p99", ">late"),
        *(">not answered", ">cost", ">per million", ">node-hours", ">changes of place"),
    )
    return _table(headings, rows)


def _models(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (
            model.name,
            outcome.policy,
            f"{model.requests:,}",
            _percent(model.slo_compliance),
            _latency(model, 0.5),
            _latency(model, 0.99),
        )
        for outcome in outcomes
        if len(outcome.models) > 1
        for model in outcome.models
    ]
    return _table(("model", "policy", ">requests", ">within SLO", ">p50", ">p99"), rows)


def _money(settings: Settings, outcomes: Sequence[Outcome]) -> str:
    rows = [
        (
            outcome.policy,
            kind,
            f"{hours:.3f}",
            _usd(settings.prices_usd_per_hour[kind]),
            _usd(usd),
            _percent(usd / outcome.cost_usd if outcome.cost_usd else 0.0, 0),
        )
        for outcome in outcomes
        for kind, (hours, usd) in sorted(
            bill(outcome, settings.prices_usd_per_hour).items(), key=lambda it: -it[1][1]
        )
    ]
    return _table(("policy", "hardware", ">node-hours", ">an hour", ">cost", ">share"), rows)


def _tail(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        every = together(outcome)
        parts = (
            every.tail_queue_s,
            every.tail_interference_s,
            every.tail_execution_s,
            every.tail_cold_s,
        )
        rows.append((outcome.policy, *map(_ms, parts), _ms(sum(parts))))
    headings = (
        *("policy", ">for a lane", ">slowed by others", ">their own execution"),
        *(">nothing loaded yet", ">mean of the slowest 1 %"),
    )
    return _table(headings, rows)


def _what(settings: Settings) -> Iterator[str]:
    nodes = ", ".join(
        f"{number} x {kind} at {_usd(settings.prices_usd_per_hour[kind])} an hour"
        for kind, number in settings.nodes.items()
    )
    yield f"- **Machines** ({settings.hardware_set}): {nodes}."
    yield (
        f"- **Load**: {settings.trace}, {_span(settings.duration_s)} of simulated time, peak "
        f"{settings.load:,.4g} requests/s (highest mean over 10 s). Seed {settings.seed}."
    )
    yield from _bent(settings)
    yield (
        "- **Latency** counts from arrival to answer, and percentiles are over answers; "
        "compliance counts every request offered. Cost runs from a machine's activation to its "
        "release."
    )


def _bent(settings: Settings) -> Iterator[str]:
    """Say what was done to the trace, and what that means for the figures."""
    if abs(settings.speed - 1) > _LEAST_BEND:
        verb = "compressed" if settings.speed > 1 else "stretched"
        times = max(settings.speed, 1 / settings.speed)
        own = _span(settings.duration_s * settings.speed)
        yield (
            f"- **Time was {verb} {times:,.4g} times**: {own} of the trace went by in "
            f"{_span(settings.duration_s)}. Machines and models still take "
            "as long to start as they do, so against the trace's own ups and downs starting is "
            f"{times:,.4g} times as {'slow' if settings.speed > 1 else 'fast'} as it would be "
            "without, and costs are those of the simulated time."
        )
    if abs(settings.factor - 1) > _LEAST_BEND:
        yield (
            f"- **The load was scaled**: {settings.factor:,.4g} requests for each recorded one, "
            "bunched as those were."
        )


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.4g} s"
    if seconds < 7200:
        return f"{seconds / 60:.4g} minutes"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.4g} hours"
    return f"{seconds / 86400:.4g} days"


def _percent(share: float, digits: int = 2) -> str:
    return f"{share * 100:.{digits}f} %"


def _latency(model: ModelOutcome, quantile: float) -> str:
    return _ms(model.latency_s(quantile)) if model.answered else "-"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _usd(dollars: float) -> str:
    """Give dollars to a tenth of a cent; what is less to three digits."""
    return f"${dollars:,.3f}" if dollars >= 0.1 else f"${dollars:.3g}"
