"""Tables of errors, in Markdown: the catalog's documentation carries them as they come.

The gain of a second lane is X(b, 2) / X(b, 1), by the core's own slowdown. iGniter measured what
two processes at half the SMs each make of it; bandwidth alone, the older way, promises far more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from paldia.catalog import demand_rules, machines, workloads
from paldia.catalog.crosscheck import Check, checks, full_speed_share
from paldia.catalog.demand_rules import PAIRED_BATCH, tensorrt_shapes
from paldia.catalog.shape import along
from paldia.catalog.tables import rows, shared_runs
from paldia.core.profiles import Profile

V100_MACHINE = "p3.2xlarge"
BATCHES = (1, 8, 16, 32)


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lay out a table."""
    for line in (head, ["---"] * len(head), *body):
        yield f"| {' | '.join(line)} |"


def rule_errors() -> Iterator[str]:
    """Errors by rule: how many known figures, mean and median, bias, worst."""
    by_rule: dict[str, list[Check]] = {}
    for check in checks(machines()[V100_MACHINE]):
        by_rule.setdefault(check.rule, []).append(check)
    body = []
    for rule, found in by_rule.items():
        errors = np.array([check.error for check in found])
        worst = max(found, key=lambda check: abs(check.error))
        sizes = [f"{it:.1%}" for it in (np.abs(errors).mean(), np.median(np.abs(errors)))]
        body.append(
            (
                rule,
                str(len(found)),
                *sizes,
                f"{errors.mean():+.1%}",
                f"{worst.error:+.0%} {worst.case}",
            )
        )
    return table(("rule", "figures", "mean error", "median", "bias", "worst"), body)


def gain(demand: float, penalty: float) -> float:
    """X(b, 2) / X(b, 1) of a profile with this demand and co-location penalty."""
    profile = Profile(points=((1, 1.0),), load_s=0.0, memory_bytes=0, colocation_penalty=penalty)
    return 2 * float(profile.slowdown(1, demand)) / float(profile.slowdown(2, demand))


def measured_gain(network: str) -> float:
    """What two processes at half the SMs each put through against one with all of them."""
    row = next(row for row in rows("igniter_v100_pairs") if row["network"] == network)
    return 2 * shared_runs()[network, PAIRED_BATCH, 100] / float(row["paired_ms"])


def predicted_gains(network: str) -> dict[str, float]:
    """Gains by way of telling what a batch demands; the last two knew nothing of the network."""
    known = demand_rules.bandwidth_rows().get(network)
    own = dict(demand_rules.known_sm_demand(network))[PAIRED_BATCH]
    others = frozenset({network})
    empty, full = demand_rules.sm_demand_line(others)
    growing = tensorrt_shapes()[network].growing_share(PAIRED_BATCH)
    mean_penalty = demand_rules.penalty(others)
    found = {}
    if known:
        found["bandwidth alone"] = gain(along(known, PAIRED_BATCH), 0.0)
    found["SMs in use"] = gain(own, mean_penalty)
    found["share for full speed"] = gain(full_speed_share(network, PAIRED_BATCH), mean_penalty)
    found["rule, network left out"] = gain(empty + (full - empty) * growing, mean_penalty)
    return found


def two_lanes() -> Iterator[str]:
    """Gains predicted in each way beside the measured one, with their errors."""
    ways = ("bandwidth alone", "share for full speed", "SMs in use", "rule, network left out")
    body, errors = [], {way: list[float]() for way in ways}
    for network in tensorrt_shapes():
        measured, predicted = measured_gain(network), predicted_gains(network)
        line = [network, f"{measured:.2f}"]
        for way in ways:
            if way in predicted:
                errors[way].append(predicted[way] / measured - 1)
                line.append(f"{predicted[way]:.2f} ({errors[way][-1]:+.0%})")
            else:
                line.append("not published")
        body.append(line)
    means = [f"{np.abs(errors[way]).mean():.1%}" for way in ways]
    return table(("network", "measured", *ways), [*body, ["mean error", "", *means]])


def two_lanes_of_catalog() -> Iterator[str]:
    """Gains of each workload's profile; measured ones where there are any."""
    body = []
    for name, workload in workloads().items():
        profile = workload.profiles[V100_MACHINE]
        gains = [gain(profile.demand_fraction(it), profile.colocation_penalty) for it in BATCHES]
        measured = f"{measured_gain(name):.2f}" if name in tensorrt_shapes() else ""
        body.append((name, *(f"{it:.2f}" for it in gains), measured))
    head = (
        "workload",
        *(f"batch {it}" for it in BATCHES),
        f"measured at {PAIRED_BATCH} (TensorRT)",
    )
    return table(head, body)
