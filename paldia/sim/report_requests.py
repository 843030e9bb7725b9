"""A CSV file with a line for each request."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from paldia.sim.scenario import Fate, RequestSink, Times

COLUMNS = (
    *("model", "fate", "node", "arrival_s", "done_s", "latency_ms"),
    *("queue_ms", "cold_ms", "execution_ms", "interference_ms"),
)


@contextmanager
def requests_csv(path: Path) -> Iterator[RequestSink]:
    """Give a sink that writes what it is told; the file appears once all of it is there.

    Requests that were refused or failed have no parts of their latency.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)

            def sink(
                model: str,
                fate: Fate,
                arrivals_s: Sequence[float] | Times,
                done_s: float,
                *,
                node_id: str = "",
                start_s: float = np.nan,
                work_s: float = np.nan,
                cold_s: Times | None = None,
            ) -> None:
                came_s = np.asarray(arrivals_s, dtype=float)
                parts = [("", "", "", "")] * len(came_s)
                if fate is Fate.ANSWERED:
                    parts = _parts(came_s, done_s, start_s, work_s, cold_s)
                for came, columns in zip(came_s.tolist(), parts, strict=True):
                    times = (f"{came:.6f}", f"{done_s:.6f}", _ms(done_s - came))
                    writer.writerow((model, fate.value, node_id, *times, *columns))

            yield sink
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _parts(
    came_s: Times, done_s: float, start_s: float, work_s: float, cold_s: Times | None
) -> list[tuple[str, str, str, str]]:
    """Give queue, cold, execution and interference of each request of a batch."""
    cold = np.zeros_like(came_s) if cold_s is None else cold_s
    queue = np.maximum(0.0, start_s - came_s - cold)
    lost_s = max(0.0, done_s - start_s - work_s)
    return [
        (_ms(waited_s), _ms(unserved_s), _ms(work_s), _ms(lost_s))
        for waited_s, unserved_s in zip(queue.tolist(), cold.tolist(), strict=True)
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"
