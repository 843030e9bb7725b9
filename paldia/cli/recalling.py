"""`paldia explain MODEL --at TIME --replay`: a decision of the past, and the same made again."""

from __future__ import annotations

from datetime import datetime

import typer

from paldia.cli import render_record
from paldia.cli.moments import moment_of
from paldia.cli.output import print_json, show
from paldia.cli.rerun import rerun
from paldia.client import Client
from paldia.core.errors import InvalidArgumentError


def recall(
    name: str, at: str | None, *, replay: bool, controller: str | None, as_json: bool
) -> None:
    """Show the record that was in force, and with `replay` whether it comes out the same again.

    Raises:
        typer.Exit: with code 1, if it comes out otherwise.
    """
    now = datetime.now().astimezone()
    try:
        moment = now if at is None else moment_of(at, now)
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="--at") from None
    with Client(controller) as client:
        # Without a time the controller's clock counts, whatever this one says.
        found = client.decision(name, None if at is None else moment, with_step=replay)
    came = rerun(found) if replay else None
    if as_json:
        document = {"at": moment, "decision": found.decision, "unchanged": found.unchanged}
        print_json(document | ({"replay": came} if replay else {}))
    else:
        show(*render_record.record(found, moment))
        if came is not None:
            show("", *render_record.rerun(came))
    if came is not None and not came.same:
        raise typer.Exit(1)
