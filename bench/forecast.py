"""`python -m bench.forecast`: every forecaster on every trace, by pinball loss.

Writes report.json, report.md and forecast.png.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from bench import forecast_report as report
from bench import forecast_score as score
from bench.forecast_score import HORIZONS_S, QUANTILES, REFERENCE, Key, Load, Rates
from paldia.core.forecast import blocks, surprise
from paldia.core.forecast.choice import FORECASTERS
from paldia.core.forecast.surprise import Surprise
from paldia.sim.trace import Trace
from paldia.sim.trace_files import open_trace

DATA = Path(__file__).parent / "data" / "traces"
PEAK_RPS = 200.0
PART_S = 4 * 3600.0
"""At most so much of each trace is scored."""
ON_OFF = "f265"
"""The busiest of the bursty functions that is silent in most minutes."""
TRIED = (ON_OFF, "f400", "f087")
"""Functions that were looked at when the forecasters were made."""
UNSEEN = 20
UNSEEN_PART_S = 7200.0

RATE_KEYS: tuple[Key, ...] = tuple((h, q) for h in score.RATE_HORIZONS_S for q in QUANTILES)
PEAK_KEYS: tuple[Key, ...] = ((60.0, 0.9), (60.0, 0.99))

CONSTANTS: tuple[tuple[ModuleType, str, tuple[float, ...]], ...] = (
    (surprise, "LEVEL_SECONDS", (5.0, 10.0, 20.0)),
    (surprise, "JUMP_DEVIATIONS", (2.0, 3.0, 4.0)),
    (blocks, "BLOCKS_KEPT", (15, 30, 60)),
)
"""What `surprise` rests on, and what else each might be."""

Losses = dict[Key, float]


def traces() -> list[Trace]:
    """Open the traces, each scaled to the same peak."""
    functions, hours = str(DATA / "azure_functions_2019.csv"), str(DATA / "wikipedia_2009.csv")
    opened = {
        "azure-bursty": open_trace(functions),
        "azure-on-off": open_trace(functions, function=ON_OFF),
        # A day goes by in an hour.
        "wikipedia": open_trace(hours).faster(24),
        "azure-llm-code": open_trace(str(DATA / "azure_llm_2023_code.csv")),
        "poisson": open_trace("poisson:200"),
    }
    return [
        replace(trace.part(0, min(PART_S, trace.duration_s)).scaled_to(PEAK_RPS), name=name)
        for name, trace in opened.items()
    ]


def unseen() -> list[Trace]:
    """Open traces on which nothing was ever chosen: the busiest functions but for `TRIED`.

    Their seed differs too, so that chance isn't shared either.
    """
    functions = str(DATA / "azure_functions_2019.csv")
    with Path(DATA / "azure_functions_2019_functions.csv").open() as file:
        listed = list(csv.DictReader(line for line in file if not line.startswith("#")))
    busiest = sorted(listed, key=lambda row: -float(row["mean_per_minute"]))
    names = [row["id"] for row in busiest if row["id"] not in TRIED][:UNSEEN]
    return [
        replace(
            open_trace(functions, function=name, seed=1).part(0, UNSEEN_PART_S).scaled_to(PEAK_RPS),
            name=name,
        )
        for name in names
    ]


def counted(trace: Trace) -> Load:
    """Count a trace's arrivals in windows, up to its last whole second."""
    per_second = round(1 / score.WINDOW_S)
    windows = int(trace.duration_s) * per_second
    counts = np.zeros(windows, dtype=np.int64)
    for times in trace.chunks():
        at = (times * per_second).astype(np.int64)
        counts += np.bincount(at[at < windows], minlength=windows)
    return Load(trace.name, counts)


def mean_loss(losses: Losses, keys: tuple[Key, ...]) -> float:
    """Mean over some horizons and quantiles."""
    return float(np.mean([losses[key] for key in keys]))


def relative(mine: list[Losses], reference: list[Losses], keys: tuple[Key, ...]) -> float:
    """Geometric mean, over traces, of the ratio of mean losses."""
    ratios = [mean_loss(a, keys) / mean_loss(b, keys) for a, b in zip(mine, reference, strict=True)]
    return float(np.exp(np.mean(np.log(ratios))))


@contextmanager
def changed(module: ModuleType, constant: str, value: float) -> Iterator[None]:
    """Let a constant be another for a while."""
    before = getattr(module, constant)
    setattr(module, constant, value)
    try:
        yield
    finally:
        setattr(module, constant, before)


