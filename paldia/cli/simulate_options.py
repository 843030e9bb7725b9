"""The options of `paldia simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Examples:
  paldia simulate --trace poisson:150:900 --models resnet50
  paldia simulate --trace azure.csv --speed 16 --peak-rps 300 \\
    --models resnet50 --policy paldia,molecule-perf,oracle
  paldia simulate --trace mine.csv --models models.yaml \\
    --hardware nodes.yaml"""

TraceSpec = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="A CSV file: counts per second, minute or hour (second,requests), a time for each "
        "request (t_s), or as Azure Functions are published. Or poisson:RATE[:SECONDS].",
    ),
]
Models = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        help="Models of the catalog, or a .yaml file of your own. Several share the trace equally.",
    ),
]
Machines = Annotated[
    str | None,
    typer.Option(
        metavar="KIND,...",
        help="Kinds of machine in the catalog, or a .yaml file of your own; one of each, 2*KIND "
        "for two.  [default: the six of the PALDIA paper]",
        show_default=False,
    ),
]
Policies = Annotated[str, typer.Option(metavar="NAME,...", help="Policies to compare, or all.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of all that is left to chance.")]
Speed = Annotated[
    float, typer.Option(metavar="X", help="How many times as fast the trace goes by.")
]
Start = Annotated[
    float, typer.Option(metavar="S", min=0, help="Begin S seconds into it, as sped up.")
]
Duration = Annotated[
    float | None,
    typer.Option(
        metavar="S", help="Take S seconds of it.  [default: to its end]", show_default=False
    ),
]
PeakRps = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="Scale it: its busiest 10 s bring N requests a second.  [default: as it is]",
        show_default=False,
    ),
]
Function = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where a trace holds several functions: one of them, all, or those that are bursty.",
    ),
]
EveryRequest = Annotated[
    bool, typer.Option("--requests-csv", help="Also write a line for each request.")
]
Out = Annotated[Path, typer.Option(help="Folder for the report.", file_okay=False, metavar="DIR")]
