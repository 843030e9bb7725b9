"""One cell from start to figures, in a process of its own."""

from __future__ import annotations

from typing import Any

from bench.paper.cells import Cell
from bench.paper.scenarios import scenario
from paldia.core.baselines import policy_named
from paldia.sim.report import cell as row_of
from paldia.sim.runner import run


def figures(cell: Cell) -> dict[str, Any]:
    """Simulate a cell and give its row of the report."""
    outcome = run(scenario(cell), policy_named(cell.policy))
    return row_of(
        outcome,
        workload=cell.workload,
        trace=cell.trace,
        load=cell.load,
        hardware_set=cell.hardware_set.value,
    )
