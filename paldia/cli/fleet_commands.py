"""Commands about nodes and the cluster as a whole."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live

from paldia.cli import render
from paldia.cli.options import AsJson, Controller, NodeId
from paldia.cli.output import print_json, show
from paldia.client import Client

_REFRESH_S = 1.0


def nodes(controller: Controller = None, as_json: AsJson = False) -> None:
    """List the nodes with their hardware, price, load and models."""
    with Client(controller) as client:
        found = client.nodes()
    print_json({"nodes": found}) if as_json else show(*render.nodes(found))


def drain(
    node_id: NodeId,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back into service.")] = False,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Move everything off a node and give it nothing new."""
    with Client(controller) as client:
        node = client.drain(node_id, undo=undo)
    print_json(node) if as_json else show(f"{node.node_id} is {node.state.value}")


def status(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again each second until Ctrl-C.")
    ] = False,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Sum up the cluster: frontends, nodes, models and the bill."""
    with Client(controller) as client:
        if not watch:
            found = client.status()
            print_json(found) if as_json else show(*render.status(found))
        elif as_json or not sys.stdout.isatty():
            _repeat(client, as_json=as_json)
        else:
            _watch(client)


def _repeat(client: Client, *, as_json: bool) -> None:
    while True:
        found = client.status()
        print_json(found) if as_json else show(*render.status(found), "")
        time.sleep(_REFRESH_S)


def _watch(client: Client) -> None:
    console = Console(markup=False, highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Group(*render.status(client.status())), refresh=True)
            time.sleep(_REFRESH_S)
