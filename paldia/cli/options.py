"""Options that several commands share, and completion of names from the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from paldia.client import Client
from paldia.core.errors import PaldiaError

_COMPLETION_TIMEOUT_S = 0.7

Controller = Annotated[
    str | None,
    typer.Option(
        envvar="PALDIA_CONTROLLER",
        metavar="HOST:PORT",
        help="The controller.  [default: 127.0.0.1:8100]",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document with stable keys instead.")
]


def _complete(names: Callable[[Client], Iterable[str]]) -> Callable[..., list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            with Client(ctx.params.get("controller"), timeout_s=_COMPLETION_TIMEOUT_S) as client:
                return [name for name in names(client) if name.startswith(incomplete)]
        except PaldiaError:
            return []

    return complete


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The model's name.",
        autocompletion=_complete(lambda client: (model.name for model in client.models())),
    ),
]
NodeId = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        help="The node's id.",
        autocompletion=_complete(lambda client: (node.node_id for node in client.nodes())),
    ),
]


def _share(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g} must lie between 0 and 1; 0.99 is 99 %")
    return value


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value:g} must be above 0")
    return value


SLO_MS = typer.Option(
    metavar="MS", help="Latency objective in milliseconds.", callback=_positive, show_default=False
)
SLO_SHARE = typer.Option(
    metavar="SHARE",
    help="Share of all requests that must be answered within it, 0 to 1.",
    callback=_share,
)
MAX_BATCH = typer.Option(
    metavar="N", min=0, help="Largest batch that may be formed; 0 takes the model's own limit."
)
MIN_REPLICAS = typer.Option(
    metavar="N", min=0, help="Nodes that always hold the model; 0 lets it unload when unused."
)
KEEP_ALIVE_S = typer.Option(
    metavar="S", min=0, help="Seconds without requests after which it then unloads."
)
ON_OVERLOAD = typer.Option(
    help="What becomes of requests that can't meet the objective: wait, or be refused at once."
)
