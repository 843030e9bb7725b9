"""Measure the catalog's networks on one core of this machine with ONNX Runtime, in FP32.

`python -m bench.catalog.measure_cpu > FILE`; the table stands in the catalog's data as
onnx_reference_core.csv. It needs the package `onnx`. The clock is the thread's own processor
time, so that neighbours on the machine count for little.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from bench.catalog import language, vision
from bench.catalog.count_networks import networks
from bench.catalog.graph import SEED, Graph

BATCHES = (1, 2, 4, 8, 16)
PATIENCE_S = 1.0
RUNS = (3, 40)
"""Least and most runs of each case."""


def _item(graph: Graph) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    if len(graph.input.shape) == 1:
        return rng.integers(0, language.VOCABULARY, (1, *graph.input.shape))
    return rng.normal(size=(1, *graph.input.shape)).astype(np.float32)


def _session(model: bytes) -> tuple[onnxruntime.InferenceSession, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    begun_s = time.thread_time()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session, time.thread_time() - begun_s


def _median_s(session: onnxruntime.InferenceSession, items: np.ndarray) -> float:
    """Median of repeated runs after one that warms up, at most `PATIENCE_S` or so."""
    session.run(None, {"input": items})
    times: list[float] = []
    while len(times) < RUNS[0] or (sum(times) < PATIENCE_S and len(times) < RUNS[1]):
        begun_s = time.thread_time()
        session.run(None, {"input": items})
        times.append(time.thread_time() - begun_s)
    return float(np.median(times))


def _processor() -> str:
    """The processor's name, family and model, as Linux gives them."""
    lines = (line.split(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    said = {line[0].strip(): line[-1].strip() for line in lines}
    return f"{said['model name']}, family {said['cpu family']}, model {said['model']}"


def main() -> None:
    """Print the table as CSV."""
    version = onnxruntime.__version__
    print(f"# Measured by bench/catalog/measure_cpu.py with ONNX Runtime {version}, FP32, random")
    print(f"# weights, 224 x 224 or 128 tokens, on one core of a virtual machine ({_processor()}):")
    print("# median milliseconds of processor time for one batch, and for loading the network.")
    print("network,threads,batch,latency_ms,load_ms")
    for name, _, graph, build in networks():
        if name not in vision.NETWORKS and name not in language.NETWORKS:
            continue
        session, load_s = _session(graph.model(build(graph)))
        for batch in BATCHES:
            latency_s = _median_s(session, np.repeat(_item(graph), batch, axis=0))
            print(f"{name},1,{batch},{latency_s * 1e3:.3f},{load_s * 1e3:.1f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