def tuned(
    loads: list[Load], ours: list[Losses], progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Choose each constant of `surprise` without the trace that it is then tried on."""

    def both(losses: Losses) -> float:
        return mean_loss(losses, RATE_KEYS) + mean_loss(losses, PEAK_KEYS)

    rows = []
    for module, constant, values in CONSTANTS:
        default = getattr(module, constant)
        found = {default: [both(losses) for losses in ours]}
        for value in values:
            if value == default:
                continue
            with changed(module, constant, value):
                found[value] = [
                    both(score.losses(score.forecasts(Surprise(), load, progress), load))
                    for load in loads
                ]
        for at, load in enumerate(loads):
            others = {v: sum(losses) - losses[at] for v, losses in found.items()}
            chosen = min(others, key=others.__getitem__)
            rows.append(
                {
                    "constant": constant,
                    "left_out": load.name,
                    "chosen": chosen,
                    "loss": found[chosen][at],
                    "default": default,
                    "default_loss": found[default][at],
                    "losses": {f"{value:g}": losses[at] for value, losses in found.items()},
                }
            )
    return rows


def summarised(
    names: list[str], loads: list[Load], losses: dict[tuple[str, str], Losses]
) -> list[dict[str, Any]]:
    """Give each forecaster's figures over all traces, and on how many it is the best."""
    reference = [losses[load.name, REFERENCE] for load in loads]
    rows: list[dict[str, Any]] = [{"forecaster": name} for name in names]
    for question, keys in (("rate", RATE_KEYS), ("peak", PEAK_KEYS)):
        found = {
            name: [mean_loss(losses[load.name, name], keys) for load in loads] for name in names
        }
        best = [min(names, key=lambda name: found[name][at]) for at in range(len(loads))]
        for row in rows:
            name = row["forecaster"]
            row[f"{question}_loss"] = float(np.mean(found[name]))
            row[f"{question}_relative"] = relative(
                [losses[load.name, name] for load in loads], reference, keys
            )
            row[f"{question}_best"] = best.count(name)
    return rows


def weighed(load: Load) -> list[dict[str, Any]]:
    """Say what each forecaster takes: microseconds an update, and numbers to store."""
    return [
        {
            "forecaster": kind.name,
            "update_us": score.microseconds_per_update(kind, load),
            "state_numbers": score.state_size(kind, load),
        }
        for kind in FORECASTERS
    ]


def on_unseen(progress: Callable[[int], None]) -> list[dict[str, Any]]:
    """Score the forecasters as they are on traces that nothing was chosen by."""
    loads = [counted(trace) for trace in unseen()]
    losses: dict[tuple[str, str], Losses] = {}
    for load in loads:
        losses[load.name, REFERENCE] = score.losses(score.last_value(load), load)
        for kind in FORECASTERS:
            losses[load.name, kind.name] = score.losses(
                score.forecasts(kind(), load, progress), load
            )
    return summarised([REFERENCE, *(kind.name for kind in FORECASTERS)], loads, losses)


def measure(
    loads: list[Load], progress: Callable[[int], None]
) -> tuple[dict[str, Any], dict[tuple[str, str], Rates]]:
    """Score everything; give the report, and what was said at the key that is drawn."""
    losses: dict[tuple[str, str], Losses] = {}
    shown: dict[tuple[str, str], Rates] = {}
    cells = []
    names = [REFERENCE, *(kind.name for kind in FORECASTERS)]
    for load in loads:
        every = {REFERENCE: score.last_value(load)}
        every |= {kind.name: score.forecasts(kind(), load, progress) for kind in FORECASTERS}
        for name, said in every.items():
            losses[load.name, name] = score.losses(said, load)
            kept = score.coverage(said, load)
            shown[load.name, name] = said[report.SHOWN_KEY]
            cells += [
                {
                    "trace": load.name,
                    "forecaster": name,
                    "horizon_s": horizon_s,
                    "quantile": quantile,
                    "loss": loss,
                    "coverage": kept[horizon_s, quantile],
                    "held": float(said[horizon_s, quantile].mean() / load.per_second.mean()),
                }
                for (horizon_s, quantile), loss in losses[load.name, name].items()
            ]
    summary = summarised(names, loads, losses)
    result = {
        "settings": {
            "peak_rps": PEAK_RPS,
            "horizons_s": HORIZONS_S,
            "quantiles": QUANTILES,
            "settling_s": score.SETTLING_S,
        },
        "traces": [score.described(load) for load in loads],
        "summary": summary,
        "best_rate": min(summary, key=lambda row: row["rate_loss"])["forecaster"],
        "best_peak": min(summary, key=lambda row: row["peak_loss"])["forecaster"],
        "unseen": on_unseen(progress),
        "unseen_traces": UNSEEN,
        "costs": weighed(loads[0]),
        "cells": cells,
        "tuning": tuned(loads, [losses[load.name, Surprise.name] for load in loads], progress),
    }
    return result, shown


def main() -> None:
    """Run it all, some two minutes on one core."""
    parser = argparse.ArgumentParser(prog="bench.forecast", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/forecast"), help="where to write")
    out: Path = parser.parse_args().out
    if find_spec("matplotlib") is None:
        parser.error("matplotlib, which draws the picture, is not installed; run: make setup")
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    loads = [counted(trace) for trace in traces()]
    variants = sum(len(values) - 1 for *_, values in CONSTANTS)
    seconds = (len(FORECASTERS) + variants) * sum(len(it.per_second) for it in loads)
    seconds += len(FORECASTERS) * UNSEEN * int(UNSEEN_PART_S)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Forecasting", total=seconds)
        result, shown = measure(loads, lambda done: bar.advance(task, done))
    (out / "report.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "report.md").write_text(report.text(result))
    drawn = dict.fromkeys([Surprise.name, "ewma", "window-max"])
    report.picture(loads, shown, list(drawn), out / "forecast.png")
    print(report.summary_table(result["summary"]))
    console.print(f"Written to {out}: report.md, report.json, forecast.png")


if __name__ == "__main__":
    main()
