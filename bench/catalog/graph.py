"""Build a network as an ONNX graph with random weights, and count what it costs.

Weights don't change how long a network takes, so none are needed. Batch normalisation is
folded into its convolution, as every runtime does; it still counts as an operator, because a
framework that runs a model as written launches one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
SEED = 7


@dataclass(frozen=True)
class Tensor:
    """An edge of the graph; `shape` leaves out the batch."""

    name: str
    shape: tuple[int, ...]


class Graph:
    """A network under construction.

    Attributes:
        macs: multiply-accumulates for one item.
        activations: values that convolutions and matrix products put out for one item.
        parameters: weights and biases.
        operators: launches for one batch when the model runs as written.
    """

    def __init__(self, *input_shape: int, tokens: bool = False) -> None:
        self.macs = self.activations = self.parameters = self.operators = 0
        self.input = Tensor("input", input_shape)
        self._kind = TensorProto.INT64 if tokens else TensorProto.FLOAT
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(SEED)

    def node(
        self, op: str, inputs: list[str], shape: tuple[int, ...], *, counts: int = 1, **attributes
    ) -> Tensor:
        """Add an operator; `counts` is how many launches it stands for."""
        out = Tensor(f"t{len(self._nodes)}", shape)
        self._nodes.append(helper.make_node(op, inputs, [out.name], **attributes))
        self.operators += counts
        return out

    def weight(self, *shape: int, spread: float = 0.02) -> str:
        """Add a random weight and give its name."""
        values = self._rng.normal(0, spread, shape).astype(np.float32)
        self.parameters += values.size
        return self.constant(values)

    def constant(self, values: np.ndarray) -> str:
        """Add a constant and give its name."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: Tensor, out: int, kernel: int, stride: int = 1, groups: int = 1) -> Tensor:
        """Convolution with its batch normalisation."""
        channels, height, width = x.shape
        side = (math.ceil(height / stride), math.ceil(width / stride))
        each = channels // groups * kernel * kernel
        self.macs += each * out * side[0] * side[1]
        self.activations += out * side[0] * side[1]
        self.parameters += 2 * out
        weights = self.weight(out, channels // groups, kernel, kernel, spread=each**-0.5)
        bias = self.constant(np.zeros(out, np.float32))
        return self.node(
            "Conv",
            [x.name, weights, bias],
            (out, *side),
            counts=2,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2, kernel // 2] * 2,
            group=groups,
        )

    def relu(self, x: Tensor) -> Tensor:
        return self.node("Relu", [x.name], x.shape)

    def conv_relu(self, x: Tensor, out: int, kernel: int, stride: int = 1, groups: int = 1):
        return self.relu(self.conv(x, out, kernel, stride, groups))

    def sigmoid(self, x: Tensor) -> Tensor:
        return self.node("Sigmoid", [x.name], x.shape)

    def swish(self, x: Tensor) -> Tensor:
        gate = self.node("Sigmoid", [x.name], x.shape, counts=0)
        return self.node("Mul", [x.name, gate.name], x.shape)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.node("Add", [x.name, y.name], x.shape)

    def scale(self, x: Tensor, by: Tensor) -> Tensor:
        return self.node("Mul", [x.name, by.name], x.shape)

    def concat(self, *parts: Tensor) -> Tensor:
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return self.node("Concat", [part.name for part in parts], shape, axis=1)

    def part(self, x: Tensor, start: int, end: int, axis: int = 0) -> Tensor:
        """Take `start` to `end` along an axis (batch not counted); a view, so no launch."""
        shape = list(x.shape)
        shape[axis] = end - start
        bounds = [self.constant(np.array([it], np.int64)) for it in (start, end, axis + 1)]
        return self.node("Slice", [x.name, *bounds], tuple(shape), counts=0)

    def pool(self, x: Tensor, kind: str, kernel: int, stride: int) -> Tensor:
        channels, height, width = x.shape
        pad = kernel // 2 if kernel % 2 else 0
        return self.node(
            f"{kind}Pool",
            [x.name],
            (channels, math.ceil(height / stride), math.ceil(width / stride)),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad, pad, pad, pad],
        )

    def mean(self, x: Tensor) -> Tensor:
        """Average over the picture, kept as a 1 x 1 picture."""
        return self.node("GlobalAveragePool", [x.name], (x.shape[0], 1, 1))

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        target = self.constant(np.array([0, *shape], np.int64))
        return self.node("Reshape", [x.name, target], shape, counts=0)

    def transpose(self, x: Tensor, *order: int) -> Tensor:
        """Swap axes (batch not counted)."""
        shape = tuple(x.shape[axis] for axis in order)
        perm = [0, *(axis + 1 for axis in order)]
        return self.node("Transpose", [x.name], shape, counts=0, perm=perm)

    def shuffle(self, x: Tensor, groups: int) -> Tensor:
        """Interleave groups of channels; the copy is one launch."""
        channels, height, width = x.shape
        split = self.reshape(x, groups, channels // groups, height, width)
        mixed = self.transpose(split, 1, 0, 2, 3)
        self.operators += 1
        return self.reshape(mixed, channels, height, width)

    def linear(self, x: Tensor, out: int, *, shared: tuple[str, str] | None = None) -> Tensor:
        """Matrix product over the last axis, with bias."""
        rows, inner = math.prod(x.shape[:-1]), x.shape[-1]
        self.macs += rows * inner * out
        self.activations += rows * out
        weights, bias = shared or (self.weight(inner, out), self.weight(out))
        product = self.node("MatMul", [x.name, weights], (*x.shape[:-1], out), counts=0)
        return self.node("Add", [product.name, bias], product.shape)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        shape = (*x.shape[:-1], y.shape[-1])
        self.macs += math.prod(x.shape) * y.shape[-1]
        self.activations += math.prod(shape)
        return self.node("MatMul", [x.name, y.name], shape)

    def classify(self, x: Tensor, classes: int = 1000) -> Tensor:
        """Average over the picture and classify."""
        return self.linear(self.reshape(self.mean(x), x.shape[0]), classes)

    def model(self, output: Tensor) -> bytes:
        """Give the finished network in ONNX's form."""
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info("input", self._kind, ["N", *self.input.shape])],
            [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, None)],
            self._weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        made.ir_version = 8
        return made.SerializeToString()
