"""Put a profile together: what a file says stands, and rules fill the rest.

Where a network's times are known on one GPU, its own floor and slope carry over to the others.
Beyond the largest batch of a table the shape fitted to it goes on, joined where the table ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paldia.catalog import cpu_rules, demand_rules, footprint_rules
from paldia.catalog.figures import Fact, Figure, estimated
from paldia.catalog.gpu_rules import GPUS, shape_on
from paldia.catalog.machines import Machine
from paldia.catalog.models import NOTHING_KNOWN, Described, Known
from paldia.catalog.shape import SHARPNESS, Shape, fit
from paldia.catalog.tables import Costs, Points
from paldia.core.profiles import Profile, Provenance

MIB = 1024**2
LONGEST_S = 0.4
"""Batches that take longer are left out (but for single items): twice the paper's SLO."""
LARGEST_GPU_BATCH = 128
_SIGNIFICANT = 6

FLOOR_SLOPE = "rule: floor and slope (paldia/catalog/gpu_rules.py)"
CORES = "rule: the reference core's table by core_speed and threads (paldia/catalog/cpu_rules.py)"
FITTED_CORES = "rule: a fit on the network's costs, by core_speed and threads (cpu_rules.py)"
SHARE_IN_USE = "rule: share of SMs or bandwidth in use (paldia/catalog/demand_rules.py)"
THREADS_IN_USE = "rule: threads of an instance by cores (paldia/catalog/cpu_rules.py)"
FULL_SPEED = "rule: SMs that keep 95 % of the speed (paldia/catalog/demand_rules.py)"
PAIRS = "github.com/icloud-ecnu/igniter: two processes at half the SMs against one"
MEAN_PAIR = "rule: mean of the pairs measured on a V100 (paldia/catalog/demand_rules.py)"
TWO_CORES = "rule: loss of large batches on two cores (paldia/catalog/cpu_rules.py)"
FOOTPRINT = "rule: process, weights and activations (paldia/catalog/footprint_rules.py)"
LOADING = "rule: process start and weights (paldia/catalog/footprint_rules.py)"
POWER = "rule: idle to rated by share in use (paldia/catalog/footprint_rules.py)"


@dataclass(frozen=True, slots=True)
class Filled:
    """A profile and its figures with their origins."""

    profile: Profile
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class _Draft:
    """What the rules say of a workload on a machine; files' figures are laid over it."""

    latency_ms: Fact[Points]
    demand: Fact[Points]
    sm_share: Fact[Points] | None
    penalty: Fact[float]
    memory_mib: Fact[float]
    load_s: Fact[float]
    watts: Fact[float]


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT}g}")


def _rising(points: Points) -> Points:
    """Never below a smaller batch: a table's noise is no gain."""
    found: list[tuple[int, float]] = []
    for batch, value in points:
        found.append((batch, max(_rounded(value), found[-1][1] if found else 0.0)))
    return tuple(found)


def _within(points: Points) -> Points:
    kept = tuple(point for point in points if point[1] <= LONGEST_S * 1e3)
    return kept or points[:1]


def own_shapes(described: Described, machines: Mapping[str, Machine]) -> dict[str, Shape]:
    """Fit the tables that a file holds of a workload, by GPU; one batch size makes no shape."""
    found: dict[str, Shape] = {}
    for name, known in described.known.items():
        table = known.curves.get("latency_ms")
        gpu = machines[name].accelerator if name in machines else ""
        if described.costs and gpu in GPUS and table and len(table.value) > 1:
            found[gpu] = fit(table.value, SHARPNESS[described.costs.kind])
    return found


def _gpu_points(shape: Shape, known: Fact[Points] | None) -> Fact[Points]:
    sizes = [1 << power for power in range(LARGEST_GPU_BATCH.bit_length())]
    if known is None:
        points = tuple((batch, shape.latency_ms(batch)) for batch in sizes)
        return estimated(_within(_rising(points)), FLOOR_SLOPE)
    last, last_ms = known.value[-1]
    joint = last_ms / shape.latency_ms(last)
    further = tuple((it, joint * shape.latency_ms(it)) for it in sizes if it > last)
    kept = _within(_rising(known.value + further))
    source = known.source
    if kept[-1][0] > last:
        source += f"; beyond batch {last} {FLOOR_SLOPE}"
    return Fact(kept, source, known.provenance)


def _on_gpu(
    described: Described, costs: Costs, machine: Machine, own: Mapping[str, Shape], known: Known
) -> _Draft:
    network = described.network or described.name
    shape = shape_on(network, costs, machine.accelerator, own)
    latency = _gpu_points(shape, known.curves.get("latency_ms"))
    sizes = [batch for batch, _ in latency.value]
    demand = tuple((b, demand_rules.demand(network, costs.kind, shape, b)) for b in sizes)
    shares = tuple((batch, demand_rules.sm_share(shape, batch)) for batch in sizes)
    penalty = estimated(_rounded(demand_rules.penalty()), MEAN_PAIR)
    if network in demand_rules.known_penalties():
        measured = demand_rules.known_penalties()[network]
        penalty = Fact(_rounded(measured), PAIRS, Provenance.IMPORTED)
    memory = footprint_rules.memory_bytes(
        costs.mparameters, costs.mactivations, sizes[-1], gpu=True
    )
    watts = footprint_rules.busy_watts(machine.hardware, demand[-1][1])
    return _Draft(
        latency_ms=latency,
        demand=estimated(_rising(demand), SHARE_IN_USE),
        sm_share=estimated(_rising(shares), FULL_SPEED) if machine.hardware.sm_shares else None,
        penalty=penalty,
        memory_mib=estimated(memory / MIB, FOOTPRINT),
        load_s=estimated(footprint_rules.load_s(costs.mparameters, gpu=True), LOADING),
        watts=estimated(_rounded(watts), POWER),
    )


