"""One measurement of one model, in a Triton of its own: all that a profile says.

In haste it is what a first deploy needs: how long batches take, memory and loading. In full it is
also how batches slow each other, from which demand and penalty are fitted, the share of the SMs
and the power; that takes longer, and nobody may be served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paldia.api import convert
from paldia.api.v1 import agent_pb2
from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import NotServableError
from paldia.core.fitting import common_curve, fit_sharing, least_sm_share
from paldia.core.profiles import Profile
from paldia_nodeagent.devices.base import Accelerators
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.inputs import Tensor, batch_sizes, make_request, sample_item
from paldia_nodeagent.launcher import Launcher
from paldia_nodeagent.measure import Point, answer, closed_loop, measure
from paldia_nodeagent.quiet import Quiet
from paldia_nodeagent.repository import ModelConfig
from paldia_nodeagent.sharing import (
    lanes_to_load,
    measure_slowdowns,
    measure_sm_shares,
    middle_mean,
    sizes_to_share,
)
from paldia_nodeagent.triton import TritonProcess

_BUDGET_S = 10.0
"""Where the task names none."""
_ALONE_SHARE = 0.4
"""Part of a full measurement's budget for batches alone; the rest is for those together."""
_PENALTY = 0.05
"""Until it is measured."""
_POWER_EVERY_S = 0.1
_SM_SHARE_S = 0.5
"""Time for a batch at one share of the SMs, loading aside."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a node measures with; its Tritons run `slowdown` times slower than they could."""

    launcher: Launcher
    cpu: Cpu
    accelerators: Accelerators
    slowdown: float

    @property
    def free_bytes(self) -> int:
        """Memory that is there for more lanes; a card that has less refuses them itself."""
        return self.cpu.memory_free_bytes()

    @property
    def power_watts(self) -> float:
        """Power that the accelerators draw now; 0 if it isn't known of all of them."""
        cards = self.accelerators.utilisation()
        if not all(card.HasField("power_watts") for card in cards):
            return 0.0
        return sum(card.power_watts for card in cards)

    def demand(self, threads_used: float) -> float | None:
        """Give the share of the cores that a batch takes, up to 1: threads used / cores.

        None on a machine with accelerators: what one kernel after another leaves free there
        can't be seen from utilisation.
        """
        if self.accelerators.describe():
            return None
        return min(max(threads_used / self.cpu.cores, 0.01), 1.0)


