"""From node-seconds to dollars: by node, and by the models that kept the nodes busy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from paldia.core.types import Hardware

NODES_KEPT = 5000
MODELS_KEPT = 1000
FORMER_NODES = "(former nodes)"
FORMER_MODELS = "(former models)"
"""Models that are gone, and whatever was charged before models were told apart."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Mean power of a node over a span of time; `estimated` if nothing measured it."""

    watts: float
    estimated: bool = False


def estimated_draw(hardware: Hardware, utilisation: float) -> Draw | None:
    """Give the power of a node that is used to a share of 0 to 1; None if nothing is known of it.

    P(u) = idle + (rated - idle) u.
    """
    if hardware.idle_watts <= 0 and hardware.rated_watts <= 0:
        return None
    range_watts = max(0.0, hardware.rated_watts - hardware.idle_watts)
    return Draw(hardware.idle_watts + range_watts * _share(utilisation), estimated=True)


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules, those that were measured apart from those that were not."""

    measured_j: float = 0.0
    estimated_j: float = 0.0

    @property
    def total_j(self) -> float:
        """All of them."""
        return self.measured_j + self.estimated_j

    def plus(self, other: Energy) -> Energy:
        """Give the sum."""
        return Energy(self.measured_j + other.measured_j, self.estimated_j + other.estimated_j)

    def drawn(self, draw: Draw, span_s: float) -> Energy:
        """Give the sum with what was drawn over `span_s` seconds."""
        joules = draw.watts * span_s
        return self.plus(Energy(estimated_j=joules) if draw.estimated else Energy(joules))


@dataclass(frozen=True, slots=True)
class Ledger:
    """What each node has cost up to one moment, and for which models.

    Attributes:
        accounted_until_s: UTC seconds up to which every cost is counted.
        cost_usd: dollars by node; of many nodes that are gone, their sum.
        running: price in dollars per hour of the nodes that run since that moment.
        model_usd: the same dollars by model; of many models that are gone, their sum.
        idle_usd: the rest of them, for which no model used a node.
        energy: by node, of those whose power is known.
    """

    accounted_until_s: float
    cost_usd: Mapping[str, float] = field(default_factory=dict)
    running: Mapping[str, float] = field(default_factory=dict)
    model_usd: Mapping[str, float] = field(default_factory=dict)
    idle_usd: float = 0.0
    energy: Mapping[str, Energy] = field(default_factory=dict)

    @property
    def total_usd(self) -> float:
        """Dollars of all nodes: those of all models and the idle rest."""
        return sum(self.cost_usd.values())

    @property
    def usd_per_hour(self) -> float:
        """Dollars per hour of the nodes that run."""
        return sum(self.running.values())

    @property
    def total_energy(self) -> Energy:
        """Joules of all nodes whose power is known."""
        return Energy(
            sum(energy.measured_j for energy in self.energy.values()),
            sum(energy.estimated_j for energy in self.energy.values()),
        )

    def settle(
        self,
        now_s: float,
        running: Mapping[str, float],
        busy: Mapping[str, Mapping[str, float]] = {},
        draw: Mapping[str, Draw] = {},
    ) -> Ledger:
        """Charge what ran until `now_s`, and note what runs from there.

        Args:
            now_s: UTC seconds; a clock that was set back charges nothing until it catches up.
            running: price in dollars per hour of each node that runs from now on.
            busy: by node and model, the mean share of the device, 0 to 1, that the model took
                since the ledger was last settled. Shares that add up to more than the device
                are cut in proportion; what they leave of it is idle.
            draw: by node, its mean power over the same time; none where it is unknown.
        """
        span_s = max(0.0, now_s - self.accounted_until_s)
        here = running.keys() | self.running.keys()
        gone = _surplus(self.cost_usd, here, NODES_KEPT, FORMER_NODES)
        cost = _folded(self.cost_usd, gone, FORMER_NODES)
        energy = dict(self.energy)
        for node in gone:
            if node in energy:
                former = energy.get(FORMER_NODES, Energy())
                energy[FORMER_NODES] = former.plus(energy.pop(node))
        used = {model for shares in busy.values() for model in shares}
        unused = _surplus(self.model_usd, used, MODELS_KEPT, FORMER_MODELS)
        models, idle_usd = _folded(self.model_usd, unused, FORMER_MODELS), self.idle_usd
        for node, price in self.running.items():
            charged = price * span_s / 3600
            cost[node] = cost.get(node, 0.0) + charged
            shares = _shares(busy.get(node, {}))
            for model, share in shares.items():
                models[model] = models.get(model, 0.0) + charged * share
            idle_usd += charged * max(0.0, 1.0 - sum(shares.values()))
            if node in draw:
                energy[node] = energy.get(node, Energy()).drawn(draw[node], span_s)
        until_s = max(now_s, self.accounted_until_s)
        return Ledger(until_s, cost, dict(running), models, idle_usd, energy)


def _surplus(entries: Mapping[str, float], here: Set[str], kept: int, former: str) -> Sequence[str]:
    """Name those to fold: of what is gone, as many as there are entries too many.

    Nodes and models come and go for years; the bill keeps their sum, not all of their names.
    """
    too_many = len(entries) - kept
    return sorted(entries.keys() - here - {former})[:too_many] if too_many > 0 else ()


def _folded(entries: Mapping[str, float], names: Sequence[str], former: str) -> dict[str, float]:
    folded = dict(entries)
    for name in names:
        folded[former] = folded.get(former, 0.0) + folded.pop(name)
    return folded


def _shares(busy: Mapping[str, float]) -> dict[str, float]:
    """Give shares that together are no more than the whole."""
    shares = {model: _share(share) for model, share in busy.items()}
    whole = max(1.0, sum(shares.values()))
    return {model: share / whole for model, share in shares.items()}


def _share(share: float) -> float:
    """Give the nearest share from 0 to 1; one that is no number counts as 0."""
    return min(1.0, max(0.0, share))
