"""HiGHS on a packing problem, within a time limit, each answer kept for the next run."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import Bounds, LinearConstraint, milp

from bench.planner.packing import Program

_OPTIMAL, _LIMIT, _INFEASIBLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        cost: of the best solution in dollars per hour; None if none was found.
        lower_bound: nothing that the program allows costs less.
        seconds: on the clock, and `cpu_s` of processor time.
        ones: the variables that are 1 in that solution.
    """

    cost: float | None
    lower_bound: float
    proven: bool
    seconds: float
    cpu_s: float
    ones: tuple[int, ...] = ()

    @property
    def gap(self) -> float | None:
        """Share of the cost that isn't proven to be needed."""
        return None if not self.cost else 1 - self.lower_bound / self.cost

    def nodes(self, program: Program) -> list[list[int]]:
        """Give the options that share a node, by rank, for each node in use."""
        solution = np.zeros(len(program.cost))
        solution[list(self.ones)] = 1
        return program.nodes(solution)


def solved(program: Program, limit_s: float, kept: Path) -> Answer:
    """Solve, unless `kept`, a folder, has the answer to the same program and limit."""
    path = kept / f"{_fingerprint(program, limit_s)}.json"
    if path.exists():
        fields = json.loads(path.read_text())
        return Answer(**(fields | {"ones": tuple(fields["ones"])}))
    answer = solve(program, limit_s)
    kept.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(answer)))
    partial.replace(path)
    return answer


def solve(program: Program, limit_s: float) -> Answer:
    """Solve.

    Raises:
        ValueError: no placement keeps all limits, or HiGHS failed.
    """
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    result = milp(
        program.cost,
        integrality=np.ones(len(program.cost)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(program.matrix, program.lower, program.upper),
        options={"time_limit": limit_s},
    )
    seconds, cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
    if result.status not in (_OPTIMAL, _LIMIT):
        cause = "no placement keeps all limits" if result.status == _INFEASIBLE else "HiGHS failed"
        raise ValueError(f"{cause}: {result.message}; make the fleet greater or the demand less")
    bound = result.mip_dual_bound
    lower_bound = float(bound) if bound is not None and np.isfinite(bound) else 0.0
    if result.x is None:
        return Answer(None, lower_bound, proven=False, seconds=seconds, cpu_s=cpu_s)
    return Answer(
        round(float(result.fun), 9),
        lower_bound,
        proven=result.status == _OPTIMAL,
        seconds=seconds,
        cpu_s=cpu_s,
        ones=tuple(int(index) for index in np.nonzero(result.x > 0.5)[0]),
    )


def _fingerprint(program: Program, limit_s: float) -> str:
    digest = hashlib.sha256(f"{scipy.__version__} {limit_s:g}".encode())
    matrix = program.matrix
    for array in (
        program.cost,
        program.lower,
        program.upper,
        matrix.data,
        matrix.indices,
        matrix.indptr,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]
