"""The catalog's twelve image networks, and three more that the rules are fitted to.

Written from their papers' tables; each function adds a network to a graph and gives its output.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.catalog.graph import Graph, Tensor

SIDE = 224


def _squeeze(g: Graph, x: Tensor, hidden: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Squeeze and excite: scale channels by what their averages say."""
    gate = act(_plain(g, g.mean(x), hidden))
    return g.scale(x, g.sigmoid(_plain(g, gate, x.shape[0])))


def _plain(g: Graph, x: Tensor, out: int) -> Tensor:
    """A 1 x 1 convolution without batch normalisation."""
    g.operators -= 1
    return g.conv(x, out, 1)


def _basic(g: Graph, x: Tensor, width: int, stride: int, *, squeeze: bool = False) -> Tensor:
    y = g.conv(g.conv_relu(x, width, 3, stride), width, 3)
    if squeeze:
        y = _squeeze(g, y, width // 16, g.relu)
    if stride > 1 or x.shape[0] != width:
        x = g.conv(x, width, 1, stride)
    return g.relu(g.add(x, y))


def _bottleneck(g: Graph, x: Tensor, width: int, stride: int) -> Tensor:
    y = g.conv(g.conv_relu(g.conv_relu(x, width, 1), width, 3, stride), 4 * width, 1)
    if stride > 1 or x.shape[0] != 4 * width:
        x = g.conv(x, 4 * width, 1, stride)
    return g.relu(g.add(x, y))


def _resnet(g: Graph, depths: tuple[int, ...], block: Callable[..., Tensor], **kw) -> Tensor:
    x = g.pool(g.conv_relu(g.input, 64, 7, 2), "Max", 3, 2)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            x = block(g, x, 64 << stage, 2 if stage and not index else 1, **kw)
    return g.classify(x)


def resnet18(g: Graph) -> Tensor:
    return _resnet(g, (2, 2, 2, 2), _basic)


def resnet50(g: Graph) -> Tensor:
    return _resnet(g, (3, 4, 6, 3), _bottleneck)


def senet18(g: Graph) -> Tensor:
    return _resnet(g, (2, 2, 2, 2), _basic, squeeze=True)


def _grouped(g: Graph, x: Tensor, width: int, stride: int, *, squeeze: bool = False) -> Tensor:
    y = g.conv_relu(g.conv_relu(x, 2 * width, 1), 2 * width, 3, stride, 32)
    y = g.conv(y, 4 * width, 1)
    if squeeze:
        y = _squeeze(g, y, width // 4, g.relu)
    if stride > 1 or x.shape[0] != 4 * width:
        x = g.conv(x, 4 * width, 1, stride)
    return g.relu(g.add(x, y))


def resnext101(g: Graph) -> Tensor:
    return _resnet(g, (3, 4, 23, 3), _grouped)


def se_resnext101(g: Graph) -> Tensor:
    return _resnet(g, (3, 4, 23, 3), _grouped, squeeze=True)


def vgg19(g: Graph) -> Tensor:
    x = g.input
    for width, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(depth):
            g.operators -= 1  # no batch normalisation here
            x = g.conv_relu(x, width, 3)
        x = g.pool(x, "Max", 2, 2)
    x = g.reshape(x, 512 * 7 * 7)
    for _ in range(2):
        x = g.relu(g.linear(x, 4096))
    return g.linear(x, 1000)


def mobilenet(g: Graph) -> Tensor:
    x = g.conv_relu(g.input, 32, 3, 2)
    rows = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2))
    for width, stride in (*rows, *((512, 1),) * 5, (1024, 2), (1024, 1)):
        x = g.conv_relu(g.conv_relu(x, x.shape[0], 3, stride, x.shape[0]), width, 1)
    return g.classify(x)