def _on_cpu(described: Described, costs: Costs, machine: Machine, known: Known) -> _Draft:
    network, cores = described.network or described.name, machine.hardware.cores
    core_points, measured = cpu_rules.core_points(network, costs)
    single_s = core_points[0][1] / machine.core_speed / 1e3
    threads = cpu_rules.threads_for(single_s, cores)
    if "threads" in known.numbers:
        threads = min(cores, int(known.numbers["threads"].value))
    factor = cpu_rules.threads_factor(threads) / machine.core_speed
    points = _within(_rising(tuple((batch, ms * factor) for batch, ms in core_points)))
    latency = estimated(points, f"{CORES if measured else FITTED_CORES}: {threads} threads")
    latency = known.curves.get("latency_ms", latency)
    memory = footprint_rules.memory_bytes(
        costs.mparameters, costs.mactivations, latency.value[-1][0], gpu=False
    )
    watts = footprint_rules.busy_watts(machine.hardware, 1.0)
    return _Draft(
        latency_ms=Fact(_rising(latency.value), latency.source, latency.provenance),
        demand=estimated(((1, threads / cores),), THREADS_IN_USE),
        sm_share=None,
        penalty=estimated(_rounded(cpu_rules.penalty()), TWO_CORES),
        memory_mib=estimated(memory / MIB, FOOTPRINT),
        load_s=estimated(footprint_rules.load_s(costs.mparameters, gpu=False), LOADING),
        watts=estimated(_rounded(watts), POWER),
    )


def _as_said(known: Known) -> _Draft | None:
    """Everything from the file; what is missing has no rule to fill it."""
    if known.place is None:
        return None
    for name in ("latency_ms", "demand", "memory_mib", "load_s"):
        if name not in known.curves and name not in known.numbers:
            raise known.place.fault(f"{name} is missing, and {_NO_RULE}")
    latency = known.curves["latency_ms"]
    return _Draft(
        latency_ms=Fact(_rising(latency.value), latency.source, latency.provenance),
        demand=known.curves["demand"],
        sm_share=known.curves.get("sm_share"),
        penalty=estimated(_rounded(demand_rules.penalty()), MEAN_PAIR),
        memory_mib=known.numbers["memory_mib"],
        load_s=known.numbers["load_s"],
        watts=estimated(0.0, "unknown"),
    )


_NO_RULE = (
    "no rule fills it: say what the network costs (network or costs), and name the GPU "
    f"(accelerator: {', '.join(GPUS)}) or the core_speed of the machine"
)


def _draft(
    described: Described, machine: Machine, own: Mapping[str, Shape], known: Known
) -> _Draft | None:
    costs = described.costs
    if costs and machine.accelerator in GPUS:
        return _on_gpu(described, costs, machine, own, known)
    if costs and not machine.hardware.gpus and machine.core_speed > 0:
        return _on_cpu(described, costs, machine, known)
    return _as_said(known)


def _figures(draft: _Draft) -> tuple[Figure, ...]:
    def curve(name: str, unit: str, fact: Fact[Points]) -> Figure:
        shown = ", ".join(f"{batch}: {value:.3g}" for batch, value in fact.value)
        return Figure.of(name, f"{shown} {unit}".strip(), fact)

    share = draft.sm_share
    return (
        curve("latency", "ms by batch", draft.latency_ms),
        curve("demand", "of the device by batch", draft.demand),
        *((curve("SM share", "of the SMs by batch", share),) if share else ()),
        Figure.of("co-location penalty", f"{draft.penalty.value:.3g}", draft.penalty),
        Figure.of("memory", f"{draft.memory_mib.value:.0f} MiB", draft.memory_mib),
        Figure.of("load time", f"{draft.load_s.value:.3g} s", draft.load_s),
        Figure.of("busy power", f"{draft.watts.value:.3g} W", draft.watts),
    )


def filled(described: Described, machine: Machine, own: Mapping[str, Shape]) -> Filled | None:
    """Give the workload's profile on a machine; None if nothing is known of it there.

    `own` are the workload's `own_shapes`.

    Raises:
        InvalidArgumentError: the file says something, but too little for a profile.
    """
    known = described.known.get(machine.hardware.name, NOTHING_KNOWN)
    draft = _draft(described, machine, own, known)
    if draft is None:
        return None
    curves, numbers = known.curves, known.numbers
    draft = _Draft(
        latency_ms=draft.latency_ms,
        demand=curves.get("demand", draft.demand),
        sm_share=curves.get("sm_share", draft.sm_share),
        penalty=numbers.get("colocation_penalty", draft.penalty),
        memory_mib=numbers.get("memory_mib", draft.memory_mib),
        load_s=numbers.get("load_s", draft.load_s),
        watts=numbers.get("watts", draft.watts),
    )
    profile = Profile(
        points=tuple((batch, ms / 1e3) for batch, ms in draft.latency_ms.value),
        load_s=draft.load_s.value,
        memory_bytes=int(draft.memory_mib.value * MIB),
        demand=draft.demand.value,
        sm_share=draft.sm_share.value if draft.sm_share else (),
        colocation_penalty=draft.penalty.value,
        watts=draft.watts.value,
        provenance=draft.latency_ms.provenance,
    )
    return Filled(profile, _figures(draft))
