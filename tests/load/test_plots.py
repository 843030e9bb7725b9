from pathlib import Path

import numpy as np
import pytest

from paldia.load.outcomes import NUMBER_OF_CODE, Columns
from paldia.load.plots import draw
from paldia.load.tally import Tally


@pytest.mark.parametrize("code", ["OK", "UNAVAILABLE"])
@pytest.mark.parametrize("count", [0, 500])
def test_a_picture_comes_of_whatever_came(tmp_path: Path, code: str, count: int) -> None:
    """Nothing at all, and a warm-up with seconds of silence."""
    intended_s = np.sort(np.random.default_rng(1).random(count)) ** 2 * 9
    codes = np.full(count, NUMBER_OF_CODE[code], np.int16)
    tally = Tally(0.1, warmup_s=2.0)
    tally.add(Columns(intended_s, np.zeros(count), intended_s + 0.05, codes))
    path = tmp_path / "latency.png"
    draw(path, tally, 0.1 if count else None, "model", "remark")
    assert path.read_bytes().startswith(b"\x89PNG")
