from pathlib import Path

import numpy as np
import pytest

from paldia.core.errors import InvalidArgumentError
from paldia.load.arrivals import poisson, read_arrivals, recorded, uniform
from paldia.sim.trace_files import open_trace


def test_poisson_arrivals_are_as_uneven_as_they_should_be():
    arrivals_s = poisson(200.0, 100.0, seed=3)
    gaps_s = np.diff(arrivals_s)
    assert len(arrivals_s) == pytest.approx(20_000, rel=0.03)
    assert (gaps_s >= 0).all()
    assert arrivals_s[-1] < 100
    # Of an exponential distribution the standard deviation is the mean.
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, abs=0.03)
    assert arrivals_s.tolist() == poisson(200.0, 100.0, seed=3).tolist()
    assert arrivals_s[0] != poisson(200.0, 100.0, seed=4)[0]


def test_uniform_arrivals_have_one_distance():
    assert uniform(4.0, 1.0).tolist() == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_must_be_above_0(rate: float):
    for way in (lambda: poisson(rate, 1.0, seed=0), lambda: uniform(rate, 1.0)):
        with pytest.raises(InvalidArgumentError, match="the rate must be above 0"):
            way()


def test_more_than_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InvalidArgumentError, match="at most 20,000,000"):
        uniform(1e6, 1e4)
    monkeypatch.setattr("paldia.load.arrivals.REQUESTS_MOST", 100)
    with pytest.raises(InvalidArgumentError, match="take a shorter part"):
        recorded(open_trace("poisson:100:10"))


def test_a_trace_of_counts_is_read_and_scaled(tmp_path: Path):
    path = tmp_path / "counts.csv"
    path.write_text("second,requests\n0,10\n1,0\n2,30\n")
    assert np.bincount(read_arrivals(str(path)).astype(int)).tolist() == [10, 0, 30]
    doubled = recorded(open_trace(str(path)).scaled(2.0))
    assert np.bincount(doubled.astype(int)).tolist() == [20, 0, 60]


def test_a_part_without_requests_is_refused(tmp_path: Path):
    path = tmp_path / "counts.csv"
    path.write_text("second,requests\n0,0\n1,0\n2,30\n")
    with pytest.raises(InvalidArgumentError, match="no request comes in this part of counts"):
        recorded(open_trace(str(path)).part(0.0, 2.0))
