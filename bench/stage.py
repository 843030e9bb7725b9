"""A live cluster for a benchmark: real processes on this machine, all nodes connected."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from paldia.api.v1 import control_pb2_grpc
from paldia.cli.cluster import LocalCluster
from paldia.cli.node_options import NodeOptions
from paldia.client import Client
from paldia.core.errors import ExpiredError

NODES_LIMIT_S = 30.0
NO_IDLE_WORK = ("--idle-s", "3600")
"""Flags of the controller with which nothing is measured in idle time meanwhile."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a benchmark talks to."""

    cluster: LocalCluster
    frontend: str
    client: Client
    stub: control_pb2_grpc.ControlServiceStub


@contextmanager
def staged(
    folder: Path,
    nodes: Sequence[NodeOptions],
    *,
    controller: Sequence[str] = (),
    frontend: Sequence[str] = (),
    agents: Sequence[str] = (),
) -> Iterator[Stage]:
    """Run a cluster in a folder; what it knew when it was there before it knows again.

    Args:
        folder: for its data and logs.
        nodes: those it is to have.
        controller: flags of the controller, and so for the frontend and for all node agents.

    Raises:
        UnavailableError: a process ended while starting.
        ExpiredError: not all nodes connected in time.
    """
    flags: Mapping[str, Sequence[str]] = {
        "controller": (*NO_IDLE_WORK, *controller),
        "frontend": frontend,
        "nodes": agents,
    }
    with (
        LocalCluster(folder, nodes=nodes, flags=flags) as cluster,
        Client(cluster.controller_address) as client,
        grpc.insecure_channel(cluster.controller_address) as channel,
    ):
        deadline_s = time.monotonic() + NODES_LIMIT_S
        while len(client.nodes()) < len(nodes):
            if time.monotonic() > deadline_s:
                raise ExpiredError(
                    f"not all of {len(nodes)} nodes connected in {NODES_LIMIT_S:g} s; see "
                    f"the logs in {folder / 'logs'}"
                )
            time.sleep(0.1)
        stub = control_pb2_grpc.ControlServiceStub(channel)
        yield Stage(cluster, cluster.frontend_address, client, stub)
