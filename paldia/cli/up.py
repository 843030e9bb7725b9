"""`paldia up`: a cluster on this machine, in the foreground."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from paldia.cli import samples
from paldia.cli.cluster import LocalCluster, StoreKind
from paldia.cli.node_options import NodeOptions, default_nodes, parse_node
from paldia.cli.options import AsJson
from paldia.cli.output import print_json, show, table
from paldia.client.channel import CONTROLLER_VARIABLE, DEFAULT_CONTROLLER
from paldia.core.errors import InvalidArgumentError

_CHECK_S = 0.3


def _node(text: str) -> NodeOptions:
    try:
        return parse_node(text)
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error)) from error


def up(
    *,
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder for its data and logs.", file_okay=False)
    ] = Path(".paldia"),
    node: Annotated[
        list[NodeOptions] | None,
        typer.Option(
            metavar="ID:HARDWARE:PRICE[:CORES[:SLOWDOWN]]",
            parser=_node,
            help="A node to start, at PRICE dollars an hour, on CORES such as 0,2-3, slowed down "
            "by a factor; or ID:emulated:KIND, a GPU machine of the catalog such as p3.2xlarge, "
            "emulated; repeatable.  [default: a full core and a cheaper one at half speed]",
            show_default=False,
        ),
    ] = None,
    store: Annotated[StoreKind, typer.Option(help="Where the controller keeps its state.")] = (
        "embedded"
    ),
    controller_bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the controller listens; port 0 for any.")
    ] = DEFAULT_CONTROLLER,
    frontend_bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where inference calls are taken.")
    ] = "127.0.0.1:8001",
    metrics_bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the frontend serves its metrics.")
    ] = "127.0.0.1:8002",
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen on addresses other machines can reach, in plaintext; whoever reaches "
            "them can run code here.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a cluster on this machine until Ctrl-C.

    It is a controller, a frontend and nodes, each a process of its own. Deploy to it from
    another terminal. Its models and profiles are there again next time.
    """
    loose = ["--insecure"] if insecure else []
    cluster = LocalCluster(
        directory,
        nodes=tuple(node) if node else default_nodes(),
        store=store,
        controller_bind=controller_bind,
        frontend_bind=frontend_bind,
        metrics_bind=metrics_bind,
        flags={"controller": loose, "frontend": loose},
    )
    with cluster:
        _tell(cluster, as_json=as_json)
        while True:
            cluster.check()
            time.sleep(_CHECK_S)


def _tell(cluster: LocalCluster, *, as_json: bool) -> None:
    addresses = {
        "controller": cluster.controller_address,
        "frontend": f"{cluster.frontend_address}, metrics {cluster.metrics_address}",
    }
    of_node = {node.node_id: _describe(node) for node in cluster.nodes}
    if as_json:
        listed = [
            {"name": name, "pid": cluster.pid(name), "log": str(cluster.log_path(name))}
            for name in cluster.names
        ]
        print_json(
            {
                "controller": cluster.controller_address,
                "frontend": cluster.frontend_address,
                "metrics": cluster.metrics_address,
                "store": cluster.store,
                "directory": str(cluster.directory),
                "processes": listed,
            }
        )
        return
    rows = [
        (
            name,
            addresses.get(name) or of_node.get(name, ""),
            str(cluster.pid(name)),
            _short(cluster.log_path(name)),
        )
        for name in cluster.names
    ]
    show(table(("PROCESS", "WHERE", ">PID", "LOG"), rows), "", *_next_commands(cluster))


def _describe(node: NodeOptions) -> str:
    cores = f", cores {','.join(map(str, node.cores))}" if node.cores else ""
    slowed = f", slowed down {node.slowdown:g}x" if node.slowdown != 1 else ""
    emulated = "emulated " if node.device != "auto" else ""
    return f"{emulated}{node.hardware} at {node.price_usd_per_hour:g} USD/h{cores}{slowed}"


def _next_commands(cluster: LocalCluster) -> list[str]:
    commands = [
        f"paldia deploy {_short(samples.FOLDER / 'magika')} --slo-ms 100",
        "paldia status --watch",
        "paldia explain magika",
    ]
    if cluster.controller_address != DEFAULT_CONTROLLER:
        commands.insert(0, f"export {CONTROLLER_VARIABLE}={cluster.controller_address}")
    return [
        "Ready. From another terminal:",
        *(f"  {command}" for command in commands),
        "Ctrl-C stops it all.",
    ]


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
