"""The catalog's four language networks, and more sizes of BERT that the rules are fitted to.

Written from their papers; each function adds a network to a graph and gives its output.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.catalog.graph import Graph, Tensor

TOKENS = 128
WIDTH = 768
HEAD_WIDTH = 64
VOCABULARY = 30522


def _norm(g: Graph, x: Tensor) -> Tensor:
    scale, bias = g.weight(x.shape[-1]), g.weight(x.shape[-1])
    return g.node("LayerNormalization", [x.name, scale, bias], x.shape, axis=-1)


def _gelu(g: Graph, x: Tensor) -> Tensor:
    def constant(value: float) -> str:
        return g.constant(np.array(value, np.float32))

    scaled = g.node("Div", [x.name, constant(2**0.5)], x.shape, counts=0)
    error = g.node("Erf", [scaled.name], x.shape, counts=0)
    shifted = g.node("Add", [error.name, constant(1.0)], x.shape, counts=0)
    product = g.node("Mul", [x.name, shifted.name], x.shape, counts=0)
    return g.node("Mul", [product.name, constant(0.5)], x.shape)


def _embed(g: Graph, width: int) -> Tensor:
    words = g.node("Gather", [g.weight(VOCABULARY, width), g.input.name], (*g.input.shape, width))
    places = g.weight(g.input.shape[0], width)
    return _norm(g, g.node("Add", [words.name, places], words.shape))


class _Layer:
    """One encoder layer; used again, it brings no new weights."""

    def __init__(self, g: Graph, width: int = WIDTH, *, relative: bool = False) -> None:
        self.g, self.width = g, width
        names = ("query", "key", "value", "out")
        self.weights = {name: (g.weight(width, width), g.weight(width)) for name in names}
        self.up = (g.weight(width, 4 * width), g.weight(4 * width))
        self.down = (g.weight(4 * width, width), g.weight(width))
        self.relative = relative

    def _heads(self, x: Tensor, name: str) -> Tensor:
        flat = self.g.linear(x, self.width, shared=self.weights[name])
        split = self.g.reshape(flat, x.shape[0], self.width // HEAD_WIDTH, HEAD_WIDTH)
        return self.g.transpose(split, 1, 0, 2)

    def __call__(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Attend from `query` (default: x) to x, then the feed-forward part."""
        g, query = self.g, query or x
        q, k, v = self._heads(query, "query"), self._heads(x, "key"), self._heads(x, "value")
        scores = g.matmul(q, g.transpose(k, 0, 2, 1))
        root = g.constant(np.array(HEAD_WIDTH**0.5, np.float32))
        scores = g.node("Div", [scores.name, root], scores.shape)
        if self.relative:
            scores = g.add(scores, self._places(q, x.shape[0]))
        weights = g.node("Softmax", [scores.name], scores.shape, axis=-1)
        mixed = g.transpose(g.matmul(weights, v), 1, 0, 2)
        g.operators += 1  # the copy that follows a transpose
        mixed = g.reshape(mixed, query.shape[0], self.width)
        y = _norm(g, g.add(query, g.linear(mixed, self.width, shared=self.weights["out"])))
        hidden = _gelu(g, g.linear(y, 4 * self.width, shared=self.up))
        return _norm(g, g.add(y, g.linear(hidden, self.width, shared=self.down)))

    def _places(self, q: Tensor, keys: int) -> Tensor:
        """Scores by distance; the shift that aligns them is taken as a slice of equal size."""
        g = self.g
        table = g.weight(1, 2 * keys, self.width)
        flat = g.node("Identity", [table], (2 * keys, self.width), counts=0)
        scores = g.matmul(q, g.transpose(self._heads(flat, "key"), 0, 2, 1))
        g.operators += 3
        return g.part(scores, 0, keys, axis=2)


def _pooled(g: Graph, x: Tensor) -> Tensor:
    """Halve the sequence by averaging neighbours."""
    pairs = g.reshape(x, x.shape[0] // 2, 2, WIDTH)
    return g.node("ReduceMean", [pairs.name], (x.shape[0] // 2, WIDTH), axes=[2], keepdims=0)


def _classify(g: Graph, x: Tensor) -> Tensor:
    width = x.shape[-1]
    first = g.reshape(g.part(x, 0, 1), width)
    return g.linear(g.node("Tanh", [g.linear(first, width).name], (width,)), 2)


def bert(g: Graph, layers: int = 12, width: int = WIDTH) -> Tensor:
    x = _embed(g, width)
    for _ in range(layers):
        x = _Layer(g, width)(x)
    return _classify(g, x)


def bert_large(g: Graph) -> Tensor:
    return bert(g, layers=24, width=1024)


def distilbert(g: Graph) -> Tensor:
    return bert(g, layers=6)


def albert(g: Graph) -> Tensor:
    x = g.linear(_embed(g, 128), WIDTH)
    layer = _Layer(g)
    for _ in range(12):
        x = layer(x)
    return _classify(g, x)


def funnel(g: Graph) -> Tensor:
    """Funnel-Transformer B4-4-4 without the decoder, which a classifier doesn't need."""
    x = _embed(g, WIDTH)
    for block in range(3):
        for index in range(4):
            shorter = _pooled(g, x) if block and not index else None
            x = _Layer(g, relative=True)(x, shorter)
    return _classify(g, x)


NETWORKS: dict[str, Callable[[Graph], Tensor]] = {
    "bert": bert,
    "albert": albert,
    "distilbert": distilbert,
    "funnel": funnel,
}

REFERENCES: dict[str, tuple[int, Callable[[Graph], Tensor]]] = {
    "bert_384": (384, bert),
    "bert_large": (TOKENS, bert_large),
    "bert_large_384": (384, bert_large),
}
"""Networks outside the catalog with published tables, with how many tokens they read."""
