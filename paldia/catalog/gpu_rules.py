"""Rules for the time of a batch on a GPU that nobody has published.

Floor: operators times the time one launch takes, which is the host's and so much the same on every
GPU. Slope on a V100: for image networks the time of one picture on an RTX 3090, which has been
published for most of them, times a factor; where it hasn't, a fit on multiply-accumulates and
activations stands in. Slope on other GPUs: on a T4 a factor from published inference tables; on
M60 and K80 the ratio of forward times in training profiles, the network's own where there is one.
Language networks are BERT, whose layers they are made of, with its floor scaled by operators and
its slope by multiply-accumulates.

Every rule takes `without`: networks it may not look at, so that its error can be measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from paldia.catalog.shape import SHARPNESS, Shape, fit
from paldia.catalog.tables import Costs, gpu_tables, networks, rows

REFERENCE = "V100"
GPUS = ("V100", "T4", "M60", "K80")
LANGUAGE_BASES = ("bert", "bert_large")
"""Networks that others are scaled from; the second only where the first is left out."""

_NONE: frozenset[str] = frozenset()
PICTURE_ROWS: Mapping[str, str] = MappingProxyType(
    {
        "resnet18": "resnet18",
        "resnet50": "resnet50",
        "mobilenet": "mobilenetv1_100",
        "mobilenet_v2": "mobilenetv2_100",
        "vgg19": "vgg19",
        "densenet121": "densenet121",
        "senet18": "legacy_seresnet18",
        "efficientnet_b0": "efficientnet_b0",
        "efficientnet_b4": "efficientnet_b4",
        "dpn92": "dpn92",
        "simple_dla": "dla34",
        "resnext101": "resnext101_32x4d",
        "se_resnext101": "seresnext101_32x4d",
    }
)
"""Which row of the RTX 3090's table is which network."""
TRAINING_ROWS: Mapping[str, str] = MappingProxyType(
    {
        "resnet18": "ResNet18",
        "resnet50": "ResNet50",
        "mobilenet_v2": "MobileNetV2",
        "vgg19": "VGG19",
    }
)
"""Which row of the training table is which network."""


@cache
def known_shapes() -> Mapping[tuple[str, str], Shape]:
    """Fit a shape to every published table, by (network, GPU)."""
    return MappingProxyType(
        {
            (network, gpu): fit(points, SHARPNESS[networks()[network].kind])
            for (network, gpu), points in gpu_tables().items()
        }
    )


def mean(values: Collection[float]) -> float:
    """Geometric mean: errors of rates and times are factors."""
    return float(np.exp(np.mean(np.log(list(values)))))


@cache
def launch_ms(without: frozenset[str] = _NONE) -> float:
    """Milliseconds that one operator of an image network takes to launch, on any GPU."""
    return mean(
        [
            shape.floor_ms / networks()[network].operators
            for (network, _), shape in known_shapes().items()
            if networks()[network].kind == "vision" and network not in without
        ]
    )


@cache
def fitted_picture_ms(gmacs: float, mactivations: float, without: str = "") -> float:
    """Milliseconds a picture takes on an RTX 3090, by its costs; `without` one row."""
    table = [row for row in rows("timm_infer_rtx3090") if row["model"] != without]
    amounts = np.array([[float(row["gmacs"]), float(row["mactivations"])] for row in table])
    taken = np.array([float(row["step_ms"]) / float(row["batch"]) for row in table])
    # Divided by the time itself, so that small networks count as much as large ones.
    weights = np.linalg.lstsq(amounts / taken[:, None], np.ones(len(table)), rcond=None)[0]
    return float(np.array([gmacs, mactivations]) @ weights)


def picture_ms(network: str, costs: Costs) -> float:
    """Milliseconds one picture takes on an RTX 3090 in large batches (mixed precision).

    Published, and scaled by activations where the size of the picture differs; fitted otherwise.
    """
    name = PICTURE_ROWS.get(network, "")
    if not name:
        return fitted_picture_ms(costs.gmacs, costs.mactivations)
    row = next(row for row in rows("timm_infer_rtx3090") if row["model"] == name)
    published = float(row["step_ms"]) / float(row["batch"])
    return published * costs.mactivations / float(row["mactivations"])


