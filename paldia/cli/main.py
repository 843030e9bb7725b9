"""The `paldia` command: 0 if all went well, 1 if not, 2 for wrong usage, 130 for Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import typer

from paldia import __version__
from paldia.cli import fleet_commands, load_options, model_commands, samples, simulate_options
from paldia.cli.options import AsJson
from paldia.cli.output import print_json, show
from paldia.cli.up import up
from paldia.core.errors import NotServableError, PaldiaError

app = typer.Typer(
    name="paldia",
    help="Serve machine-learning models on mixed hardware within a latency objective, as cheaply "
    "as it can be done.",
    epilog="Start a cluster with `paldia up`, then: paldia deploy DIR --slo-ms 100",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
samples_app = typer.Typer(no_args_is_help=True, help="The sample models.")
app.add_typer(samples_app, name="samples")


def _add(command: Callable[..., Any], example: str) -> None:
    app.command(epilog=f"Example: {example}")(command)


_add(model_commands.deploy, "paldia deploy paldia/samples/magika --slo-ms 100")
_add(model_commands.update, "paldia update magika --slo-ms 50 --min-replicas 2")
_add(model_commands.undeploy, "paldia undeploy magika")
_add(model_commands.models, "paldia models --json")
_add(model_commands.explain, "paldia explain magika, or: paldia explain magika --at -5m --replay")
_add(model_commands.profile, "paldia profile magika --hardware cpu-half")
_add(fleet_commands.nodes, "paldia nodes")
_add(fleet_commands.drain, "paldia drain cpu-half, and later: paldia drain cpu-half --undo")
_add(fleet_commands.status, "paldia status --watch")
_add(up, "paldia up --node big:cpu:0.10:1 --node small:slow-cpu:0.04:0:2.0")


_PASSED_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


@app.command(context_settings=_PASSED_ON)
def demo(ctx: typer.Context) -> None:
    """Serve two real models on a mixed cluster and replay a trace."""
    # It needs packages that the other commands don't, and a second to import them.
    try:
        from paldia.cli.demo import demo as command  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise NotServableError(
            f"the demo needs {error.name}; install it: pip install 'paldia[triton,demo]'"
        ) from error
    _run_alone(ctx, command, "Example: paldia demo --store etcd")


@app.command(context_settings=_PASSED_ON)
def simulate(ctx: typer.Context) -> None:
    """See how a trace would be served and what it would cost, without any machine."""
    # Other commands needn't wait for the simulator to be imported.
    from paldia.cli.simulate import simulate as command  # noqa: PLC0415

    _run_alone(ctx, command, simulate_options.EXAMPLES)


@app.command(context_settings=_PASSED_ON)
def load(ctx: typer.Context) -> None:
    """Send requests to any server of the protocol and measure what becomes of them."""
    # Other commands needn't wait for it to be imported.
    from paldia.cli.load import load as command  # noqa: PLC0415

    _run_alone(ctx, command, load_options.EXAMPLES)


def _run_alone(ctx: typer.Context, command: Callable[..., None], epilog: str) -> None:
    """Run a command that is imported only once it is asked for."""
    alone = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=app.info.context_settings,
    )
    alone.command(epilog=epilog)(command)
    alone(args=ctx.args, prog_name=f"paldia {ctx.info_name}")


@samples_app.command(epilog="Example: paldia samples prepare")
def prepare(as_json: AsJson = False) -> None:
    """Put the sample models' weights in place.

    They come with packages and are copied to the folders they are deployed from.
    """
    found = samples.prepare()
    if as_json:
        print_json({"files": [{**_fields(one)} for one in found]})
        return
    show(*(f"{one.path}: {'copied' if one.copied else 'already there'}" for one in found))


def _fields(one: samples.Prepared) -> dict[str, object]:
    return {"path": str(one.path), "size_bytes": one.size_bytes, "copied": one.copied}


@app.command(epilog="Example: paldia version")
def version(as_json: AsJson = False) -> None:
    """Print the version of this program."""
    print_json({"version": __version__}) if as_json else show(f"paldia {__version__}")


def main() -> None:
    """Run the command and exit with its code; errors meant for the user end in one line."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        # As Ctrl-C does, so that what was started is stopped; nohup's wish is kept.
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, _exit_on_signal)
    try:
        app(prog_name="paldia")
    except (PaldiaError, OSError) as error:
        print(f"paldia: {error}", file=sys.stderr)
        sys.exit(1)


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
