"""The controller's loop: observe, decide, apply; each second, and at once when woken.

The deciding is `paldia.core.engine`; here is only what surrounds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from paldia.api.v1 import agent_pb2, state_pb2, types_pb2
from paldia.core import engine
from paldia.core.config import PolicyConfig
from paldia.core.errors import ConflictError, UnavailableError
from paldia.core.ledger import Ledger
from paldia.core.observation import Action, Decision, Memory
from paldia.kit.clock import Clock
from paldia.kit.lifecycle import sleep_unless, wait_any
from paldia.kit.observability import logger
from paldia.store.base import COMMIT_LIMIT_WRITES, Delete, Expect, Put
from paldia_controller import memory as stored_memory
from paldia_controller import rollout
from paldia_controller.applier import plan_writes
from paldia_controller.observer import Observer
from paldia_controller.profiling import Profiling, Task
from paldia_controller.state import State
from paldia_controller.views import Views

SHORTEST_TICK_S = 0.05
"""Least time between steps, however much changes."""
SAVE_EVERY_S = 10.0
"""How often the planner's memory and the bill are saved when no plan changes."""


class Planner:
    """Decides for as long as it runs; all it must not forget is in the store."""

    def __init__(
        self,
        state: State,
        observer: Observer,
        profiling: Profiling,
        views: Views,
        *,
        config: PolicyConfig,
        clock: Clock,
    ) -> None:
        self._state = state
        self._observer = observer
        self._profiling = profiling
        self._views = views
        self._config = config
        self._clock = clock
        self._saved_s = 0.0
        self.memory: Memory = {}
        self.ledger = Ledger(clock.wall_s())
        self.decisions = 0
        self.moves = 0
        self.latest: Mapping[str, Decision] = {}
        """The last step's decision on each model, kept or not."""

    def restore(self) -> None:
        """Take up what the planner before this one remembered."""
        saved = self._state.planner.get("state")
        if saved is None:
            return
        self.memory = stored_memory.memory_from_proto(saved.memories)
        self.ledger = stored_memory.ledger_from_proto(saved.ledger)
        self.decisions, self.moves = saved.decisions, saved.moves

    async def run(self, stop: asyncio.Event, tick_s: float) -> None:
        """Step until `stop`. A store that doesn't answer is waited for, and nothing is lost."""
        signals = (self._observer.urgent, self._observer.changed, self._state.changed)
        while not stop.is_set():
            seen = [signal.count for signal in signals]
            try:
                await self.tick()
            except (ConflictError, UnavailableError, TimeoutError) as error:
                logger().warning("planner.retry", reason=str(error) or "the store is slow")
            changes = [signal.beyond(count) for signal, count in zip(signals, seen, strict=True)]
            await wait_any([*changes, stop.wait()], tick_s)
            await sleep_unless(stop, SHORTEST_TICK_S)

    async def tick(self) -> None:
        """Observe, decide and apply, once."""
        await self._advance_rollouts()
        observation = self._observer.observe()
        step = engine.step(observation, self.memory, self._config)
        writes, expect = plan_writes(self._state, observation.plan, step)
        changed = [decision for decision in step.decisions if decision.action is not Action.KEEP]
        self.memory, self.latest = step.memory, {d.model: d for d in step.decisions}
        now_s, running = self._clock.wall_s(), self._views.running()
        due = now_s - self._saved_s > SAVE_EVERY_S or running != self.ledger.running
        if not writes and not due:
            return
        ledger = self.ledger.settle(now_s, running)
        moved = sum(decision.action is Action.MOVE for decision in changed)
        acted = sum(decision.action is not Action.UNPLACED for decision in changed)
        saved = state_pb2.StoredPlanner(
            memories=stored_memory.memory_to_proto(step.memory),
            ledger=stored_memory.ledger_to_proto(ledger),
            decisions=self.decisions + acted,
            moves=self.moves + moved,
        )
        await self._state.commit([*writes, self._state.planner.put("state", saved)], expect)
        self.ledger, self._saved_s = ledger, now_s
        self.decisions, self.moves = saved.decisions, saved.moves
        for decision in changed:
            _log(decision)

    async def _advance_rollouts(self) -> None:
        """Collect measurements, promote or give up candidates, and hand out what is missing."""
        now_s = self._clock.wall_s()
        reports = [session.report for session in self._observer.agents.values()]
        for task, result in self._profiling.results(reports, now_s):
            await self._keep_profile(task, result)
        profiles = {key: row.message for key, row in self._state.profiles.rows.items()}
        models = {name: row.message for name, row in self._state.models.rows.items()}
        nodes = self._observer.nodes()
        await self._promote(models, profiles, now_s)
        known = {key: row for key, row in profiles.items() if key not in self._profiling.repeating}
        missing = rollout.missing_profiles(models, known, nodes)
        before = self._profiling.tasks
        self._profiling.assign(missing, nodes, now_s)
        self._observer.profiling = self._profiling.nodes
        if before != self._profiling.tasks:
            self._observer.changed.fire()

    async def _keep_profile(self, task: Task, result: agent_pb2.ProfileResult) -> None:
        """Store a measurement; a failed one never takes the place of one that succeeded."""
        before = self._state.profiles.get(task.key)
        if not result.profile.failure or before is None or before.failure:
            writes: list[Put | Delete] = [self._state.profiles.put(task.key, result.profile)]
            if result.model_config:
                config = state_pb2.StoredConfig(model_config=result.model_config)
                writes.append(self._state.configs.put(task.wanted.digest, config))
            await self._state.commit(writes, [])
        self._profiling.finished(task.key, result.profile)
        logger().info(
            "profile.measured",
            model=task.wanted.model,
            hardware=task.wanted.hardware,
            node=task.node_id,
            failure=result.profile.failure,
        )

    async def _promote(
        self,
        models: Mapping[str, types_pb2.Model],
        profiles: Mapping[str, types_pb2.Profile],
        now_s: float,
    ) -> None:
        nodes = self._observer.nodes()
        writes: list[Put | Delete] = []
        expect: list[Expect] = []
        for name, model in sorted(models.items()):
            after = rollout.advance(model, profiles, nodes, now_s)
            if after is not None and len(writes) < COMMIT_LIMIT_WRITES:
                writes.append(self._state.models.put(name, after))
                expect.append(self._state.models.unchanged(name))
                logger().info(
                    "rollout.ended",
                    model=name,
                    generation=model.candidate.generation,
                    promoted=after.serving == model.candidate,
                    reason=after.last_failure.reason,
                )
        if writes:
            await self._state.commit(writes, expect)


def _log(decision: Decision) -> None:
    logger().info(
        "decision",
        model=decision.model,
        action=decision.action.value,
        reason=decision.reason,
        requests_per_second=round(decision.rate.requests_per_second, 2),
        backlog=decision.backlog,
        before=[assignment.node_id for assignment in decision.before],
        after=[assignment.node_id for assignment in decision.after],
        slo_unreachable=decision.slo_unreachable,
    )
