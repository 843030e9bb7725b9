"""Callers of a doubler: one request, or one after the other without end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def infer(endpoint: str, model: str, value: float = 1.0, timeout_s: float = 20.0) -> float:
    """Ask a doubler for twice `value`."""
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.full((1, 4), value, np.float32))
    with triton.InferenceServerClient(endpoint) as client:
        answer = client.infer(model, [tensor], client_timeout=timeout_s)
    return float(answer.as_numpy("y")[0, 0])


@contextlib.contextmanager
def asking_without_end(controller: Any, model: str) -> Iterator[list[Exception]]:
    """Ask a doubler again and again, where it is said to serve; give what went wrong."""
    done, errors = threading.Event(), []

    def keep_asking() -> None:
        while not done.is_set():
            try:
                infer(controller.status(model).endpoint, model)
            except Exception as error:
                errors.append(error)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        yield errors
    finally:
        done.set()
        asking.join()
