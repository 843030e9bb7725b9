"""The options of `paldia load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Examples:
  paldia load --url 127.0.0.1:8001 --model magika --rate 50 \\
    --duration 30 --slo-ms 100
  paldia load --model resnet50 --closed 32 --duration 20 --warmup 5
  paldia load --model bert --trace azure.csv --scale 0.5 \\
    --input sentences.json --out out/bert"""

Url = Annotated[str, typer.Option(metavar="HOST:PORT", help="A server of the KServe V2 protocol.")]
ModelName = Annotated[str, typer.Option(metavar="NAME", help="The model asked.")]
Rate = Annotated[
    float | None,
    typer.Option(metavar="R", help="Requests per second, independent of each other."),
]
Uniform = Annotated[
    bool, typer.Option("--uniform", help="With --rate: at equal distances, not by chance.")
]
TraceSpec = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="When to send: any trace that paldia simulate reads."),
]
Scale = Annotated[
    float, typer.Option(metavar="X", help="With --trace: so many times as many requests.")
]
Function = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where a trace holds several functions: one of them, all, or those that are bursty.",
    ),
]
Closed = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=10_000, help="N callers, each waiting for its answer."),
]
Duration = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        help="Seconds that are counted.  [default: 10, or the rest of the trace]",
        show_default=False,
    ),
]
Warmup = Annotated[
    float, typer.Option(metavar="S", min=0, help="Seconds sent first and not counted.")
]
Input = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="FILE",
        help="A JSON file with one request of the protocol's REST form, or a list that takes "
        "turns; or random, made from what the server tells of the model.",
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1,16", help="Shape of a random input; repeat it."),
]
BytesLength = Annotated[
    int, typer.Option(metavar="N", min=0, max=1 << 20, help="Bytes of each random text.")
]
DeadlineMs = Annotated[
    float,
    typer.Option(
        metavar="MS", min=1, help="When a request is given up, from when it was meant to be sent."
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=256,
        help="To send from.  [default: as many as it takes]",
        show_default=False,
    ),
]
Connections = Annotated[
    int, typer.Option(metavar="N", min=1, max=1024, help="To the server, of all processes.")
]
InFlight = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Most requests under way; what is due beyond counts as unsent.  [default: 4096, "
        "fewer if large]",
        show_default=False,
    ),
]
Check = Annotated[
    int, typer.Option(metavar="N", min=1, help="Look into one of N answers; 1 is every one.")
]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Goes with each call; repeat it."),
]
PerRequest = Annotated[
    bool, typer.Option("--per-request", help="Also write every-request.csv, a line for each.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of all that is left to chance.")]
Out = Annotated[Path, typer.Option(help="Folder for the report.", file_okay=False, metavar="DIR")]