def mobilenet_v2(g: Graph) -> Tensor:
    x = g.conv_relu(g.input, 32, 3, 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    for expand, width, depth, stride in (*table, (6, 160, 3, 2), (6, 320, 1, 1)):
        for index in range(depth):
            step = stride if index == 0 else 1
            y = x if expand == 1 else g.conv_relu(x, expand * x.shape[0], 1)
            y = g.conv(g.conv_relu(y, y.shape[0], 3, step, y.shape[0]), width, 1)
            x = g.add(x, y) if step == 1 and x.shape[0] == width else y
    return g.classify(g.conv_relu(x, 1280, 1))


def _efficientnet(
    g: Graph, widths: tuple[int, ...], depths: tuple[int, ...], ends: tuple[int, int]
) -> Tensor:
    x = g.swish(g.conv(g.input, ends[0], 3, 2))
    rules = ((1, 1, 3), (6, 2, 3), (6, 2, 5), (6, 2, 3), (6, 1, 5), (6, 2, 5), (6, 1, 3))
    for (expand, stride, kernel), width, depth in zip(rules, widths, depths, strict=True):
        for index in range(depth):
            step = stride if index == 0 else 1
            y = x if expand == 1 else g.swish(g.conv(x, expand * x.shape[0], 1))
            y = g.swish(g.conv(y, y.shape[0], kernel, step, y.shape[0]))
            y = g.conv(_squeeze(g, y, max(1, x.shape[0] // 4), g.swish), width, 1)
            x = g.add(x, y) if step == 1 and x.shape[0] == width else y
    return g.classify(g.swish(g.conv(x, ends[1], 1)))


def efficientnet_b0(g: Graph) -> Tensor:
    return _efficientnet(g, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), (32, 1280))


def efficientnet_b4(g: Graph) -> Tensor:
    return _efficientnet(g, (24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2), (48, 1792))


def shufflenet_v2(g: Graph) -> Tensor:
    x = g.pool(g.conv_relu(g.input, 24, 3, 2), "Max", 3, 2)
    for width, depth in ((116, 4), (232, 8), (464, 4)):
        for index in range(depth):
            half, stride = width // 2, 2 if index == 0 else 1
            if stride == 2:
                kept = g.conv_relu(g.conv(x, x.shape[0], 3, 2, x.shape[0]), half, 1)
                y = x
            else:
                kept, y = g.part(x, 0, half), g.part(x, half, width)
            y = g.conv(g.conv_relu(y, half, 1), half, 3, stride, half)
            x = g.shuffle(g.concat(kept, g.conv_relu(y, half, 1)), 2)
    return g.classify(g.conv_relu(x, 1024, 1))


def googlenet(g: Graph) -> Tensor:
    x = g.pool(g.conv_relu(g.input, 64, 7, 2), "Max", 3, 2)
    x = g.pool(g.conv_relu(g.conv_relu(x, 64, 1), 192, 3), "Max", 3, 2)
    stages = (
        ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
        (
            (192, 96, 208, 16, 48, 64),
            (160, 112, 224, 24, 64, 64),
            (128, 128, 256, 24, 64, 64),
            (112, 144, 288, 32, 64, 64),
            (256, 160, 320, 32, 128, 128),
        ),
        ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
    )
    for number, stage in enumerate(stages):
        if number:
            x = g.pool(x, "Max", 3, 2)
        for one, reduce3, three, reduce5, five, pooled in stage:
            x = g.concat(
                g.conv_relu(x, one, 1),
                g.conv_relu(g.conv_relu(x, reduce3, 1), three, 3),
                g.conv_relu(g.conv_relu(x, reduce5, 1), five, 5),
                g.conv_relu(g.pool(x, "Max", 3, 1), pooled, 1),
            )
    return g.classify(x)


def densenet121(g: Graph) -> Tensor:
    x = g.pool(g.conv_relu(g.input, 64, 7, 2), "Max", 3, 2)
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage:
            x = g.pool(g.conv(g.relu(x), x.shape[0] // 2, 1), "Average", 2, 2)
        for _ in range(depth):
            x = g.concat(x, g.conv(g.relu(g.conv(g.relu(x), 128, 1)), 32, 3))
    return g.classify(g.relu(x))


def dpn92(g: Graph) -> Tensor:
    x = g.pool(g.conv_relu(g.input, 64, 7, 2), "Max", 3, 2)
    for stage, (depth, grow) in enumerate(((3, 16), (4, 32), (20, 24), (3, 128))):
        width, inner = 256 << stage, 96 << stage
        for index in range(depth):
            stride = 2 if stage and not index else 1
            y = g.conv_relu(g.conv_relu(x, inner, 1), inner, 3, stride, 32)
            y = g.conv(y, width + grow, 1)
            if index == 0:
                x = g.conv(x, width + 2 * grow, 1, stride)
            added = g.add(g.part(x, 0, width), g.part(y, 0, width))
            old, new = g.part(x, width, x.shape[0]), g.part(y, width, width + grow)
            x = g.relu(g.concat(added, old, new))
    return g.classify(x)


def _tree(g: Graph, x: Tensor, width: int, level: int, stride: int) -> Tensor:
    if level == 1:
        left = _basic(g, x, width, stride)
        right = _basic(g, left, width, 1)
    else:
        left = _tree(g, x, width, level - 1, stride)
        right = _tree(g, left, width, level - 1, 1)
    return g.conv_relu(g.concat(left, right), width, 1)


def simple_dla(g: Graph) -> Tensor:
    """DLA-34 with plain trees: no feature of an earlier level is handed on."""
    x = g.conv_relu(g.input, 16, 7)
    x = g.conv_relu(g.conv_relu(x, 16, 3), 32, 3, 2)
    for width, level in ((64, 1), (128, 2), (256, 2), (512, 1)):
        x = _tree(g, x, width, level, 2)
    return g.classify(x)


NETWORKS: dict[str, Callable[[Graph], Tensor]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "mobilenet_v2": mobilenet_v2,
    "vgg19": vgg19,
    "densenet121": densenet121,
    "senet18": senet18,
    "shufflenet_v2": shufflenet_v2,
    "efficientnet_b0": efficientnet_b0,
    "googlenet": googlenet,
    "dpn92": dpn92,
    "simple_dla": simple_dla,
}

REFERENCES: dict[str, tuple[int, Callable[[Graph], Tensor]]] = {
    "resnext101": (224, resnext101),
    "se_resnext101": (224, se_resnext101),
    "efficientnet_b4": (380, efficientnet_b4),
}
"""Networks outside the catalog with published tables, with the side of their pictures."""
