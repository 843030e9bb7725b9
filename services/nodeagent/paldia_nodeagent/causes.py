"""Why a model didn't load, in Triton's own words.

The load call often says only "failed to poll from model repository"; the cause stands
in the log: in `E1124 ...` lines, in a protobuf error, or in lines without any prefix
that a crashing stub wrote.
"""

from __future__ import annotations

import re

from paldia.kit.text import printable, shorten

REASON_LIMIT_BYTES = 2000

# Severity, month and day, time, thread, source line, message.
_PREFIXED = re.compile(r"^([IWEF])\d{4} [\d:.]+ \d+ \S+\] ?(.*)$")
_SEVERITIES = {"I": "info", "W": "warning", "E": "error", "F": "error"}
_PROTOBUF = re.compile(r"^\[libprotobuf ERROR [^\]]*\] (.*)$")
_WRAPPING = (
    re.compile(r"^load failed for model '[^']*': ?"),
    re.compile(r"^version \d+ is at UNAVAILABLE state: "),
    re.compile(r"^Poll failed for model directory '[^']*': "),
    re.compile(r"^failed to load '[^']*' version \d+: "),
    re.compile(r"^failed to load '[^']*', "),
    re.compile(r"^failed to poll model '[^']*': "),
    re.compile(r"^ERROR: Failed to create instance: "),
)
_USELESS = "failed to poll from model repository"
# Printed on every machine without a GPU.
_NOISE = ("CudaDriverHelper", "pinned memory pool", "CUDA driver version", "Unable to allocate")
_BACKEND_MISSING = ("unable to find backend library", "'platform' and 'backend' pair")


def load_reason(message: str, log: str, repository: str, backends: list[str]) -> str:
    """Say why a load failed.

    Args:
        message: what the load call answered.
        log: what Triton logged meanwhile.
        repository: folder of the model repository; left out of paths in the reason.
        backends: names of the backends there are, told where one is missing.
    """
    reason = _unwrap(message)
    if not reason or reason == _USELESS:
        reason = log_cause(log) or reason
    if any(sign in reason for sign in _BACKEND_MISSING):
        reason += f" (this node's Triton has: {', '.join(backends) or 'no backends'})"
    return fit_to_tell(reason.replace(f"{repository}/", ""))


def log_cause(log: str) -> str:
    """Give what a log says of a failure: unprefixed lines and errors; empty if nothing."""
    spoken: list[str] = []
    errors: list[str] = []
    for line in log.splitlines():
        prefixed = _PREFIXED.match(line)
        if prefixed is None:
            protobuf = _PROTOBUF.match(line)
            text = protobuf[1] if protobuf else line.rstrip()
            if text.strip() and not text.startswith(("+-", "| ")):
                spoken.append(text)
        elif prefixed[1] in "EF":
            text = _unwrap(_unquote(prefixed[2]))
            if text not in errors and not any(noise in text for noise in _NOISE):
                errors.append(text)
    return "\n".join([*spoken, *errors])


def split_line(line: str) -> tuple[str, str]:
    """Give a log line's severity and its message.

    The severity is "info", "warning" or "error", or "output" for what has no prefix of
    Triton's: a model printed it, or a crashing stub.
    """
    prefixed = _PREFIXED.match(line)
    if prefixed is None:
        return "output", line
    return _SEVERITIES[prefixed[1]], _unquote(prefixed[2])


def fit_to_tell(text: str) -> str:
    """Give a reason as it may travel and be shown: not too long, and steering no terminal."""
    return shorten(printable(text).strip(), REASON_LIMIT_BYTES)


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace("\\n", "\n").replace('\\"', '"')
    return text.strip()


def _unwrap(text: str) -> str:
    """Strip what Triton wraps around the cause."""
    text = text.strip().rstrip(";").strip()
    for wrapping in _WRAPPING:
        text = wrapping.sub("", text)
    return text.strip()
