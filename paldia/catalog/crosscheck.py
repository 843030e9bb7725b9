"""What each rule is worth: its answer for what is known, made without looking at it.

One known row, or all rows of one network, are left out at a time; `docs/catalog.md` prints the
result and tests hold the rules to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paldia.catalog import cpu_rules, demand_rules, footprint_rules, gpu_rules
from paldia.catalog.demand_rules import tensorrt_points, tensorrt_shapes
from paldia.catalog.gpu_rules import REFERENCE, gpu_factor, known_shapes, picture_ms, shape_on
from paldia.catalog.machines import Machine
from paldia.catalog.shape import LARGEST_FITTED_BATCH, fit
from paldia.catalog.tables import (
    core_tables,
    gpu_tables,
    networks,
    rows,
    shared_runs,
)

TRAINED_GPUS = ("M60", "K80")


@dataclass(frozen=True, slots=True)
class Check:
    """A rule's answer beside what is known."""

    rule: str
    case: str
    known: float
    predicted: float

    @property
    def error(self) -> float:
        """Relative: 0.1 is 10 % too much."""
        return self.predicted / self.known - 1


def shape_checks() -> Iterator[Check]:
    """Middle batches of each table, from its smallest and its largest."""
    for (network, gpu), points in gpu_tables().items():
        used = [point for point in points if point[0] <= LARGEST_FITTED_BATCH]
        shape = fit((used[0], used[-1]), known_shapes()[network, gpu].sharpness)
        for batch, ms in used[1:-1]:
            case = f"{network} on {gpu}, batch {batch}"
            yield Check("shape between two batches", case, ms, shape.latency_ms(batch))


def floor_checks() -> Iterator[Check]:
    """Floors of image networks, from other networks' launches."""
    for (network, gpu), shape in known_shapes().items():
        costs = networks()[network]
        if costs.kind == "vision":
            predicted = costs.operators * gpu_rules.launch_ms(frozenset({network}))
            yield Check("floor by operators", f"{network} on {gpu}", shape.floor_ms, predicted)


def slope_checks() -> Iterator[Check]:
    """Slopes of image networks on a V100, from an RTX 3090 and other networks' factor."""
    for (network, gpu), shape in known_shapes().items():
        costs = networks()[network]
        if costs.kind == "vision" and gpu == REFERENCE:
            factor = gpu_rules.picture_factor(frozenset({network}))
            predicted = picture_ms(network, costs) * factor
            yield Check("V100 slope by RTX 3090", network, shape.slope_ms, predicted)


def picture_checks() -> Iterator[Check]:
    """Times on an RTX 3090, from multiply-accumulates and activations of the other rows."""
    for row in rows("timm_infer_rtx3090"):
        known = float(row["step_ms"]) / float(row["batch"])
        amounts = float(row["gmacs"]), float(row["mactivations"])
        predicted = gpu_rules.fitted_picture_ms(*amounts, row["model"])
        yield Check("RTX 3090 by costs", row["model"], known, predicted)


def factor_checks() -> Iterator[Check]:
    """Slopes on other GPUs against a V100's, from other networks."""
    for (network, gpu), shape in known_shapes().items():
        if gpu != REFERENCE:
            known = shape.slope_ms / known_shapes()[network, REFERENCE].slope_ms
            predicted = gpu_factor(network, gpu, frozenset({network}))
            yield Check(f"{gpu} slope by V100", network, known, predicted)
    for gpu in TRAINED_GPUS:
        ratios = gpu_rules.training_ratios(gpu)
        for model, known in ratios.items():
            others = [ratio for name, ratio in ratios.items() if name != model]
            yield Check(f"{gpu} ratio by other models", model, known, gpu_rules.mean(others))


def training_checks() -> Iterator[Check]:
    """The ratio of training's forward times, where inference has been published too."""
    known = (
        known_shapes()["resnet50", "T4"].slope_ms / known_shapes()["resnet50", REFERENCE].slope_ms
    )
    predicted = gpu_rules.training_ratios("T4")["ResNet50"]
    yield Check("inference ratio by training's", "resnet50, T4 to V100", known, predicted)


def table_checks() -> Iterator[Check]:
    """Whole tables, the network left out of everything that is fitted."""
    for (network, gpu), points in gpu_tables().items():
        costs = networks()[network]
        shape = shape_on(network, costs, gpu, without=frozenset({network}))
        for batch, ms in points:
            if batch <= LARGEST_FITTED_BATCH:
                case = f"{network} on {gpu}, batch {batch}"
                yield Check(f"{costs.kind} table", case, ms, shape.latency_ms(batch))
    shape = shape_on("vgg19", networks()["vgg19"], REFERENCE)
    for batch, ms in tensorrt_points("vgg19"):
        yield Check("vision table", f"vgg19 (TensorRT), batch {batch}", ms, shape.latency_ms(batch))