@cache
def picture_factor(without: frozenset[str] = _NONE) -> float:
    """How many times as long as on an RTX 3090 in mixed precision a V100 takes in FP32."""
    return mean(
        [
            shape.slope_ms / picture_ms(network, networks()[network])
            for (network, gpu), shape in known_shapes().items()
            if gpu == REFERENCE and network in PICTURE_ROWS and network not in without
        ]
    )


def _training_forward_ms(row: Mapping[str, str], gpu: str) -> float:
    share = float(row[f"{gpu}_fwd_share"])
    return float(row[f"{gpu}_step_ms"]) * share / int(row["batch"])


@cache
def training_ratios(gpu: str) -> Mapping[str, float]:
    """Forward time against a V100's in the largest batch trained on both, by model."""
    largest: dict[str, Mapping[str, str]] = {
        row["model"]: row for row in rows("profet_training_224")
    }
    return MappingProxyType(
        {
            model: _training_forward_ms(row, gpu) / _training_forward_ms(row, REFERENCE)
            for model, row in largest.items()
        }
    )


@cache
def gpu_factor(network: str, gpu: str, without: frozenset[str] = _NONE) -> float:
    """How many times as long as on a V100 a full device takes for one item on `gpu`."""
    if gpu == REFERENCE:
        return 1.0
    shapes = known_shapes()
    published = [
        shape.slope_ms / shapes[name, REFERENCE].slope_ms
        for (name, on), shape in shapes.items()
        if on == gpu and name not in without
    ]
    if published:
        return mean(published)
    ratios = training_ratios(gpu)
    own = TRAINING_ROWS.get(network, "")
    if own in ratios and network not in without:
        return ratios[own]
    return mean([ratio for model, ratio in ratios.items() if model != own])


def _vision_shape(network: str, costs: Costs, without: frozenset[str]) -> Shape:
    """On a V100."""
    floor_ms = costs.operators * launch_ms(without)
    slope_ms = picture_ms(network, costs) * picture_factor(without)
    return Shape(floor_ms, slope_ms, SHARPNESS["vision"])


def _language_shape(costs: Costs, gpu: str, without: frozenset[str]) -> Shape:
    """BERT's, with its floor by operators and its slope by multiply-accumulates."""
    base = next(name for name in LANGUAGE_BASES if name not in without)
    known, of = known_shapes(), networks()[base]
    on_gpu, on_reference = known.get((base, gpu)), known[base, REFERENCE]
    shape = on_gpu or _moved(base, on_reference, gpu, without)
    return Shape(
        shape.floor_ms * costs.operators / of.operators,
        shape.slope_ms * costs.gmacs / of.gmacs,
        SHARPNESS["language"],
    )


def _moved(network: str, shape: Shape, gpu: str, without: frozenset[str]) -> Shape:
    """Take a shape from the V100 to another GPU: the floor is the host's and stays."""
    factor = gpu_factor(network, gpu, without)
    return Shape(shape.floor_ms, shape.slope_ms * factor, shape.sharpness)


def shape_on(
    network: str,
    costs: Costs,
    gpu: str,
    own: Mapping[str, Shape] | None = None,
    without: frozenset[str] = _NONE,
) -> Shape:
    """Work out a network's shape on a GPU.

    `own` are shapes of this very network where its times are known, by GPU; they stand before
    any rule's, on a V100 also for the other GPUs.
    """
    own = own or {}
    if gpu in own:
        return own[gpu]
    if REFERENCE in own:
        return _moved(network, own[REFERENCE], gpu, without)
    if costs.kind == "language":
        return _language_shape(costs, gpu, without)
    return _moved(network, _vision_shape(network, costs, without), gpu, without)
