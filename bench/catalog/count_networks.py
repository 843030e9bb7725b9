"""Count what each network costs; `python -m bench.catalog.count_networks > FILE`.

The table is paldia/catalog/data/networks.csv. It needs the package `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.catalog import language, vision
from bench.catalog.graph import Graph, Tensor


def networks() -> Iterator[tuple[str, str, Graph, Callable[[Graph], Tensor]]]:
    """Give each network's name, kind, an empty graph of its input and what builds it."""
    for name, build in vision.NETWORKS.items():
        yield name, "vision", Graph(3, vision.SIDE, vision.SIDE), build
    for name, build in language.NETWORKS.items():
        yield name, "language", Graph(language.TOKENS, tokens=True), build
    for name, (side, build) in vision.REFERENCES.items():
        yield name, "vision", Graph(3, side, side), build
    for name, (tokens, build) in language.REFERENCES.items():
        yield name, "language", Graph(tokens, tokens=True), build


def main() -> None:
    """Print the table as CSV."""
    print(
        "# Counted by bench/catalog/count_networks.py from networks built as their papers describe:"
    )
    print("# multiply-accumulates and outputs of convolutions and matrix products for one item,")
    print("# parameters, and operators that a framework launches for one batch.")
    print("network,kind,gmacs,mactivations,mparameters,operators")
    for name, kind, graph, build in networks():
        build(graph)
        amounts = (graph.macs / 1e9, graph.activations / 1e6, graph.parameters / 1e6)
        print(",".join((name, kind, *(f"{it:.4f}" for it in amounts), str(graph.operators))))


if __name__ == "__main__":
    main()
