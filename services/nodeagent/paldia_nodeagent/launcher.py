"""Starts Tritons, and takes over those that an earlier agent left running."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import time
from pathlib import Path

from paldia.core.errors import PaldiaError, UnavailableError
from paldia.kit.observability import logger
from paldia_nodeagent import processes, repository
from paldia_nodeagent.ledger import Purpose, Record
from paldia_nodeagent.logs import TritonLog
from paldia_nodeagent.runtime import Runtime
from paldia_nodeagent.site import Site
from paldia_nodeagent.triton import DEATH_LIMIT_S, STOP_GRACE_S, TritonProcess

_LEFTOVER_GRACE_S = 2.0


class Launcher:
    """Starts Tritons, and takes over those that an earlier agent started."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def launch(
        self,
        model: str,
        digest: str,
        artifact: Path,
        purpose: Purpose,
        *,
        lanes: int = 1,
        sm_percent: int = 100,
        patience: int = 1,
    ) -> TritonProcess:
        """Start a Triton, load the model and give the process, which answers then.

        Args:
            model: the name that it is to have.
            digest: names the artifact, for the records.
            artifact: the model's folder.
            purpose: what it is started for.
            lanes: instances of the model.
            sm_percent: share of a GPU's streaming multiprocessors that the process is held to.
            patience: how many times as long as usual it may show no life.

        Raises:
            NotServableError: there is no Triton, or the model can't be loaded.
            UnavailableError: Triton didn't come up in time, or an accelerator isn't ready.
        """
        began_s = time.monotonic()
        runtime = self._site.finder.runtime()
        environment = dict(self._site.accelerators.environment(sm_percent))
        repository.check_model_name(model)
        run = self._site.ledger.new_run()
        self._build(artifact, run, model, lanes)
        planned = Record(
            run,
            model,
            digest,
            purpose,
            sm_percent=sm_percent,
            device=self._site.device,
            environment=environment,
        )
        triton = self._spawn(runtime, planned, patience)
        try:
            await triton.listen()
            await triton.load(lanes)
            if (emulation := self._site.emulation) is not None:
                folder = self._site.repository(run)
                await emulation.settle_in(triton.admin, triton.config, artifact, folder, began_s)
            else:
                await triton.try_out()
        except BaseException:
            await triton.kill()
            raise
        return triton

    def _build(self, artifact: Path, run: str, model: str, lanes: int) -> None:
        emulation, folder = self._site.emulation, self._site.repository(run)
        build = repository.build_repository if emulation is None else emulation.build_repository
        try:
            build(artifact, folder, model, lanes)
        except BaseException:
            self._site.ledger.forget(run)
            raise

    def _spawn(self, runtime: Runtime, planned: Record, patience: int) -> TritonProcess:
        site, run = self._site, planned.run
        arguments = [
            str(runtime.tritonserver),
            f"--model-repository={site.repository(run)}",
            f"--backend-directory={runtime.backends}",
            "--model-control-mode=explicit",
            f"--grpc-address={site.host}",
            "--grpc-port=0",
            # Our clients ping during long inferences, to notice dead peers.
            "--grpc-http2-max-ping-strikes=0",
            "--allow-http=false",
            "--allow-metrics=false",
            f"--exit-timeout-secs={STOP_GRACE_S:.0f}",
            f"--backend-config=python,shm-region-prefix-name={site.prefix(run)}-",
        ]
        log = TritonLog(site.home.log_path(planned.model, planned.digest, run))
        with log.path.open("ab") as output:
            child = subprocess.Popen(
                arguments,
                env={**runtime.environment, **planned.environment},
                cwd=site.ledger.folder(run),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # It outlives the agent, and one signal reaches it with its stubs.
                start_new_session=True,
            )
        ticks = processes.started_ticks(child.pid) or 0
        record = dataclasses.replace(planned, pid=child.pid, started_ticks=ticks)
        site.ledger.write(record)
        site.throttle.add(child.pid)
        site.logs.add(run, record.model, log)
        logger().info(
            "triton.started",
            pid=child.pid,
            model=record.model,
            digest=record.digest,
            purpose=record.purpose,
            sm_percent=record.sm_percent,
        )
        return TritonProcess(record, log, site, child, patience=patience)

    def outdated(self, triton: TritonProcess, sm_percent: int) -> bool:
        """Whether a process lacks what it would be given now, and so has to be replaced."""
        record = triton.record
        if record.sm_percent != sm_percent:
            return True
        try:
            return record.environment != self._site.accelerators.environment(sm_percent)
        except PaldiaError:
            # Another process would have to wait, or couldn't run either.
            return False

    async def take_over(self) -> list[TritonProcess]:
        """Adopt the healthy Tritons of an earlier agent and end the others, strays too."""
        tritons = await asyncio.gather(*map(self._consider, self._site.ledger.read()))
        adopted = {
            (triton.record.model, triton.record.digest): triton for triton in tritons if triton
        }
        runs = frozenset(triton.record.run for triton in adopted.values())
        await self._sweep(runs)
        for triton in adopted.values():
            self._site.throttle.add(triton.record.pid)
            self._site.logs.add(triton.record.run, triton.record.model, triton.log)
            logger().info("triton.adopted", pid=triton.record.pid, model=triton.record.model)
        return [*adopted.values()]

    async def _consider(self, record: Record) -> TritonProcess | None:
        """Give the process on record if it serves; if it only runs, end it."""
        log = self._site.home.log_path(record.model, record.digest, record.run)
        triton = TritonProcess(record, TritonLog(log), self._site)
        if not triton.alive():
            return None
        # The earlier agent may have died while it was stopped.
        processes.signal_group(record.pid, signal.SIGCONT)
        if record.device == self._site.device and await _serves(triton):
            return triton
        await triton.end(grace_s=_LEFTOVER_GRACE_S)
        return None

    async def _sweep(self, runs: frozenset[str]) -> None:
        """Remove processes, folders and shared memory that belong to no run of `runs`."""
        mark = self._site.prefix("")
        keep = frozenset(map(self._site.prefix, runs))
        if self._site.emulation is not None:
            keep |= {self._site.emulation.socket}
        await processes.wait_dead(processes.kill_marked(mark, keep), DEATH_LIMIT_S)
        processes.remove_shared_memory(mark, keep)
        self._site.ledger.forget_all_but(runs)


async def _serves(triton: TritonProcess) -> bool:
    if triton.record.purpose != "serve" or not triton.record.endpoint:
        return False
    try:
        triton.config = await triton.admin.config(triton.record.model)
        await triton.check_health()
    except UnavailableError:
        return False
    return await triton.admin.ready(triton.record.model)
