"""Commands about models."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from paldia.cli import render, render_profile
from paldia.cli.options import (
    KEEP_ALIVE_S,
    MAX_BATCH,
    MIN_REPLICAS,
    ON_OVERLOAD,
    SLO_MS,
    SLO_SHARE,
    AsJson,
    Controller,
    ModelName,
)
from paldia.cli.output import print_json, show
from paldia.cli.progress import progress
from paldia.cli.recalling import recall
from paldia.client import Client, Measuring, OverloadPolicy
from paldia.client.deploying import DEPLOY_TIMEOUT_S, model_name
from paldia.core.errors import NotServableError


def deploy(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR|URL",
            help="Model folder in Triton's layout, or where to fetch one: s3://, gs://, "
            "https:// (an archive), file://.",
        ),
    ],
    *,
    slo_ms: Annotated[float, SLO_MS],
    name: Annotated[
        str | None, typer.Option(help="Name to serve it under.  [default: the folder's]")
    ] = None,
    slo_share: Annotated[float, SLO_SHARE] = 0.99,
    max_batch: Annotated[int, MAX_BATCH] = 0,
    min_replicas: Annotated[int, MIN_REPLICAS] = 1,
    keep_alive_s: Annotated[float, KEEP_ALIVE_S] = 600.0,
    on_overload: Annotated[OverloadPolicy, ON_OVERLOAD] = OverloadPolicy.QUEUE,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it serves, or only be accepted.")
    ] = True,
    timeout_s: Annotated[
        float, typer.Option(metavar="S", min=1, help="Longest wait for it to serve.")
    ] = DEPLOY_TIMEOUT_S,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model folder within a latency objective.

    It goes on the cheapest hardware that can do so. Deploying a name again replaces its
    version once the new one has loaded somewhere.
    """
    # Progress goes to stderr, so that stdout is the result alone.
    console = Console(stderr=True, quiet=as_json)
    with Client(controller) as client, progress(console, model_name(folder, name)) as tell:
        model = client.deploy(
            folder,
            slo_latency_s=slo_ms / 1e3,
            slo_share=slo_share,
            name=name,
            max_batch=max_batch,
            min_replicas=min_replicas,
            keep_alive_s=keep_alive_s,
            on_overload=on_overload,
            wait=wait,
            timeout_s=timeout_s,
            on_progress=lambda news: tell(news.stage, news.detail, news.fraction),
        )
    print_json(model) if as_json else show(render.served(model))


def update(
    name: ModelName,
    *,
    slo_ms: Annotated[float | None, SLO_MS] = None,
    slo_share: Annotated[float | None, SLO_SHARE] = None,
    max_batch: Annotated[int | None, MAX_BATCH] = None,
    min_replicas: Annotated[int | None, MIN_REPLICAS] = None,
    keep_alive_s: Annotated[float | None, KEEP_ALIVE_S] = None,
    on_overload: Annotated[OverloadPolicy | None, ON_OVERLOAD] = None,
    resource_version: Annotated[
        int | None,
        typer.Option(metavar="N", help="Change it only if its record is still this version."),
    ] = None,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Change a model's objective; what isn't given stays."""
    changes = (slo_ms, slo_share, max_batch, min_replicas, keep_alive_s, on_overload)
    if all(change is None for change in changes):
        raise typer.BadParameter("nothing to change; give --slo-ms or another of its options")
    with Client(controller) as client:
        model = client.update(
            name,
            slo_latency_s=None if slo_ms is None else slo_ms / 1e3,
            slo_share=slo_share,
            max_batch=max_batch,
            min_replicas=min_replicas,
            keep_alive_s=keep_alive_s,
            on_overload=on_overload,
            resource_version=resource_version,
        )
    print_json(model) if as_json else show(render.served(model))


def undeploy(name: ModelName, controller: Controller = None, as_json: AsJson = False) -> None:
    """Remove a model; requests under way are still answered."""
    with Client(controller) as client:
        client.undeploy(name)
    print_json({"undeployed": name}) if as_json else show(f"{name} is undeployed")


def models(controller: Controller = None, as_json: AsJson = False) -> None:
    """List the models and where each is served."""
    with Client(controller) as client:
        found = client.models()
    print_json({"models": found}) if as_json else show(render.models(found))


def explain(
    name: ModelName,
    *,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="How many decisions to show.")
    ] = 10,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Show the record in force then: 14:05 of today, -5m (minutes ago), or ISO 8601.",
        ),
    ] = None,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Decide again from what was recorded, and exit with 1 if it comes out otherwise.",
        ),
    ] = False,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Show why a model is where it is, or where it was.

    Lists every kind of hardware with predicted latency, throughput, price and verdict, why
    the winner won, the profiles that rests on, and recent decisions.
    """
    if at is not None or replay:
        recall(name, at, replay=replay, controller=controller, as_json=as_json)
        return
    with Client(controller) as client:
        found = client.explain(name, limit=limit)
    print_json(found) if as_json else show(*render.explanation(found))


def profile(
    name: ModelName,
    *,
    hardware: Annotated[
        str | None, typer.Option(metavar="KIND", help="Kind of hardware.  [default: each]")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Only what a first deploy measures; serving isn't waited for."
        ),
    ] = False,
    controller: Controller = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model again on each kind of hardware.

    How long batches take, how they slow each other, what of the device one takes, memory,
    loading and power. It waits while the node that measures serves requests.
    """
    console = Console(stderr=True, quiet=as_json)
    with Client(controller) as client, progress(console, name) as tell:

        def hear(measuring: tuple[Measuring, ...]) -> None:
            stages = [f"{one.node_id or one.hardware} {one.stage}" for one in measuring]
            done = sum(one.fraction for one in measuring) / len(measuring)
            tell("is measured", ", ".join(stages), done)

        found = client.profile(name, hardware=hardware, quick=quick, on_progress=hear)
    print_json({"profiles": found}) if as_json else show(render_profile.profiles(found))
    if found and all(one.failure for one in found):
        raise NotServableError(f"{name!r} could be measured nowhere: {found[0].failure}")