def sm_checks() -> Iterator[Check]:
    """SMs in use, from the other networks' line; and the share that keeps full speed."""
    for network, shape in tensorrt_shapes().items():
        empty, full = demand_rules.sm_demand_line(frozenset({network}))
        for batch, known in demand_rules.known_sm_demand(network):
            predicted = empty + (full - empty) * shape.growing_share(batch)
            yield Check("SMs in use", f"{network}, batch {batch}", known, predicted)
            share = full_speed_share(network, batch)
            predicted = demand_rules.sm_share(shape, batch)
            yield Check("SMs for full speed", f"{network}, batch {batch}", share, predicted)


def full_speed_share(network: str, batch: int) -> float:
    """Least share of the SMs at 95 % of full speed, read off measured shares (linear between).

    The whole device was measured without transfers, shares with them: the time on half of the
    SMs, which was measured both ways, joins the two.
    """
    times = {
        int(row["sm_percent"]): float(row["latency_ms"])
        for row in rows("igniter_v100_shares")
        if (row["network"], row["batch"]) == (network, str(batch))
    }
    runs = shared_runs()
    whole = times[50] * runs[network, batch, 100] / runs[network, batch, 50]
    allowed = whole / demand_rules.FULL_SPEED
    shares = sorted(share for share in times if share < 100)
    known = [times[share] for share in shares] + [whole]
    falling = np.maximum.accumulate(known[::-1])
    return float(np.interp(allowed, falling, [100, *shares[::-1]])) / 100


def bandwidth_checks() -> Iterator[Check]:
    """Bandwidth in use, from the other image networks' line."""
    for network, shares in demand_rules.bandwidth_rows().items():
        costs = networks()[network]
        if costs.kind != "vision":
            continue
        empty, full = demand_rules.bandwidth_line(frozenset({network}))
        shape = demand_rules.framework_shape(network)
        for batch, known in shares:
            predicted = empty + (full - empty) * shape.growing_share(batch)
            yield Check("bandwidth in use", f"{network}, batch {batch}", known, predicted)


def penalty_checks() -> Iterator[Check]:
    """Time of a batch beside another at half the SMs each, against alone."""
    for network, known in demand_rules.known_penalties().items():
        predicted = demand_rules.penalty(frozenset({network}))
        yield Check("time beside a neighbour", network, 1 + known, 1 + predicted)


def cpu_checks() -> Iterator[Check]:
    """Two threads from one, and one core's time from a network's costs."""
    for row in rows("onnx_threads"):
        factor = cpu_rules.threads_factor(2, frozenset({row["model"]}))
        case, known = f"{row['model']}, batch {row['batch']}", float(row["two_threads_ms"])
        yield Check("two threads by one", case, known, float(row["one_thread_ms"]) * factor)
    for (network, _), points in core_tables().items():
        predicted = cpu_rules.fitted_core_ms(networks()[network], frozenset({network}))
        yield Check("one core by costs", network, points[0][1], predicted)


def footprint_checks(v100: Machine) -> Iterator[Check]:
    """Time to load weights, and power, where either was measured."""
    loads = {row["network"]: float(row["load_ms"]) for row in rows("onnx_reference_core")}
    for network, known in loads.items():
        size = networks()[network].mparameters
        predicted = footprint_rules.weights_s(size, frozenset({network})) * 1e3
        yield Check("weights by size", network, known, predicted)
    for row in rows("igniter_v100"):
        if row["sm_percent"] == "100":
            share = dict(demand_rules.known_sm_demand(row["network"]))[int(row["batch"])]
            watts = footprint_rules.busy_watts(v100.hardware, share)
            case = f"{row['network']}, batch {row['batch']}"
            yield Check("busy power", case, float(row["watts"]), watts)


def checks(v100: Machine) -> tuple[Check, ...]:
    """Every rule against everything that is known; `v100` is the machine with one."""
    return (
        *floor_checks(),
        *slope_checks(),
        *picture_checks(),
        *shape_checks(),
        *factor_checks(),
        *training_checks(),
        *table_checks(),
        *sm_checks(),
        *bandwidth_checks(),
        *penalty_checks(),
        *cpu_checks(),
        *footprint_checks(v100),
    )
