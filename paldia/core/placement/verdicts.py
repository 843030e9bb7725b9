"""What speaks for a place or against it, in words and numbers."""

from __future__ import annotations

from paldia.core.observation import Verdict
from paldia.core.placement.occupancy import Fleet
from paldia.core.sharing.asks import TINY
from paldia.core.sharing.offers import Offers

REASONS_SHOWN = 5


def on_load(offers: Offers, row: int, way: int, others: float) -> tuple[Verdict, str]:
    """Judge a way on a node of whose device others take that share."""
    ask = offers.asks[row]
    latency_s, capacity, pending = offers.foretold(row, way, others)
    rate = ask.demand.requests_per_second
    bears = others <= float(offers.tolerance[row, way]) + TINY
    busy = float(offers.used[row, way]) + others
    shape = f"(batch {offers.batch[row, way]}, {offers.lanes[row, way]} at once)"
    if not bears and rate > ask.limit * capacity:
        return Verdict.THROUGHPUT, (
            f"{rate:.1f} requests/s expected, {ask.limit * capacity:.1f} at {ask.limit:.0%} "
            f"of its {capacity:.1f} {shape}"
        )
    if busy > ask.limit + TINY:
        return Verdict.UTILISATION, (
            f"it would be {busy:.0%} busy, {others:.0%} with other models; "
            f"the limit is {ask.limit:.0%} {shape}"
        )
    return Verdict.FEASIBLE if bears else Verdict.LATENCY, (
        f"{latency_s * 1e3:.0f} ms with {pending} pending, "
        f"{ask.allowed_s * 1e3:.0f} ms allowed {shape}"
    )


def of_memory(needed_bytes: float, free_bytes: float) -> str:
    """Say that the memory doesn't suffice."""
    return f"needs {int(needed_bytes) >> 20} MiB, {int(max(0.0, free_bytes)) >> 20} MiB are free"


def of_no_node(fleet: Fleet, hardware: str, avoided: frozenset[int], closed: frozenset[int]) -> str:
    """Say why no node of a kind can be used."""
    reasons = []
    nodes = fleet.of_kind(hardware).tolist()
    for index in nodes[:REASONS_SHOWN]:
        node = fleet.at(index)
        if node.problem:
            reasons.append(f"{node.node_id}: {node.problem}")
        elif index in avoided:
            reasons.append(f"{node.node_id}: the model failed to start there a short while ago")
        elif index in closed:
            reasons.append(f"{node.node_id}: the model is held to a share of the SMs there")
        else:
            reasons.append(f"{node.node_id} is {node.state.value}")
    more = len(nodes) - len(reasons)
    return "; ".join(reasons) + (f"; and {more} more" if more else "")
