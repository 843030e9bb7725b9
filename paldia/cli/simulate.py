"""`paldia simulate`: policies over a trace, in virtual time."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table

from paldia.cli import simulate_inputs as inputs
from paldia.cli import simulate_options as option
from paldia.cli.options import SLO_MS, AsJson
from paldia.cli.output import plain, print_json, show, table
from paldia.cli.progress import Update, progress
from paldia.core.baselines import Policy
from paldia.kit.files import replace_text
from paldia.sim.outcome import Outcome
from paldia.sim.report import Settings, report, together
from paldia.sim.report_requests import requests_csv
from paldia.sim.report_text import report_text
from paldia.sim.runner import run
from paldia.sim.scenario import Scenario
from paldia.sim.trace import Trace
from paldia.sim.trace_columns import BURSTY
from paldia.sim.trace_files import open_trace

_PAPER_SET = "paper-6"


def simulate(
    *,
    trace: option.TraceSpec,
    models: option.Models,
    hardware: option.Machines = None,
    policy: option.Policies = "paldia",
    slo_ms: Annotated[float, SLO_MS] = 200.0,
    seed: option.Seed = 0,
    speed: option.Speed = 1.0,
    start: option.Start = 0.0,
    duration: option.Duration = None,
    peak_rps: option.PeakRps = None,
    function: option.Function = BURSTY,
    every_request: option.EveryRequest = False,
    out: option.Out = Path("out/simulate"),
    as_json: AsJson = False,
) -> None:
    """See how a trace would be served and what it would cost, without any machine.

    Replays it in virtual time under the live system's own decisions, for each policy, and writes
    report.json, report.md and pictures. Ctrl-C writes what is finished. The SLO is 200 ms unless
    it is given.
    """
    bent = open_trace(trace, function=function, seed=seed).faster(speed)
    bent = bent.part(start, math.inf if duration is None else duration)
    bent = bent if peak_rps is None else bent.scaled_to(peak_rps)
    kinds, nodes = inputs.fleet(hardware)
    scenario = Scenario(
        models=inputs.models(models, kinds, bent, slo_ms / 1e3),
        nodes=nodes,
        duration_s=bent.duration_s,
        seed=seed,
    )
    batch = _Batch(scenario, inputs.policies(policy), out, every_request)
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    try:
        with progress(Console(stderr=True, quiet=as_json), "simulate") as tell:
            for one in batch.policies:
                outcomes.append(batch.run(one, len(outcomes), tell))
    finally:
        # After Ctrl-C too: what hours of work have finished isn't thrown away.
        if outcomes:
            settings = _settings(scenario, bent, hardware or _PAPER_SET)
            written = _write(settings, outcomes, batch.after(outcomes), out)
            print_json(written) if as_json else show(_summary(outcomes), f"{out / 'report.md'}")


@dataclass(frozen=True, slots=True)
class _Batch:
    scenario: Scenario
    policies: Sequence[Policy]
    out: Path
    every_request: bool

    def run(self, policy: Policy, index: int, tell: Update) -> Outcome:
        """Simulate one policy, and say how far it and those before it are."""
        stage = f"{policy.name} ({index + 1} of {len(self.policies)})"
        minutes = self.scenario.duration_s / 60

        def on_progress(share: float) -> None:
            detail = f"{share * minutes:.1f} of {minutes:.1f} minutes"
            tell(stage, detail, (index + share) / len(self.policies))

        on_progress(0.0)
        with contextlib.ExitStack() as stack:
            path = self.out / f"requests-{policy.name}.csv"
            sink = stack.enter_context(requests_csv(path)) if self.every_request else None
            return run(self.scenario, policy, on_progress, sink)

    def after(self, outcomes: Sequence[Outcome]) -> list[str]:
        """Name the policies that haven't been run."""
        return [policy.name for policy in self.policies[len(outcomes) :]]


def _settings(scenario: Scenario, trace: Trace, hardware_set: str) -> Settings:
    kinds = {node.name: node for node in scenario.nodes.values()}
    return Settings(
        workload=",".join(spec.model.name for spec in scenario.models),
        trace=trace.name,
        load=trace.peak_rps(),
        hardware_set=hardware_set,
        nodes=dict(Counter(node.name for node in scenario.nodes.values())),
        prices_usd_per_hour={name: kind.price_usd_per_hour for name, kind in kinds.items()},
        slo_s=scenario.models[0].model.slo.latency_s,
        seed=scenario.seed,
        speed=trace.speed,
        factor=trace.factor,
        duration_s=scenario.duration_s,
    )


def _write(
    settings: Settings, outcomes: Sequence[Outcome], unfinished: Sequence[str], out: Path
) -> dict[str, Any]:
    # It takes as long to import as a short simulation does to run.
    from paldia.sim.plots import pictures  # noqa: PLC0415

    figures = report(settings, outcomes, unfinished)
    text = report_text(settings, outcomes, pictures(settings, outcomes, out), unfinished)
    replace_text(out / "report.md", text)
    replace_text(out / "report.json", json.dumps(plain(figures), indent=2) + "\n")
    return figures


def _summary(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for outcome in outcomes:
        every = together(outcome)
        rows.append(
            (
                outcome.policy,
                f"{every.requests:,}",
                f"{every.slo_compliance * 100:.2f} %",
                f"{every.latency_s(0.5) * 1e3:.1f}",
                f"{every.latency_s(0.99) * 1e3:.1f}",
                f"{outcome.cost_usd:.4f}",
                str(outcome.switches),
            )
        )
    headings = ("POLICY", ">REQUESTS", ">IN SLO", ">P50 MS", ">P99 MS", ">USD", ">MOVES")
    return table(headings, rows)
