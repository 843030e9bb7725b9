"""One measurement's requests: a call of `paldia load`, and the report it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paldia.core.errors import ExpiredError, UnavailableError

CONNECTIONS = 16
"""So many that a port which several processes share gives each of them some."""
_MARGIN_S = 120.0
"""What starting and writing the report may take, and the last answers."""
_SAID = 2000


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask and with what.

    Attributes:
        url: HOST:PORT.
        input_file: requests as JSON, in KServe's V2 REST form.
        out: folder for reports; each call takes a folder of its own in it.
    """

    url: str
    model: str
    input_file: Path
    out: Path


def closed(target: Target, callers: int, duration_s: float) -> dict[str, Any]:
    """Have callers send one request after the other; give the report."""
    return _send(target, f"closed-{callers}", ("--closed", str(callers)), duration_s, 0.0)


def open_loop(
    target: Target, rate_rps: float, duration_s: float, *, warmup_s: float
) -> dict[str, Any]:
    """Send at a rate, whatever becomes of it; give the report, without the warm-up."""
    return _send(target, "open", ("--rate", f"{rate_rps:g}"), duration_s, warmup_s)


def processes() -> int:
    """Give how many processes send: as many as cores, up to four."""
    return min(4, len(os.sched_getaffinity(0)))


def _send(
    target: Target, name: str, told: Sequence[str], duration_s: float, warmup_s: float
) -> dict[str, Any]:
    """Run `paldia load`.

    Raises:
        UnavailableError: it left no report; with its last words.
        ExpiredError: it didn't end.
    """
    out = target.out / name
    report = out / "report.json"
    report.unlink(missing_ok=True)
    command = [
        *(str(Path(sys.executable).with_name("paldia")), "load"),
        *("--url", target.url, "--model", target.model, "--input", str(target.input_file)),
        *("--duration", f"{duration_s:g}", "--warmup", f"{warmup_s:g}", *told),
        *("--processes", str(processes()), "--connections", str(CONNECTIONS)),
        *("--out", str(out), "--json"),
    ]
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=duration_s + warmup_s + _MARGIN_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ExpiredError(f"paldia load didn't end in time: {' '.join(command)}") from error
    if not report.is_file():
        said = (ran.stderr or ran.stdout).strip()[-_SAID:]
        raise UnavailableError(f"paldia load ended with code {ran.returncode}: {said}")
    found: dict[str, Any] = json.loads(report.read_text())
    return found