class Survey:
    """A measurement under way."""

    def __init__(
        self,
        bench: Bench,
        task: agent_pb2.ProfileTask,
        artifact: Path,
        quiet: Quiet,
        on_stage: Callable[[str, float], None],
    ) -> None:
        """Prepare to do `task` on the unpacked `artifact`; `on_stage` hears how far it is."""
        self._bench = bench
        self._task = task
        self._artifact = artifact
        self._quiet = quiet
        self._on_stage = on_stage
        self._budget_s = convert.seconds(task.budget) or _BUDGET_S
        self._item: list[Tensor] = []

    async def run(self) -> tuple[pb.Profile, ModelConfig]:
        """Measure; give the profile's figures and the completed config.

        Raises:
            NotServableError: the model can't be loaded, or failed.
            UnavailableError: the node served others for too long, or Triton didn't come up.
        """
        self._on_stage("loading", 0.0)
        triton, load_s = await self._launch(100)
        try:
            # As a deployment would load it; for measuring it may get more lanes.
            config, memory_bytes = triton.config, triton.device_memory_bytes()
            points, demand = await self._alone(triton)
            measured = Profile(
                points=tuple((point.batch_size, point.latency_s) for point in points),
                load_s=load_s,
                memory_bytes=memory_bytes,
                # One figure for all sizes: processor time isn't counted apart for each.
                demand=((1, 1.0 if demand is None else demand),),
                colocation_penalty=_PENALTY,
            )
            profile = convert.profile_to_proto(measured)
            if self._task.full:
                profile = await self._together(triton, measured, demand)
        finally:
            await triton.kill()
        if self._task.full and self._bench.accelerators.sm_shares:
            sizes = [(size, await self._sm_share(size)) for size in sizes_to_share(measured.points)]
            profile.sm_share.extend(convert.batch_shares(sizes))
        for told, point in zip(profile.points, points, strict=True):
            told.samples = point.samples
        return profile, config

    async def _launch(self, sm_percent: int) -> tuple[TritonProcess, float]:
        """Start a Triton; give it with the seconds to its first answer."""
        task = self._task

        async def start() -> tuple[TritonProcess, float]:
            began_s = time.monotonic()
            triton = await self._bench.launcher.launch(
                task.model,
                task.artifact_digest,
                self._artifact,
                "profile",
                sm_percent=sm_percent,
            )
            try:
                self._item = sample_item(triton.config, self._artifact, np.random.default_rng(0))
                await answer(triton.admin, self._request(triton.config, 1))
            except BaseException:
                await triton.kill()
                raise
            return triton, time.monotonic() - began_s

        return await self._quiet.undisturbed(start)

    def _request(self, config: ModelConfig, size: int) -> Any:
        return make_request(self._task.model, config, self._item, size)

    async def _alone(self, triton: TritonProcess) -> tuple[list[Point], float | None]:
        """Measure batches alone; give the share of the cores they take, None on a GPU."""
        config, task = triton.config, self._task
        share = _ALONE_SHARE if task.full else 1.0
        sizes = batch_sizes(config.max_batch_size, task.max_batch_size)
        cpu_before_s, began_s = triton.demanded_cpu_s(), time.monotonic()
        points = await measure(
            triton.admin,
            lambda size: self._request(config, size),
            sizes,
            budget_s=self._budget_s * share,
            latency_cap_s=convert.seconds(task.latency_cap),
            guard=self._quiet.undisturbed,
            on_size=lambda size: self._on_stage(
                f"batches of {size}", share * sizes.index(size) / len(sizes)
            ),
        )
        cpu_s = triton.demanded_cpu_s() - cpu_before_s
        # A slowed node's Tritons get only part of the time that passes.
        running_s = (time.monotonic() - began_s) / self._bench.slowdown
        return points, self._bench.demand(cpu_s / running_s)

    async def _together(
        self, triton: TritonProcess, alone: Profile, demand: float | None
    ) -> pb.Profile:
        """Measure batches together; give the profile with what follows from that."""
        # A lane may take as much as all of the process did, and no more.
        lanes = lanes_to_load(demand, triton.memory_bytes(), self._bench.free_bytes)
        if lanes < 2:
            return convert.profile_to_proto(alone)
        alone_s = {size: alone.latency_s(size) for size in sizes_to_share(alone.points)}

        async def load(count: int) -> bool:
            try:
                await self._quiet.undisturbed(lambda: triton.load(count))
            except NotServableError:
                # A card's memory may end before the machine's.
                return False
            return triton.lanes == count

        with self._watch_power() as watts:
            curves = await measure_slowdowns(
                triton.admin,
                lambda size: self._request(triton.config, size),
                alone_s,
                lanes,
                load=load,
                budget_s=self._budget_s * (1 - _ALONE_SHARE),
                guard=self._quiet.undisturbed,
                on_cell=self._tell_cell,
            )
        fit = fit_sharing(curves, demand)
        measured = replace(
            alone,
            demand=fit.demand,
            colocation_penalty=fit.penalty,
            interference=common_curve(curves),
            watts=statistics.median(watts) if watts else 0.0,
        )
        profile = convert.profile_to_proto(measured)
        profile.full = True
        profile.fit.error = fit.error
        for size, least, greatest in fit.between:
            profile.fit.between.add(batch_size=size, least=least, greatest=greatest)
        return profile

    def _tell_cell(self, size: int, callers: int, done: float) -> None:
        stage = f"{callers} at once, batches of {size}"
        self._on_stage(stage, _ALONE_SHARE + (1 - _ALONE_SHARE) * done)

    @contextlib.contextmanager
    def _watch_power(self) -> Iterator[list[float]]:
        """Note the power now and then meanwhile, as far as it is known."""
        watts: list[float] = []

        async def look() -> None:
            while self._bench.accelerators.describe():
                if (now := self._bench.power_watts) > 0:
                    watts.append(now)
                await asyncio.sleep(_POWER_EVERY_S)

        looking = asyncio.create_task(look())
        try:
            yield watts
        finally:
            looking.cancel()

    async def _sm_share(self, size: int) -> float:
        """Measure the least share of the SMs that leaves a batch at full speed."""

        async def at(percent: int) -> float:
            triton, _ = await self._launch(percent)
            try:
                request = self._request(triton.config, size)
                samples, _ = await self._quiet.undisturbed(
                    lambda: closed_loop(
                        lambda: answer(triton.admin, request), 1, _SM_SHARE_S, 2 * _SM_SHARE_S
                    )
                )
            finally:
                await triton.kill()
            return middle_mean(samples)

        return least_sm_share(
            await measure_sm_shares(
                at, lambda percent: self._on_stage(f"{percent} % of the SMs, batches of {size}", 1)
            )
        )
