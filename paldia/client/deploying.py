"""A deploy from folder or URL to first answer: fetch, pack, upload, ask, watch until it serves.

The waiting is decided by `judge`, which looks at nothing but the model's record.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BufferedRandom
from pathlib import Path

from paldia.api import artifact, convert
from paldia.api.v1 import control_pb2 as pb
from paldia.client import decode, fetching, results
from paldia.client.archives import OnBytes
from paldia.client.flows import Call, Flow, Follow, Pause, Work
from paldia.client.results import DeployProgress, ModelPhase, PlacementState
from paldia.core.errors import (
    ConflictError,
    ExpiredError,
    NotServableError,
    UnavailableError,
)
from paldia.core.types import Model
from paldia.kit.rpc import CHUNK_BYTES

DEPLOY_TIMEOUT_S = 300.0
_UPLOAD_TIMEOUT_S = 3600.0
_REOPEN_PAUSE_S = 0.5

OnProgress = Callable[[DeployProgress], None]


@dataclass(frozen=True, slots=True)
class Deploy:
    """A deploy to make: `wish` lacks only its artifact's digest."""

    source: Path | str
    wish: Model
    wait: bool
    timeout_s: float
    on_progress: OnProgress


def model_name(source: Path | str, name: str | None) -> str:
    """Give the name to deploy under: the one given, or the folder's or archive's own.

    Raises:
        InvalidArgumentError: a URL can't be a model's.
    """
    if fetching.is_url(source):
        return name or fetching.name_of(str(source))
    return name or Path(source).resolve().name


def deploy(order: Deploy) -> Flow[results.Model]:
    """Upload a model folder and ask for it to be served; wait for that if wanted.

    `timeout_s` bounds the waiting, not the fetching and the upload.
    """
    # Without a name, so that nothing of it stays however this ends.
    with tempfile.TemporaryFile() as packed:
        digest = yield Work(lambda: _pack(order.source, packed, order.on_progress))
        requests = _pieces(packed, digest, order.on_progress)
        yield Call("UploadArtifact", requests, _UPLOAD_TIMEOUT_S)
    spec = convert.model_to_proto(replace(order.wish, artifact_digest=digest))
    response = yield Call("DeployModel", pb.DeployModelRequest(spec=spec))
    accepted = decode.model(response.model)
    newest = accepted.candidate or accepted.serving
    if not order.wait or newest is None:
        return accepted
    return (yield from _wait(order, newest.generation, accepted))


def _pack(source: Path | str, packed: BufferedRandom, on_progress: OnProgress) -> str:
    """Pack a model folder, fetched first if it is elsewhere; give its checksum."""
    with tempfile.TemporaryDirectory(prefix="paldia-") as scratch:
        folder = Path(source)
        if fetching.is_url(source):
            told = _fetched(on_progress)
            folder = fetching.fetch(str(source), Path(scratch), told)
        on_progress(DeployProgress("packing", folder.name))
        artifact.pack(folder, packed)
    packed.seek(0)
    return hashlib.file_digest(packed, "sha256").hexdigest()


def _fetched(on_progress: OnProgress) -> OnBytes:
    def told(done_bytes: int, total_bytes: int | None) -> None:
        of = f" of {total_bytes / 1e3:.0f}" if total_bytes else ""
        share = min(done_bytes / total_bytes, 1.0) if total_bytes else None
        on_progress(DeployProgress("fetching", f"{done_bytes / 1e3:.0f}{of} kB", fraction=share))

    return told


def _pieces(
    packed: BufferedRandom, digest: str, on_progress: OnProgress
) -> Iterator[pb.UploadArtifactRequest]:
    size_bytes, sent_bytes = packed.seek(0, os.SEEK_END), 0
    packed.seek(0)
    while chunk := packed.read(CHUNK_BYTES):
        yield pb.UploadArtifactRequest(digest=digest, size_bytes=size_bytes, chunk=chunk)
        sent_bytes += len(chunk)
        detail = f"{sent_bytes / 1e3:.0f} of {size_bytes / 1e3:.0f} kB"
        on_progress(DeployProgress("uploading", detail, fraction=sent_bytes / size_bytes))


def _wait(order: Deploy, generation: int, accepted: results.Model) -> Flow[results.Model]:
    name, latest, reported = order.wish.name, accepted, None
    ends_s = time.monotonic() + order.timeout_s

    def see(message: pb.WatchModelsResponse) -> results.Model | None:
        nonlocal latest, reported
        news = decode.change(message)
        found = [model for model in news.models if model.name == name]
        if name in news.removed or (news.snapshot and not found):
            raise ConflictError(f"{name!r} was undeployed while its deploy was under way")
        for latest in found:
            progress = judge(latest, generation)
            if (progress.stage, progress.detail) != reported:
                reported = progress.stage, progress.detail
                order.on_progress(progress)
            if progress.stage in ("ready", "cold"):
                return latest
        return None

    while (left_s := ends_s - time.monotonic()) > 0:
        try:
            done: results.Model | None = yield Follow(
                "WatchModels", pb.WatchModelsRequest(name=name), see, left_s
            )
        except (UnavailableError, ExpiredError):
            done = None
        if done is not None:
            return done
        yield Pause(min(_REOPEN_PAUSE_S, left_s))
    raise ExpiredError(
        f"{name!r} doesn't serve yet after {order.timeout_s:g} s ({_where(latest)}); the deploy "
        "goes on, `paldia status` shows how it fares"
    )


def judge(model: results.Model, generation: int) -> DeployProgress:
    """Say how far the deploy that made `generation` has come.

    Raises:
        NotServableError: it failed; the message is the controller's reason.
        ConflictError: a later deploy took its place.
    """
    serving, candidate, failure = model.serving, model.candidate, model.last_failure
    if serving is not None and serving.generation == generation:
        if model.phase is ModelPhase.COLD:
            return DeployProgress("cold", "the first request wakes it", model=model)
        ready = [
            placement.node_id
            for placement in model.placements
            if placement.state is PlacementState.READY
            and placement.artifact_digest in ("", serving.artifact_digest)
        ]
        if ready:
            return DeployProgress("ready", f"on {', '.join(ready)}", model=model)
        stage = "unplaced" if model.phase is ModelPhase.UNPLACED else "starting"
        return DeployProgress(stage, _where(model), model=model)
    if failure is not None and failure.generation == generation:
        raise NotServableError(_failed(model, failure.reason))
    for other in (serving, candidate, failure):
        if other is not None and other.generation > generation:
            raise ConflictError(
                f"this deploy of {model.name!r} (generation {generation}) was superseded by "
                f"generation {other.generation}"
            )
    return DeployProgress("profiling", model.reason, model=model)


def _failed(model: results.Model, reason: str) -> str:
    if model.serving is None:
        return f"{model.name!r} can't be served: {reason}"
    return (
        f"{model.name!r} can't be served: {reason}\n"
        f"generation {model.serving.generation} goes on serving"
    )


def _where(model: results.Model) -> str:
    if model.reason:
        return model.reason
    places = [f"{place.node_id} {place.state.value}" for place in model.placements]
    return ", ".join(places) or model.phase.value
