"""What Triton 2.51 really said, and what a user is told."""

from __future__ import annotations

import pytest
from paldia_nodeagent.causes import REASON_LIMIT_BYTES, fit_to_tell, load_reason, log_cause

REPOSITORY = "/data/runs/1f/repository"
POLL = "failed to load 'm', failed to poll from model repository"
PROTOBUF = (
    "[libprotobuf ERROR /tmp/tritonbuild/protobuf/text_format.cc:337] Error parsing text-format "
    "inference.ModelConfig: 1:35: Expected integer, got: oops\n"
    'E1124 04:31:48.374164 7190 model_repository_manager.cc:1460] "Poll failed for model '
    "directory 'm': failed to read text proto from /data/runs/1f/repository/m/config.pbtxt\"\n"
)
RAISES = (
    "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: ValueError: no "
    "weights for you\n\nAt:\n  /data/runs/1f/repository/m/1/model.py(3): initialize\n;\n"
)
DIED = (
    'I1124 05:00:56.923126 31995 model_lifecycle.cc:472] "loading: m:1"\n'
    "Traceback (most recent call last):\n"
    '  File "model.py", line 1\n'
    "MemoryError: nothing left\n"
)
NO_GPU = (
    'W1124 04:31:17.966499 7190 pinned_memory_manager.cc:273] "Unable to allocate pinned system '
    'memory, pinned memory pool will not be available: CUDA driver version is insufficient"\n'
    'E1124 04:31:17.966673 7190 server.cc:241] "CudaDriverHelper has not been initialized."\n'
    "I1124 04:31:17.966948 7190 server.cc:604] \n"
    "+------------------+------+\n| Repository Agent | Path |\n+------------------+------+\n"
)


@pytest.mark.parametrize(
    ("message", "log", "reason"),
    [
        (
            POLL,
            PROTOBUF,
            "Error parsing text-format inference.ModelConfig: 1:35: Expected integer, got: oops\n"
            "failed to read text proto from m/config.pbtxt",
        ),
        (
            POLL,
            'E1124 04:31:48.372797 7190 model_repository_manager.cc:1460] "Poll failed for model '
            "directory 'm': Invalid model name: Could not determine backend for model 'm'\"\n",
            "Invalid model name: Could not determine backend for model 'm'",
        ),
        (
            RAISES,
            "",
            "Internal: ValueError: no weights for you\n\nAt:\n  m/1/model.py(3): initialize",
        ),
        (
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Invalid argument: "
            "unable to find backend library for backend 'tensorrt', try specifying runtime on "
            "the model configuration.;",
            "",
            "Invalid argument: unable to find backend library for backend 'tensorrt', try "
            "specifying runtime on the model configuration. (this node's Triton has: python)",
        ),
        (
            "",
            DIED,
            "Traceback (most recent call last):\n"
            '  File "model.py", line 1\nMemoryError: nothing left',
        ),
        (POLL, NO_GPU, "failed to poll from model repository"),
    ],
    ids=["protobuf", "no-config", "raises", "no-backend", "died", "noise-only"],
)
def test_finds_the_cause(message: str, log: str, reason: str) -> None:
    assert load_reason(message, log, REPOSITORY, ["python"]) == reason


def test_a_log_without_errors_has_no_cause() -> None:
    assert log_cause(NO_GPU) == ""


def test_quoted_newlines_are_lines_again() -> None:
    line = r"""E1124 04:31:49.98 7190 backend_model.cc:692] "ERROR: Failed to create instance: """
    assert log_cause(line + r"""a\n  b"c\"d" """.strip()) == 'a\n  b"c"d'


def test_long_reasons_keep_both_ends() -> None:
    short = fit_to_tell("first " + "x" * 10_000 + " last")
    assert len(short) <= REASON_LIMIT_BYTES
    assert short.startswith("first")
    assert short.endswith("last")
