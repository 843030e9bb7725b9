"""The placement problem as a mixed-integer program.

A model is served in one of several ways (a kind of hardware, so many equal parts on different
nodes, batch size and lanes), each part of it with a demand `d` on its device, a tolerance `t` for
the demand of others there, and memory. A node holds a set of parts if

    sum of d - d_i <= t_i for each part i,  sum of d <= the planner's limit,  memory fits.

With `c_i = t_i + d_i` the first says: sum of d <= the least c_i of the set. So each node that is
in use is named after that part of it which bears least, its *leader*, and no row needs a big
constant: with y_l = "a node led by l is in use" and x_il = "i is on it",

    sum over i of d_i x_il <= (c_l - d_l) y_l.

Only parts that bear no less than l may follow l. Nodes of a kind are alike, so which of them it
is doesn't matter, and no two solutions differ in the order of nodes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Vector = npt.NDArray[np.float64]
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of hardware; `nodes` of it may be used."""

    name: str
    price_usd_per_hour: float
    memory_bytes: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Option:
    """A way to serve a model: `replicas` equal parts on different nodes of a kind.

    Attributes:
        demand: mean share of the device that one part takes.
        tolerance: what others on the device may take, so that the part keeps its limits.
        memory_bytes: of one part.
    """

    model: str
    kind: str
    replicas: int
    demand: float
    tolerance: float
    memory_bytes: int

    @property
    def bound(self) -> float:
        """The greatest demand on a device that it is on, its own included."""
        return self.demand + self.tolerance


@dataclass(frozen=True, slots=True)
class _Part:
    """One of an option's parts."""

    option: int
    copy: int


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the variables mean: first one for each option, then these.

    Attributes:
        parts: by rank: who bears least comes first.
        leads: variable by part: it leads a node. `follows`: by (part, leader).
    """

    options: tuple[Option, ...]
    parts: tuple[_Part, ...]
    leads: Mapping[int, int]
    follows: Mapping[tuple[int, int], int]

    def __len__(self) -> int:
        return len(self.options) + len(self.leads) + len(self.follows)

    def option(self, rank: int) -> Option:
        """Give the option that a part belongs to."""
        return self.options[self.parts[rank].option]


@dataclass(frozen=True, slots=True)
class Program:
    """Minimise cost @ v with matrix @ v between `lower` and `upper`, v of zeros and ones."""

    cost: Vector
    matrix: csr_array
    lower: Vector
    upper: Vector
    columns: _Columns

    def nodes(self, solution: Vector) -> list[list[int]]:
        """Give the options whose parts share a node, by rank, for each node that is in use."""
        parts = self.columns.parts
        held = {
            leader: [parts[leader].option]
            for leader, variable in self.columns.leads.items()
            if solution[variable] > 0.5
        }
        for (part, leader), variable in self.columns.follows.items():
            if solution[variable] > 0.5:
                held[leader].append(parts[part].option)
        return list(held.values())


class _Rows:
    """Rows of a sparse matrix as they are thought of."""

    def __init__(self) -> None:
        self._row: list[int] = []
        self._column: list[int] = []
        self._value: list[float] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def add(self, terms: Mapping[int, float], lower: float, upper: float) -> None:
        self._row.extend([len(self.lower)] * len(terms))
        self._column.extend(terms)
        self._value.extend(terms.values())
        self.lower.append(lower)
        self.upper.append(upper)

    def matrix(self, columns: int) -> csr_array:
        shape = (len(self.lower), columns)
        return csr_array((self._value, (self._row, self._column)), shape=shape)


def program(options: Sequence[Option], kinds: Sequence[Kind]) -> Program:
    """Put the problem into rows and columns."""
    by_kind = {kind.name: kind for kind in kinds}
    columns = _columns(tuple(options), by_kind)
    cost = np.zeros(len(columns))
    for rank, variable in columns.leads.items():
        cost[variable] = by_kind[columns.option(rank).kind].price_usd_per_hour
    rows = _Rows()
    _every_model_is_served(rows, columns)
    _every_node_has_room(rows, columns, by_kind)
    _there_are_so_many_nodes(rows, columns, kinds)
    matrix = rows.matrix(len(columns))
    return Program(cost, matrix, np.array(rows.lower), np.array(rows.upper), columns)


def _columns(options: tuple[Option, ...], kinds: Mapping[str, Kind]) -> _Columns:
    parts = [_Part(n, copy) for n, option in enumerate(options) for copy in range(option.replicas)]
    # Of those that bear the same the greatest leads, as it leaves least to place.
    parts.sort(key=lambda p: (options[p.option].bound, -options[p.option].demand, p.option, p.copy))
    leads = {rank: len(options) + rank for rank in range(len(parts))}
    follows: dict[tuple[int, int], int] = {}
    for rank, part in enumerate(parts):
        for leader in range(rank):
            first, second = options[parts[leader].option], options[part.option]
            if (
                first.kind == second.kind
                and first.model != second.model
                and first.demand + second.demand <= first.bound
                and first.memory_bytes + second.memory_bytes <= kinds[first.kind].memory_bytes
            ):
                follows[rank, leader] = len(options) + len(parts) + len(follows)
    return _Columns(options, tuple(parts), leads, follows)


def _every_model_is_served(rows: _Rows, columns: _Columns) -> None:
    """One option of each model is chosen, and each part of a chosen option is on one node."""
    chosen: dict[str, dict[int, float]] = {}
    for number, option in enumerate(columns.options):
        chosen.setdefault(option.model, {})[number] = 1.0
    for terms in chosen.values():
        rows.add(terms, 1, 1)
    places: dict[int, dict[int, float]] = {
        rank: {columns.leads[rank]: 1.0, part.option: -1.0}
        for rank, part in enumerate(columns.parts)
    }
    for (rank, _), variable in columns.follows.items():
        places[rank][variable] = 1.0
    for terms in places.values():
        rows.add(terms, 0, 0)


def _every_node_has_room(rows: _Rows, columns: _Columns, kinds: Mapping[str, Kind]) -> None:
    """Demand and memory stay within what leader and node bear; no two parts of one model."""
    followers: dict[int, list[tuple[int, int]]] = {}
    for (rank, leader), variable in columns.follows.items():
        followers.setdefault(leader, []).append((rank, variable))
    for leader, behind in followers.items():
        first, lead = columns.option(leader), columns.leads[leader]
        demand = {lead: -first.tolerance}
        memory = {lead: (first.memory_bytes - kinds[first.kind].memory_bytes) / _GIB}
        of_model: dict[str, dict[int, float]] = {}
        for rank, variable in behind:
            option = columns.option(rank)
            demand[variable] = option.demand
            memory[variable] = option.memory_bytes / _GIB
            of_model.setdefault(option.model, {lead: -1.0})[variable] = 1.0
        for terms in (demand, memory, *of_model.values()):
            rows.add(terms, -np.inf, 0)


def _there_are_so_many_nodes(rows: _Rows, columns: _Columns, kinds: Sequence[Kind]) -> None:
    used: dict[str, dict[int, float]] = {}
    for rank, variable in columns.leads.items():
        used.setdefault(columns.option(rank).kind, {})[variable] = 1.0
    for kind in kinds:
        if kind.name in used:
            rows.add(used[kind.name], 0, kind.nodes)
