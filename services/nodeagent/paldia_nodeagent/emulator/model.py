"""A model on an emulated accelerator, as Triton's Python backend runs it.

It has the deployed model's own name, inputs and outputs. Each batch takes the time that the
emulator says, and is answered with zeros: empty text for strings, 1 for an open dimension, or
the input's dimensions for an output that has an input's name. Triton's stub runs this file
where it lies beside `emulated.json`, so it imports nothing of ours.

Until the agent has measured what Triton itself takes for a batch, and put that down in the file
that `emulated.json` names, a batch takes a time told there and stays off the card.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_EARLY_LIMIT_S = 0.1
_CONNECT_LIMIT_S = 10.0
_ANSWER_LIMIT_S = 60.0
_RETRY_S = 0.05
_ATTEMPTS = 3
_CHECK_EVERY_S = 1.0


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Take its place on the card."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        told = json.loads((folder / "emulated.json").read_text())
        # The stub's parent is Triton, which all instances have in common.
        process = {
            "pid": os.getppid(),
            "model": args["model_name"],
            "sm_percent": int(os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100")),
            "profile": told["profile"],
        }
        self._batches = config["max_batch_size"] > 0
        self._outputs = [_Output(it, has_rows=self._batches) for it in config["output"]]
        self._place = _Place(told["socket"], process)
        self._calibrating_s = told["calibrating_s"]
        self._overhead = _Overhead(Path(told["overhead_file"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests as one batch."""
        rows = [self._rows(request) for request in requests]
        try:
            early_s = self._overhead.of(sum(rows))
            if early_s is None:
                time.sleep(self._calibrating_s)
                self._place.say({"read": True})
            else:
                self._place.say({"run": sum(rows), "early_s": early_s})
        except (OSError, pb_utils.TritonModelException) as error:
            failure = pb_utils.TritonError(f"the emulated accelerator: {error}")
            return [pb_utils.InferenceResponse([], failure) for _ in requests]
        return [
            pb_utils.InferenceResponse([output.zeros(request, count) for output in self._outputs])
            for request, count in zip(requests, rows, strict=True)
        ]

    def _rows(self, request: Any) -> int:
        inputs = request.inputs()
        return max(1, int(inputs[0].shape()[0])) if self._batches and inputs else 1

    def finalize(self) -> None:
        """Leave the card."""
        self._place.leave()


class _Output:
    """Makes one output."""

    def __init__(self, config: dict[str, Any], *, has_rows: bool) -> None:
        self._has_rows = has_rows
        self._name = config["name"]
        dims = config.get("reshape", {}).get("shape", config["dims"])
        self._shape = [max(1, int(dim)) for dim in dims]
        self._type = pb_utils.triton_string_to_numpy(config["data_type"])

    def zeros(self, request: Any, rows: int) -> Any:
        """Give it for a request of `rows` rows."""
        alike = pb_utils.get_input_tensor_by_name(request, self._name)
        if alike is not None:
            shape = [int(dim) for dim in alike.shape()]
        else:
            shape = [rows, *self._shape] if self._has_rows else self._shape
        if self._type == np.object_:
            return pb_utils.Tensor(self._name, np.full(shape, b"", np.object_))
        return pb_utils.Tensor(self._name, np.zeros(shape, self._type))


class _Overhead:
    """What Triton takes for a batch beyond the model's own time, once it was measured."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._figures: dict[str, float] = {}

    def of(self, rows: int) -> float | None:
        """Give the seconds for a batch of so many rows; None while nothing is known."""
        if not self._figures:
            try:
                self._figures = json.loads(self._file.read_text())
            except FileNotFoundError:
                return None
        overhead_s = self._figures["fixed_s"] + rows * self._figures["row_s"]
        return min(overhead_s, _EARLY_LIMIT_S)


class _Place:
    """The instance's place on the card; taken again when the emulator is started again."""

    def __init__(self, name: str, process: dict[str, Any]) -> None:
        self._address = f"\0{name}"
        self._process = process
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._enter()
        threading.Thread(target=self._keep, daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        """Say something and hear the answer; again if the emulator dies and there is a new one.

        Raises:
            OSError: there is none, or it doesn't answer.
            TritonModelException: it has no room.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    if self._socket is None:
                        self._enter()
                    self._call(message)
                    return
                except ConnectionError:
                    self._close()
            raise OSError("it dies again and again")

    def leave(self) -> None:
        """Give the place up."""
        with self._lock:
            self._close()
            self._process = {}

    def _keep(self) -> None:
        """Notice within a second that the emulator is another one, and be on its card too."""
        while self._process:
            time.sleep(_CHECK_EVERY_S)
            with self._lock:
                if self._process and not self._is_connected():
                    self._close()
                    try:
                        self._enter()
                    except (OSError, pb_utils.TritonModelException):
                        # The next batch says so, and it is tried again.
                        continue

    def _is_connected(self) -> bool:
        if self._socket is None:
            return False
        # Nothing comes unasked: what can be read is the end.
        return not select.select([self._socket], [], [], 0)[0]

    def _enter(self) -> None:
        deadline_s = time.monotonic() + _CONNECT_LIMIT_S
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._address)
                break
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline_s:
                    raise OSError(f"no emulator answers: {error}") from error
                time.sleep(_RETRY_S)
        connection.settimeout(_ANSWER_LIMIT_S)
        self._socket = connection
        self._call({"enter": self._process})

    def _call(self, message: dict[str, Any]) -> None:
        """Say something and hear the answer."""
        connection = self._socket
        if connection is None:
            raise ConnectionResetError("not connected")
        connection.sendall(json.dumps(message).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            data = connection.recv(4096)
            if not data:
                raise ConnectionResetError("the emulator hung up")
            line += data
        if reason := json.loads(line).get("error"):
            self._close()
            raise pb_utils.TritonModelException(reason)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
