"""Golden transcripts: the planner does, tick by tick, what is written in tests/transcripts."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.transcripts import FOLDER, ScriptError, played

PATHS = sorted(FOLDER.glob("*.txt"))
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_planner_does_what_is_written(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text()
    now, _ = played(written, path.name)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(now)
    elif now != written:
        lines = written.splitlines(), now.splitlines()
        diff = "\n".join(difflib.unified_diff(*lines, path.name, "as it is now", lineterm=""))
        pytest.fail(f"{diff}\nif that is right, run with --rewrite and review", pytrace=False)


def test_each_is_the_same_under_any_hash_seed() -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.core.transcripts"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    logs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert all(path.name in logs[0] for path in PATHS)
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dance m", "no command 'dance'; there are hardware, node, "),
        ("  tick 1", "a command begins in the first column"),
        ("tick", "tick: missing a required argument: 'seconds'; expected tick SECONDS"),
        ("tick 0", "tick takes 1 to 3600 seconds, not 0"),
        ("tick soon", "invalid literal for int"),
        ("demand n 5", "no model 'n'; there are m"),
        ("node large l0", "no hardware 'large'; there are small"),
        ("fail s1", "no node 's1'; there are s0"),
        ("explain m", "no decision about 'm'; there are none"),
        ("model m slo_ms=0", "the SLO's latency must lie above 0 s"),
        ("model m slo=5", "expected model NAME slo_ms= [min_replicas=] [keep_alive_s=] "),
        ("profile m small latency_ms=1,2 load_s=0 memory_mib=1", "is not of the form BATCH:NUMBER"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(line: str, message: str) -> None:
    script = f"hardware small price=1 memory_gib=1\nnode small s0\nmodel m slo_ms=5\n{line}\n"
    with pytest.raises(ScriptError, match=re.escape(message)) as error:
        played(script, "script.txt")
    assert str(error.value).startswith("script.txt:4: ")


def test_playing_replaces_all_output_and_keeps_all_else() -> None:
    script = "# One.\nhardware small price=1 memory_gib=1\n\nnode small s0\n# Two.\nfleet\n"
    now, _ = played(f"{script}    what it was before\n", "script.txt")
    assert now == f"{script}    s0 (small) parked: nothing\n"
    assert played(now, "script.txt")[0] == now
