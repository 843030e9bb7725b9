"""`paldia demo`: two real models and an emulated one on a mixed cluster of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from paldia.cli import demo_emulated, demo_show, render, samples
from paldia.cli.cluster import LocalCluster, StoreKind
from paldia.cli.demo_emulated import Emulated
from paldia.cli.demo_files import Labels, features_of, select_files
from paldia.cli.demo_replay import (
    Replayed,
    Watcher,
    answered_by,
    batches_of,
    least_capacity,
    moves_since,
    plan_load,
)
from paldia.cli.demo_report import report_of
from paldia.cli.demo_sentences import SENTENCES, SentenceReader, cosines
from paldia.cli.demo_show import Classified
from paldia.cli.node_options import default_nodes
from paldia.cli.output import show
from paldia.cli.progress import progress
from paldia.client import Client
from paldia.core.errors import ExpiredError, InternalError
from paldia.load.arrivals import read_arrivals
from paldia.load.inputs import encoded_arrays
from paldia.load.replay import replay
from paldia.load.report import summarise

SOURCE_TREE = Path(__file__).parents[2]
TRACE = samples.FOLDER / "traces" / "azure_llm_2023_conv.csv"
SLO_S = {"magika": 0.1, "minilm": 0.2}

_ANSWER_S = 30.0
_DEADLINE_S = 5.0
_CONNECT_S = 20.0
_POLL_S = 0.1
_DECISIONS = 100


def demo(
    *,
    store: Annotated[StoreKind, typer.Option(help="Where the controller keeps its state.")] = (
        "embedded"
    ),
    out: Annotated[
        Path, typer.Option(help="Folder for report.json.", file_okay=False, metavar="DIR")
    ] = Path("out/demo"),
    seconds: Annotated[
        float, typer.Option(help="Length of each replay in seconds.", min=1.0, max=600.0)
    ] = 30.0,
) -> None:
    """Serve two real models and an emulated one on a mixed cluster and replay a trace.

    Two nodes on this machine's processor, one of them slowed down on purpose, and three that
    emulate a GPU; real Triton processes, files, sentences and arrivals. Everything is stopped
    at the end.
    """
    samples.prepare()
    out.mkdir(parents=True, exist_ok=True)
    _heading(
        1, f"start a controller ({store} store), a frontend, two nodes and three emulated GPUs"
    )
    planning = ["--peak-quantile", str(demo_emulated.PEAK_QUANTILE)]
    with _folder() as folder, contextlib.ExitStack() as stack:
        cluster = stack.enter_context(
            LocalCluster(
                folder,
                nodes=(*default_nodes(), *demo_emulated.nodes()),
                store=store,
                flags={"controller": planning},
            )
        )
        stage = _Stage(
            stack.enter_context(Client(cluster.controller_address)),
            stack.enter_context(InferenceServerClient(cluster.frontend_address)),
            cluster.frontend_address,
        )
        _await_nodes(stage.client, len(cluster.nodes))
        _deploy_samples(stage)
        files = _classify_files(stage)
        replayed = _replay_trace(stage, seconds)
        emulated = _emulate(stage, seconds)
        _heading(8, "paldia explain magika")
        show(*render.explanation(stage.client.explain("magika")))
        _heading(9, "write the report and stop everything")
        report = out / "report.json"
        told = report_of(files, replayed, emulated, stage.client.status())
        report.write_text(json.dumps(told, indent=2) + "\n")
        show(str(report))
    unanswered = [file.path for file in files if file.label is None]
    if unanswered:
        raise InternalError(f"no answer for {', '.join(unanswered)}")


@dataclass(frozen=True, slots=True)
class _Stage:
    """What the steps talk to."""

    client: Client
    frontend: InferenceServerClient
    frontend_address: str


def _heading(number: int, text: str) -> None:
    show("", f"{number}/9  {text}")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Give the cluster an empty folder; it stays, and is named, if something fails."""
    folder = Path(tempfile.mkdtemp(prefix="paldia-demo-"))
    try:
        yield folder
    except Exception:
        show(f"this failed; the logs are in {folder / 'logs'}")
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _await_nodes(client: Client, count: int) -> None:
    """Wait until the controller knows all nodes, so that all are measured."""
    deadline_s = time.monotonic() + _CONNECT_S
    while len(nodes := client.nodes()) < count:
        if time.monotonic() > deadline_s:
            raise ExpiredError(f"only {len(nodes)} of {count} nodes connected in {_CONNECT_S:g} s")
        time.sleep(_POLL_S)
    show(*render.nodes(nodes))


