"""A case for real: a cluster on this machine, the model deployed and measured, requests sent.

What can be measured once is: a cluster's folder with all profiles in it is kept, and each case
starts from a copy, so that none knows what another one played.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.fidelity.cases import LEAD_S, Case, arrivals
from bench.fidelity.played import Played
from bench.fidelity.simulated import Found, Ways
from bench.paper.scenarios import reference_rps
from bench.stage import Stage, staged
from paldia.api import convert, machines
from paldia.api.v1 import control_pb2, types_pb2
from paldia.cli import samples
from paldia.cli.demo_files import features_of, select_files
from paldia.cli.demo_sentences import SENTENCES, SentenceReader
from paldia.core.baselines import PALDIA
from paldia.core.errors import UnavailableError
from paldia.core.profiles import Profile
from paldia.core.types import Hardware
from paldia.load.inputs import encoded_arrays
from paldia.load.outcomes import ANSWERED
from paldia.load.replay import replay
from paldia.sim.scenario import Times

DEADLINE_S = 120.0
"""Long past any SLO: a late answer is to be seen, not cut off. The simulator has no deadlines."""
PROBES = 40
PROBE_EVERY_S = 0.25
"""Requests that are sent one by one to see what they take beyond their batches."""
REPORTED_S = 3.0
"""Until the controller knows how long their batches took."""
TOKENS = 128
REPOSITORY = Path(__file__).parents[2]

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Live:
    """A case played for real, with all that the simulator needs to play it.

    Attributes:
        times: when requests were due, in seconds from the lead's start.
    """

    played: Played
    times: Times
    found: Found


def measure(case: Case, folder: Path, tell: Tell) -> Ways:
    """Leave in a folder a cluster that has measured a case's model on all its machines.

    Args:
        case: one of those with this model and these machines.
        folder: where; it must not be there yet.
        tell: told what is being done.

    Returns:
        What single requests took beyond their batches there.
    """
    samples.prepare()
    with _staged(case, folder, PALDIA.name) as stage:
        tell("deploying")
        stage.client.deploy(samples.FOLDER / case.model, slo_latency_s=case.slo_s)
        tell("measuring")
        stage.client.profile(case.model)
        tell("sending requests one by one")
        ways = asyncio.run(_ways(case, stage))
        stage.client.undeploy(case.model)
    return ways


def play(case: Case, measured: Path, ways: Ways, played_s: float, tell: Tell) -> Live:
    """Play a case; everything is stopped at the end.

    Args:
        case: the case.
        measured: a folder that `measure` left.
        ways: what it gave.
        played_s: the time after the lead that is compared.
        tell: told what is being done.
    """
    with tempfile.TemporaryDirectory(prefix="paldia-fidelity-") as parent:
        folder = Path(parent) / "cluster"
        shutil.copytree(measured, folder)
        with _staged(case, folder, case.policy) as stage:
            tell("deploying")
            deployed_s = time.monotonic()
            stage.client.deploy(samples.FOLDER / case.model, slo_latency_s=case.slo_s)
            profiles, nodes = _profiles(case, stage), _nodes(stage)
            capacity = reference_rps(profiles[case.reference], case.slo_s)
            times = arrivals(case, capacity, played_s)
            silence_s = math.ceil(time.monotonic() - deployed_s)
            tell(f"playing {len(times)} requests")
            played = asyncio.run(_send(case, times, played_s, stage))
            return Live(played, times, Found(profiles, nodes, silence_s, ways))


def _staged(case: Case, folder: Path, policy: str) -> AbstractContextManager[Stage]:
    return staged(folder, case.nodes, controller=("--policy", policy))


def _told(case: Case, stage: Stage) -> Iterator[types_pb2.Profile]:
    yield from stage.stub.ExplainModel(
        control_pb2.ExplainModelRequest(name=case.model, limit=1)
    ).profiles


def _profiles(case: Case, stage: Stage) -> dict[str, Profile]:
    told = {each.hardware: convert.profile_from_proto(each) for each in _told(case, stage)}
    return {kind: profile for kind, profile in told.items() if profile is not None}


def _nodes(stage: Stage) -> dict[str, Hardware]:
    listed = stage.stub.ListNodes(control_pb2.ListNodesRequest()).nodes
    return {node.id: machines.hardware_from_proto(node.hardware) for node in listed}


async def _ways(case: Case, stage: Stage) -> Ways:
    """Send requests one by one: the callers' latencies tell the whole, batches' their part of it.

    Raises:
        UnavailableError: they weren't answered, or not from one kind of hardware.
    """
    times = (np.arange(PROBES) * PROBE_EVERY_S).tolist()
    outcomes = await replay(stage.frontend, _payloads(case.model), times, deadline_s=DEADLINE_S)
    await asyncio.sleep(REPORTED_S)
    answered = [it for it in outcomes if it.code == ANSWERED]
    nodes = _nodes(stage)
    kinds = {nodes[str(it.tags["paldia_node"])].name for it in answered}
    if len(kinds) != 1:
        raise UnavailableError(
            f"single requests to {case.model} were answered by {sorted(kinds)}, not by one kind "
            f"of hardware; codes: {sorted({it.code for it in outcomes})}"
        )
    (kind,) = kinds
    alone_s = _profiles(case, stage)[kind].latency_s(1)
    whole_s = max(0.0, float(np.median([it.latency_s for it in answered])) - alone_s)
    (ratio,) = [it.check.ratio for it in _told(case, stage) if it.hardware == kind]
    lane_s = min(whole_s, max(0.0, ratio - 1) * alone_s)
    return Ways(lane_s, whole_s - lane_s)


async def _send(case: Case, times: Times, played_s: float, stage: Stage) -> Played:
    async def spent_usd(at_s: float) -> float:
        await asyncio.sleep(at_s)
        return (await asyncio.to_thread(stage.client.status)).cost_usd

    costs = [asyncio.create_task(spent_usd(at_s)) for at_s in (LEAD_S, LEAD_S + played_s)]
    outcomes = await replay(
        stage.frontend, _payloads(case.model), times.tolist(), deadline_s=DEADLINE_S
    )
    before_usd, after_usd = await asyncio.gather(*costs)
    compared = [outcome for outcome in outcomes if outcome.intended_s >= LEAD_S]
    return Played(
        np.array([it.latency_s if it.code == ANSWERED else np.nan for it in compared]),
        [str(it.tags.get("paldia_node", "")) for it in compared],
        after_usd - before_usd,
    )


def _payloads(model: str) -> Sequence[bytes]:
    """Give encoded requests."""
    if model == "magika":
        paths = select_files(REPOSITORY)
        return [
            encoded_arrays(model, {"bytes": features[np.newaxis]})
            for path in paths
            if (features := features_of(path)) is not None
        ]
    if model == "minilm":
        reader = SentenceReader(samples.FOLDER / "minilm-tokenizer" / "tokenizer.json")
        return [encoded_arrays(model, reader.arrays_of(sentence)) for sentence in SENTENCES]
    ids = np.ones((1, TOKENS), np.int64)
    return [encoded_arrays(model, {"input_ids": ids, "attention_mask": ids})]
