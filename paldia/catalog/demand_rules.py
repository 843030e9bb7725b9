"""Rules for how much of a GPU one batch takes, and what a neighbour costs beyond that.

Demand is the greater of two shares. SMs: half of what a batch takes on half of the SMs is the work
it is, in whole-device time; over L(b) that is the share in use, and it grows in a straight line
with how full the device is (`Shape.growing_share`). Measured under TensorRT; a framework leaves
the device idle between launches, so that the fixed part of that work is spread over a longer
floor. Memory bandwidth: published for a few networks, again a straight line for the rest.

The least share of the SMs that keeps a batch at 95 % of its speed follows from the shape, with the
part that grows stretched by 1 / share.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from paldia.catalog.gpu_rules import REFERENCE, known_shapes, shape_on
from paldia.catalog.shape import TENSORRT_SHARPNESS, Shape, along, fit, straight_line
from paldia.catalog.tables import networks, rows, shared_runs

FULL_SPEED = 0.95
LEAST_SHARE = 0.05
PAIRED_BATCH = 16
BRIDGE = "resnet50"
"""The one network with figures from both TensorRT and PyTorch on a V100."""

_NONE: frozenset[str] = frozenset()


@cache
def tensorrt_shapes() -> Mapping[str, Shape]:
    """Fit a shape to each network that was measured under TensorRT on a whole V100."""
    names = dict.fromkeys(network for network, _, _ in shared_runs())
    return MappingProxyType(
        {name: fit(tensorrt_points(name), TENSORRT_SHARPNESS) for name in names}
    )


def tensorrt_points(network: str) -> list[tuple[int, float]]:
    """Give (batch, milliseconds) on the whole V100."""
    return [
        (batch, ms)
        for (name, batch, percent), ms in shared_runs().items()
        if name == network and percent == 100
    ]


def known_sm_demand(network: str) -> list[tuple[int, float]]:
    """Give (batch, share of the SMs in use) from runs on half and on all of them."""
    return [
        (batch, shared_runs()[network, batch, 50] / 2 / ms)
        for batch, ms in tensorrt_points(network)
    ]


@cache
def sm_demand_line(without: frozenset[str] = _NONE) -> tuple[float, float]:
    """Give the share in use of an empty and of a full device, from all networks measured."""
    points = [
        (tensorrt_shapes()[network].growing_share(batch), share)
        for network in tensorrt_shapes()
        if network not in without
        for batch, share in known_sm_demand(network)
    ]
    return straight_line(points)


def framework_shape(network: str) -> Shape:
    """Give a known network's shape on a V100: the published one, or else by rule."""
    published = known_shapes().get((network, REFERENCE))
    return published or shape_on(network, networks()[network], REFERENCE)


@cache
def framework_idleness() -> float:
    """How much shorter TensorRT's floor is than a framework's, from the one network with both."""
    return tensorrt_shapes()[BRIDGE].floor_ms / framework_shape(BRIDGE).floor_ms


def sm_demand(shape: Shape, batch: int) -> float:
    """Share of the SMs that one batch uses under a framework, averaged over its time."""
    empty, full = sm_demand_line()
    empty *= framework_idleness()
    return empty + (full - empty) * shape.growing_share(batch)


@cache
def bandwidth_rows() -> Mapping[str, tuple[tuple[int, float], ...]]:
    """Give published (batch, share of memory bandwidth) on a V100 by network."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows("bandwidth_v100"):
        found.setdefault(row["network"], []).append((int(row["batch"]), float(row["share"])))
    return MappingProxyType({name: tuple(points) for name, points in found.items()})


@cache
def bandwidth_line(without: frozenset[str] = _NONE) -> tuple[float, float]:
    """Give the share of bandwidth of an empty and of a full device, from image networks."""
    points = []
    for network, shares in bandwidth_rows().items():
        costs = networks()[network]
        if network in without or costs.kind != "vision":
            continue
        shape = framework_shape(network)
        points += [(shape.growing_share(batch), share) for batch, share in shares]
    return straight_line(points)


def bandwidth_demand(network: str, kind: str, shape: Shape, batch: int) -> float:
    """Share of the memory bandwidth one batch uses; 0 for language networks without a figure.

    Those are bound by arithmetic: BERT's published shares lie below what its SMs take.
    """
    known = bandwidth_rows().get(network)
    if known:
        return along(known, batch)
    if kind != "vision":
        return 0.0
    empty, full = bandwidth_line()
    return empty + (full - empty) * shape.growing_share(batch)


def demand(network: str, kind: str, shape: Shape, batch: int) -> float:
    """Share of the scarcest of SMs and bandwidth that one batch takes."""
    shares = sm_demand(shape, batch), bandwidth_demand(network, kind, shape, batch)
    return min(1.0, max(shares))


def sm_share(shape: Shape, batch: int) -> float:
    """Least share of the SMs that keeps a batch at 95 % of its speed."""
    p = shape.sharpness
    allowed = (shape.latency_ms(batch) / FULL_SPEED) ** p - shape.floor_ms**p
    return min(1.0, max(LEAST_SHARE, shape.slope_ms * batch / float(allowed ** (1 / p))))


@cache
def known_penalties() -> Mapping[str, float]:
    """Give the measured extra cost of a second batch beside the first, by network."""
    return MappingProxyType(
        {
            row["network"]: float(row["paired_ms"]) / float(row["alone_ms"]) - 1
            for row in rows("igniter_v100_pairs")
        }
    )


@cache
def penalty(without: frozenset[str] = _NONE) -> float:
    """Extra cost of a further batch for a network that nobody measured."""
    return float(np.mean([it for name, it in known_penalties().items() if name not in without]))