def _deploy_samples(stage: _Stage) -> None:
    _heading(2, "deploy magika (file types, 100 ms) and minilm (sentences, 200 ms)")
    for model, slo_s in SLO_S.items():
        with progress(Console(), model) as update:
            deployed = stage.client.deploy(
                samples.FOLDER / model,
                slo_latency_s=slo_s,
                on_progress=lambda news: update(news.stage, news.detail, news.fraction),
            )
        show(render.served(deployed))
    _heading(3, "what each kind of hardware can do, measured just now")
    explanations = [stage.client.explain(model) for model in SLO_S]
    show(demo_show.measured(explanations), *demo_show.unable(explanations))


def _classify_files(stage: _Stage) -> list[Classified]:
    _heading(4, "classify files, and compare sentences, by tritonclient through the frontend")
    files = [_classify(stage.frontend, path) for path in select_files(SOURCE_TREE)]
    show(demo_show.files(files))
    show(demo_show.sentences(SENTENCES, _compare(stage.frontend)))
    return files


def _classify(frontend: InferenceServerClient, path: Path) -> Classified:
    """Ask what type a file is, as any program would; the time is all that such a program waits."""
    name = str(path.relative_to(SOURCE_TREE) if path.is_relative_to(SOURCE_TREE) else path)
    labels = Labels.read(samples.FOLDER / "magika" / "labels.json")
    features = _features(path)
    tensor = InferInput("bytes", list(features.shape), "INT32")
    tensor.set_data_from_numpy(features)
    start_s = time.perf_counter()
    try:
        result = frontend.infer("magika", [tensor], client_timeout=_ANSWER_S)
    except InferenceServerException as error:
        return Classified(name, None, 0.0, 0.0, "", str(error))
    latency_ms = (time.perf_counter() - start_s) * 1e3
    label, score = labels.judge(result.as_numpy("scores")[0])
    node = result.get_response().parameters["paldia_node"].string_param
    return Classified(name, label, score, latency_ms, node)


def _features(path: Path) -> NDArray[np.int32]:
    features = features_of(path)
    assert features is not None  # noqa: S101 - select_files leaves such files out
    return features[np.newaxis]


def _compare(frontend: InferenceServerClient) -> NDArray[np.float32]:
    reader = SentenceReader(samples.FOLDER / "minilm-tokenizer" / "tokenizer.json")
    try:
        answers = [
            frontend.infer("minilm", reader.inputs_of(sentence), client_timeout=_ANSWER_S)
            for sentence in SENTENCES
        ]
    except InferenceServerException as error:
        raise InternalError(f"minilm gave no answer: {error}") from error
    return cosines([answer.as_numpy("embedding")[0] for answer in answers])


def _emulate(stage: _Stage, duration_s: float) -> Emulated:
    """Serve a large model on GPUs that aren't there, and see it move between them."""
    _heading(
        6, "deploy bert (200 ms) on emulated GPUs: loading and batches take what the catalog says"
    )
    demo_emulated.deploy(stage.client)
    _heading(
        7, f"{duration_s:g} s of requests for bert: few, then more than the cheapest may take, few"
    )
    return demo_emulated.drive(stage.client, stage.frontend_address, TRACE, duration_s)


def _replay_trace(stage: _Stage, duration_s: float) -> Replayed:
    """Send real arrivals to magika, and see what becomes of them and of its place."""
    capacity = least_capacity(stage.client.explain("magika").profiles)
    plan = plan_load(read_arrivals(str(TRACE)), capacity, duration_s)
    _heading(
        5,
        f"replay {duration_s:g} s of a real trace: {plan.first_rps:.0f} to {plan.last_rps:.0f} "
        f"requests/s, where {capacity.hardware} can do {capacity.requests_per_second:.0f}",
    )
    payloads = [
        encoded_arrays("magika", {"bytes": _features(path)}) for path in select_files(SOURCE_TREE)
    ]
    started_at = datetime.now(UTC)
    with progress(Console(), "replay") as update:
        watcher = Watcher(SLO_S["magika"], duration_s, update)
        outcomes = asyncio.run(
            replay(
                stage.frontend_address,
                payloads,
                plan.offsets_s.tolist(),
                deadline_s=_DEADLINE_S,
                on_outcome=watcher.see,
            )
        )
    decisions = stage.client.explain("magika", limit=_DECISIONS).decisions
    replayed = Replayed(
        report=summarise(outcomes, SLO_S["magika"], duration_s),
        answered_by=answered_by(outcomes),
        batches=batches_of(outcomes),
        plan=plan,
        moves=moves_since(started_at, decisions),
    )
    summary = demo_show.summary(replayed, stage.client.status())
    show(demo_show.timeline(replayed.report, replayed.answered_by), *summary)
    return replayed
