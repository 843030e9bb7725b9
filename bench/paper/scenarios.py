"""From a cell to what is simulated: the trace's slice, the load, the machines, the mishaps.

A slice is the 15 minutes whose busiest minute is the trace's busiest, ten minutes in: enough
before it to learn from, and what follows it. Nothing about it depends on a policy or a seed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from bench.paper.cells import ALL, SLO_S, Cell, HardwareSet
from paldia import catalog
from paldia.core.config import PolicyConfig
from paldia.core.profiles import Profile
from paldia.core.sharing.prediction import Way, throughput
from paldia.core.types import Hardware, Model, Slo
from paldia.sim.scenario import Fault, FaultKind, Scenario, SimModel
from paldia.sim.trace import Trace
from paldia.sim.trace_files import open_trace

DATA = Path(__file__).parents[1] / "data" / "traces"
SLICE_S = 900.0
PEAK_AT_S = 600.0
MINUTE_S = 60.0
WIKIPEDIA_SPEED = 86400 / SLICE_S
"""A day passes in a slice."""
POISSON_S = 4 * 3600.0
HISTORY_S = 3 * 3600.0
"""What had come before the slice, as far as the trace goes back."""
FULL_LIMIT_S = 8 * 3600.0
REFERENCE = "p3.2xlarge"
SPARE = "g4dn.xlarge"


def scenario(cell: Cell) -> Scenario:
    """Give what a cell simulates.

    Raises:
        NotFoundError: there is no such workload.
    """
    names = list(catalog.workloads()) if cell.workload == ALL else [cell.workload]
    trace = evaluation_trace(cell.trace, full=cell.full, seed=cell.seed)
    models = []
    for index, name in enumerate(names):
        profiles = catalog.workloads()[name].profiles
        peak_rps = cell.load * reference_rps(profiles[REFERENCE]) / len(names)
        share = trace.share(index, len(names)) if len(names) > 1 else trace
        scaled = share.scaled_to(peak_rps, MINUTE_S)
        models.append(
            SimModel(
                Model(name, _digest(name), Slo(SLO_S)),
                profiles,
                scaled,
                scaled.before(HISTORY_S),
            )
        )
    nodes = _nodes(cell.hardware_set)
    return Scenario(
        models=tuple(models),
        nodes=nodes,
        duration_s=trace.duration_s,
        faults=_faults(nodes, trace.duration_s) if cell.hardware_set is HardwareSet.FAILING else (),
        seed=cell.seed,
    )


@lru_cache(maxsize=64)
def reference_rps(profile: Profile, slo_s: float = SLO_S) -> float:
    """Give X of one device, in requests per second, at its best feasible (b, k).

    Feasible is what keeps the SLO for a request that just misses a batch and has to wait for
    the next: two batches, slowed by their co-runners, within the margin.
    """
    config = PolicyConfig()
    best = 0.0
    for batch in (1 << power for power in range(profile.largest_batch.bit_length())):
        for lanes in range(1, config.lanes_limit + 1):
            way = Way(profile, batch, lanes)
            slowed_s = profile.latency_s(batch) * float(
                profile.slowdown(lanes, profile.demand_fraction(batch))
            )
            if 2 * slowed_s <= config.margin * slo_s:
                best = max(best, float(throughput(way)))
    return best


@lru_cache(maxsize=16)
def evaluation_trace(name: str, *, full: bool, seed: int) -> Trace:
    """Give a trace of the evaluation: the slice, or as much as the full form plays."""
    if name == "azure-bursty":
        whole = open_trace(str(DATA / "azure_functions_2019.csv"), seed=seed)
    elif name == "wikipedia":
        whole = open_trace(str(DATA / "wikipedia_2009.csv"), seed=seed).faster(WIKIPEDIA_SPEED)
    elif name == "azure-llm-code":
        whole = open_trace(str(DATA / "azure_llm_2023_code.csv"), seed=seed)
    else:
        whole = open_trace(f"poisson:10:{POISSON_S:g}", seed=seed)
    if full:
        return whole.part(0.0, FULL_LIMIT_S)
    return whole.part(_slice_start_s(whole), SLICE_S)


def _slice_start_s(trace: Trace) -> float:
    """Find the busiest minute by halving, and put it at its place in the slice."""
    low_s, length_s = 0.0, trace.duration_s
    minutes = int(length_s // MINUTE_S)
    rates = [
        trace.part(minute * MINUTE_S, MINUTE_S).peak_rps(MINUTE_S) for minute in range(minutes)
    ]
    busiest_s = rates.index(max(rates)) * MINUTE_S
    return min(max(low_s, busiest_s - PEAK_AT_S), max(0.0, length_s - SLICE_S))


def _nodes(hardware_set: HardwareSet) -> dict[str, Hardware]:
    kinds = catalog.hardware()
    names = list(catalog.PAPER_NODES)
    if hardware_set is HardwareSet.T4:
        names.append(SPARE)
    return {f"{name}-{index}": kinds[name] for index, name in enumerate(names)}


def _faults(nodes: dict[str, Hardware], duration_s: float) -> tuple[Fault, ...]:
    """Let every node fail once, one after the other, the dearest first, each for a while.

    Whatever a policy runs on, it loses it.
    """
    order = sorted(nodes, key=lambda name: (-nodes[name].price_usd_per_hour, name))
    apart_s = duration_s / (len(order) + 1)
    return tuple(
        Fault(FaultKind.FAIL, node_id, (index + 1) * apart_s, apart_s)
        for index, node_id in enumerate(order)
    )


def _digest(name: str) -> str:
    """Stand for an artifact that is never loaded."""
    return name.encode().hex().ljust(64, "0")[:64]
