"""Who is compared, and how each is started: always the same model behind the same protocol.

Proxies stand before a Triton of their own (`bench.plain_triton`), which batches as the model's
config says; PALDIA's node agent starts the same program with that switched off. MLServer and Ray
Serve serve the model themselves (`servers`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.dataplane.children import START_LIMIT_S, Children, children, free_address
from bench.dataplane.environments import Environment
from bench.dataplane.servers import mlserver, ray_serve
from bench.dataplane.workloads import AUTO, Workload
from bench.processes import Groups, tree, tritons_and_others
from bench.stage import staged
from paldia.cli.node_options import NodeOptions, emulated_node

SYSTEM, TRITON, BESIDE = "system", "triton", "beside"
"""Groups of processes: what is compared, the Triton behind it, and what isn't on the path."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is being served at an address, by groups of processes."""

    address: str
    groups: Callable[[], Groups]


Serve = Callable[[Workload, Path], AbstractContextManager[Served]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to serve a model.

    Attributes:
        environment: the name of the virtual environment it needs; empty for ours.
        emulated: whether it can serve what runs on an emulated card.
    """

    system: str
    serve: Serve
    environment: str = ""
    emulated: bool = True

    def can(self, workload: Workload) -> bool:
        """Whether it can serve a workload."""
        return self.emulated or not workload.emulated


def contenders(environments: Mapping[str, Environment]) -> list[Contender]:
    """Give all that can be had.

    Args:
        environments: those that could be made, by name.
    """
    cores = len(os.sched_getaffinity(0))
    all_of_them = f"(N = {cores})"
    known = [
        Contender("Triton directly", _triton),
        Contender("PALDIA 1 worker", partial(_paldia, 1)),
        Contender(f"PALDIA N workers {all_of_them}", partial(_paldia, cores)),
        Contender("pass-through 1 process", partial(_passthrough, 1)),
        Contender(f"pass-through N processes {all_of_them}", partial(_passthrough, cores)),
    ]
    if environment := environments.get("envoy"):
        envoy = environment.program("envoy")
        known.append(Contender("Envoy 1 thread", partial(_envoy, envoy, 1)))
        known.append(Contender(f"Envoy N threads {all_of_them}", partial(_envoy, envoy, cores)))
    for system, name, start in (
        ("MLServer", "mlserver", mlserver),
        ("Ray Serve", "ray", ray_serve),
    ):
        if environment := environments.get(name):
            serve = partial(_whole, partial(start, environment))
            known.append(Contender(system, serve, name, emulated=False))
    return known


@contextmanager
def plain_triton(
    model: Path, folder: Path, *, lanes: int, device: str = AUTO, workloads: Path | None = None
) -> Iterator[tuple[str, int]]:
    """Run a Triton by itself; give its address and the id of the process that started it."""
    with children(folder) as started:
        command = [
            *(sys.executable, "-m", "bench.plain_triton", str(model)),
            *("--data-dir", str(folder / "node"), "--device", device, "--lanes", str(lanes)),
            *(("--workloads", str(workloads)) if workloads else ()),
        ]
        child = started.start_told("triton", command)
        facts = child.wait_ready(time.monotonic() + START_LIMIT_S)
        yield facts["grpc"], child.pid


@contextmanager
def _triton(workload: Workload, folder: Path) -> Iterator[Served]:
    with _behind(workload, folder) as (address, pid):

        def groups() -> Groups:
            tritons, others = tritons_and_others(tree(pid))
            return {SYSTEM: tritons, BESIDE: others}

        yield Served(address, groups)


@contextmanager
def _behind(workload: Workload, folder: Path) -> Iterator[tuple[str, int]]:
    model = workload.write(folder)
    with plain_triton(
        model, folder / "triton", lanes=workload.lanes, device=workload.device
    ) as found:
        yield found


@contextmanager
def _before(
    workload: Workload, folder: Path, start: Callable[[Children, str], tuple[str, list[int]]]
) -> Iterator[Served]:
    """Start a proxy before a Triton; `start` gives its address and its processes."""
    with (
        _behind(workload, folder) as (upstream, host_pid),
        children(folder / "proxy") as started,
    ):
        address, pids = start(started, upstream)

        def groups() -> Groups:
            tritons, others = tritons_and_others(tree(host_pid))
            proxies = [process for pid in pids for process in tree(pid)]
            return {SYSTEM: proxies, TRITON: tritons, BESIDE: others}

        yield Served(address, groups)


def _passthrough(
    processes: int, workload: Workload, folder: Path
) -> AbstractContextManager[Served]:
    def start(started: Children, upstream: str) -> tuple[str, list[int]]:
        address = free_address()
        command = [
            *(sys.executable, "-m", "bench.dataplane.passthrough"),
            *("--bind", address, "--upstream", upstream),
        ]
        all_of_them = [
            started.start_told(f"passthrough-{index}", command) for index in range(processes)
        ]
        for child in all_of_them:
            child.wait_ready(time.monotonic() + START_LIMIT_S)
        return address, [child.pid for child in all_of_them]

    return _before(workload, folder, start)


def _envoy(
    program: str, threads: int, workload: Workload, folder: Path
) -> AbstractContextManager[Served]:
    def start(started: Children, upstream: str) -> tuple[str, list[int]]:
        address = free_address()
        config = folder / "proxy" / "envoy.json"
        config.write_text(json.dumps(envoy_config(address, upstream)))
        command = [
            *(program, "--config-path", str(config), "--concurrency", str(threads)),
            *("--disable-hot-restart", "--log-level", "warning"),
        ]
        child = started.start("envoy", command, address, workload.model)
        child.wait_ready(time.monotonic() + START_LIMIT_S)
        return address, [child.pid]

    return _before(workload, folder, start)


def envoy_config(address: str, upstream: str) -> dict[str, object]:
    """Give a configuration for Envoy that passes gRPC on over HTTP/2, and does nothing else."""
    extensions = "type.googleapis.com/envoy.extensions"
    manager = {
        "@type": f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "triton", "timeout": "0s"},
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{extensions}.filters.http.router.v3.Router"},
            }
        ],
    }
    cluster = {
        "name": "triton",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{extensions}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        # The usual limit of 1024 requests at once would refuse some.
        "circuit_breakers": {
            "thresholds": [{"max_requests": 100_000, "max_pending_requests": 100_000}]
        },
        "load_assignment": {
            "cluster_name": "triton",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(upstream)}}]}],
        },
    }
    listener = {
        "name": "in",
        "address": _socket(address),
        # Each thread gets as many connections as the others.
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _socket(address: str) -> dict[str, object]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


@contextmanager
def _whole(
    start: Callable[[Workload, Children, Path], tuple[str, int]], workload: Workload, folder: Path
) -> Iterator[Served]:
    """Start a server that serves the model by itself."""
    with children(folder / "server") as started:
        address, pid = start(workload, started, folder / "server")
        yield Served(address, lambda: {SYSTEM: tree(pid)})


@contextmanager
def _paldia(workers: int, workload: Workload, folder: Path) -> Iterator[Served]:
    if workload.emulated:
        node = emulated_node("node", workload.device.partition(":")[2])
    else:
        node = NodeOptions("node", "cpu", 0.1)
    model = workload.write(folder)
    with staged(folder / "cluster", (node,), frontend=("--workers", str(workers))) as stage:
        stage.client.deploy(model, slo_latency_s=workload.slo_s)
        cluster = stage.cluster
        agent, controller = cluster.pid(node.node_id), cluster.pid("controller")

        def groups() -> Groups:
            tritons, others = tritons_and_others(tree(agent))
            frontend = tree(cluster.pid("frontend"))
            return {SYSTEM: frontend, TRITON: tritons, BESIDE: [*others, *tree(controller)]}

        yield Served(stage.frontend, groups)
