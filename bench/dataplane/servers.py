"""MLServer and Ray Serve: whole servers, which run the model in their own Python.

Both are set up to do their best: no access logs, light models in the server's own process, heavy
ones in as many processes as there are cores.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from bench.dataplane.children import START_LIMIT_S, Children, free_address
from bench.dataplane.environments import Environment
from bench.dataplane.workloads import SERVED, Workload

_MESSAGE_LIMIT_BYTES = 64 << 20


def mlserver(
    environment: Environment, workload: Workload, started: Children, folder: Path
) -> tuple[str, int]:
    """Start MLServer; give its address and its process's id."""
    address, http, metrics = (free_address() for _ in range(3))
    heavy = bool(workload.weights)
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "grpc_port": _port(address),
        "http_port": _port(http),
        "metrics_port": _port(metrics),
        "metrics_dir": str(folder / "metrics"),
        "environments_dir": str(folder / "environments"),
        "grpc_max_message_length": _MESSAGE_LIMIT_BYTES,
        "parallel_workers": len(os.sched_getaffinity(0)) if heavy else 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in ("mlserver_model.py", "compute.py"):
        shutil.copyfile(SERVED / name, folder / name)
    told = {
        "name": workload.model,
        "implementation": "mlserver_model.Served",
        "inputs": [_tensor(workload.input, workload.datatype, workload.shape)],
        "outputs": [_tensor(workload.output, "FP32", workload.out_shape)],
        "parameters": {"extra": _told(workload)},
    }
    (folder / "model-settings.json").write_text(json.dumps(told))
    command = [environment.program("mlserver"), "start", str(folder)]
    child = started.start("mlserver", command, address, workload.model)
    child.wait_ready(time.monotonic() + START_LIMIT_S)
    return address, child.pid


def ray_serve(
    environment: Environment, workload: Workload, started: Children, folder: Path
) -> tuple[str, int]:
    """Start Ray Serve; give its gRPC proxy's address and the id of the process above all."""
    address, http = free_address(), free_address()
    heavy = bool(workload.weights)
    for name in ("ray_app.py", "compute.py", "grpc_service_pb2.py"):
        shutil.copyfile(SERVED / name, folder / name)
    told = {
        **_told(workload),
        "port": _port(address),
        "http_port": _port(http),
        "replicas": len(os.sched_getaffinity(0)) if heavy else 1,
        "at_once": max(workload.callers),
        "shape": workload.shape,
        "out_shape": workload.out_shape,
    }
    command = [environment.program("python"), str(folder / "ray_app.py"), json.dumps(told)]
    child = started.start("ray", command, address, workload.model)
    child.wait_ready(time.monotonic() + START_LIMIT_S)
    return address, child.pid


def _told(workload: Workload) -> dict[str, Any]:
    return {
        "model": workload.model,
        "weights": workload.weights,
        "datatype": workload.datatype,
        "input": workload.input,
        "tensor": workload.tensor,
        "output": workload.output,
    }


def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1, *shape]}


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
