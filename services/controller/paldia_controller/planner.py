"""The controller's loop: observe, decide, apply; each second, and at once when woken.

The deciding is `paldia.core.engine`; here is only what surrounds it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

from paldia.api.recording import Recording
from paldia.api.v1 import agent_pb2, state_pb2, types_pb2
from paldia.core import engine
from paldia.core.baselines import Policy
from paldia.core.config import PolicyConfig
from paldia.core.errors import ConflictError, UnavailableError
from paldia.core.ledger import Ledger
from paldia.core.observation import Action, Decision, Memory, ModelMemory, Plan
from paldia.kit.clock import Clock
from paldia.kit.lifecycle import sleep_unless, wait_any
from paldia.kit.observability import logger
from paldia.store.base import COMMIT_LIMIT_WRITES, Delete, Expect, Put
from paldia_controller import encoding, rollout
from paldia_controller.applier import Changes, plan_changes
from paldia_controller.memories import SAVE_EVERY_S, Memories
from paldia_controller.observer import Observer
from paldia_controller.outcomes import checked, kept
from paldia_controller.profiling import Profiling, Task
from paldia_controller.provisioning import Provisioning
from paldia_controller.records import Recorder
from paldia_controller.state import State
from paldia_controller.views import Views

SHORTEST_TICK_S = 0.05
"""Least time between steps, however much changes."""


class Planner:
    """Decides for as long as it runs; all it must not forget is in the store."""

    def __init__(
        self,
        state: State,
        observer: Observer,
        profiling: Profiling,
        provisioning: Provisioning,
        views: Views,
        *,
        config: PolicyConfig,
        policy: Policy,
        clock: Clock,
    ) -> None:
        self._state = state
        self._observer = observer
        self._profiling = profiling
        self._provisioning = provisioning
        self._views = views
        self._config = config
        self._policy = policy
        self._clock = clock
        self._saved_s = 0.0
        self.memory: Memory = {}
        self.ledger = Ledger(clock.wall_s())
        self.decisions = 0
        self.moves = 0
        self.latest: Mapping[str, tuple[Decision, ModelMemory]] = {}
        """The last decision on each model, kept or not, and what was remembered then."""
        self._recorder = Recorder(state)
        self._memories = Memories(state)
        self._alarm = ""

    def restore(self) -> None:
        """Take up what the planner before this one remembered."""
        self._recorder.restore()
        self.memory = self._memories.restored()
        saved = self._state.planner.get("state")
        if saved is None:
            return
        self.ledger = encoding.ledger_from_proto(saved.ledger)
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
            except Exception:
                # One step that can't be made must not end the steps for all models.
                logger().exception("planner.failed")
            changes = [signal.beyond(count) for signal, count in zip(signals, seen, strict=True)]
            await wait_any([*changes, stop.wait()], tick_s)
            await sleep_unless(stop, SHORTEST_TICK_S)

    async def tick(self) -> None:
        """Observe, decide and apply, once.

        Nothing is decided until the planned nodes have had the time to say how they are:
        after a restart of this controller all of them are unknown, not gone.
        """
        await self._keep_profiles()
        if not self._observer.settled():
            return
        await self._keep_machines()
        await self._advance_rollouts()
        observation = self._observer.observe()
        step = engine.step(observation, self.memory, self._config, self._policy)
        made = Recording(observation, self.memory, self._config, self._policy.name, step)
        changes = plan_changes(self._state, observation.plan, step)
        self._keep_latest(step)
        self.memory = self._unless_saving(step)
        memory = {
            name: kept if _applied(step, observation.plan, changes, name) else self.memory[name]
            for name, kept in step.memory.items()
        }
        now_s, running = self._clock.wall_s(), self._views.running()
        self._saved_s = min(self._saved_s, now_s)
        due = now_s - self._saved_s >= SAVE_EVERY_S or running != self.ledger.running
        reviews = self._recorder.reviews(made, changes.models)
        if not (changes.writes or reviews or due or self._memories.due(memory, now_s)):
            self.memory = memory
            return
        done = [
            decision
            for decision in step.decisions
            if decision.model in changes.models and decision.action is not Action.KEEP
        ]
        ledger = self._views.settled(self.ledger, now_s)
        saved = state_pb2.StoredPlanner(
            ledger=encoding.ledger_to_proto(ledger),
            decisions=self.decisions + sum(d.action is not Action.UNPLACED for d in done),
            moves=self.moves + sum(d.action is Action.MOVE for d in done),
        )
        writes = [*changes.writes, self._state.planner.put("state", saved)]
        decided = [decision.model for decision in done]
        writes += self._recorder.writes(made, decided, reviews, beside=writes)
        saving = self._memories.writes(memory, changes.models, now_s, beside=writes)
        await self._state.commit([*writes, *saving.values()], changes.expect)
        self._recorder.written(made, decided, reviews)
        self._memories.written({*changes.models, *saving}, memory, now_s)
        self.memory = memory
        self.ledger, self._saved_s = ledger, now_s
        self.decisions, self.moves = saved.decisions, saved.moves
        for decision in done:
            _log(decision)

    def _keep_latest(self, step: engine.Step) -> None:
        judged = {each.model: (each, step.memory[each.model]) for each in step.decisions}
        self.latest = {
            name: latest for name, latest in self.latest.items() if name in step.plan
        } | judged
        if step.alarm != self._alarm:
            self._alarm = step.alarm
            logger().warning("nodes.in_doubt", reason=step.alarm or "they are back")

    def _unless_saving(self, step: engine.Step) -> Memory:
        """Give what is remembered if the step is not applied: a saving goes on waiting."""
        return {
            name: dataclasses.replace(
                memory, saving_since_s=self.memory.get(name, memory).saving_since_s
            )
            for name, memory in step.memory.items()
        }

    async def _keep_machines(self) -> None:
        """Have machines asked for and given back, each paid for from the moment that is noted."""
        now_s = self._clock.wall_s()
        before, changes = self._observer.fleet.provisions, self._provisioning.changes(now_s)
        if changes:
            ledger = self._views.settled(self.ledger, now_s, changes)
            saved = state_pb2.StoredPlanner(
                ledger=encoding.ledger_to_proto(ledger),
                decisions=self.decisions,
                moves=self.moves,
            )
            writes, expect = self._provisioning.writes(changes)
            await self._state.commit([*writes, self._state.planner.put("state", saved)], expect)
            self.ledger, self._saved_s = ledger, now_s
            self._provisioning.committed(before, changes)
        self._provisioning.carry_out()

    async def _keep_profiles(self) -> None:
        """Collect what has been measured."""
        reports = {name: session.report for name, session in self._observer.agents.items()}
        for task, result in self._profiling.results(reports, self._clock.monotonic_s()):
            await self._keep_profile(task, result)

    async def _advance_rollouts(self) -> None:
        """Promote or give up candidates, and hand out the measurements that are missing."""
        profiles = {key: row.message for key, row in self._state.profiles.rows.items()}
        models = {name: row.message for name, row in self._state.models.rows.items()}
        nodes = self._observer.nodes()
        await self._promote(models, profiles, self._clock.wall_s())
        known = {key: row for key, row in profiles.items() if key not in self._profiling.repeating}
        missing = [
            dataclasses.replace(want, full=self._profiling.asked_in_full(want))
            for want in rollout.missing_profiles(models, known, nodes)
        ]
        worthwhile = rollout.refinements(
            models,
            profiles,
            nodes,
            self._observer.knowledge.is_stale,
            now_s=self._clock.wall_s(),
            idle_s=self._profiling.idle_s,
        )
        before = self._profiling.under_way
        self._profiling.refine(
            missing, worthwhile, self._idle_nodes(), nodes, self._clock.monotonic_s()
        )
        self._observer.profiling = self._profiling.nodes
        if before != self._profiling.under_way:
            self._observer.changed.fire()

    def _idle_nodes(self) -> frozenset[str]:
        """Give the nodes that are there, and whose models nobody has asked for a while."""
        now_s = self._clock.wall_s()
        used = {
            placement.node_id
            for name, record in self._state.plans.rows.items()
            for placement in (*record.message.target, *record.message.retiring)
            if name not in self.memory
            or now_s - self.memory[name].last_used_s < self._profiling.idle_s
        }
        here = filter(self._observer.is_here, self._observer.node_ids())
        return frozenset(here) - used

    async def _keep_profile(self, task: Task, result: agent_pb2.ProfileResult) -> None:
        """Store a measurement; a failed one never takes the place of one that succeeded."""
        result = checked(result, task.unmeasured)
        before = self._state.profiles.get(task.key)
        if not result.profile.failure or before is None or before.failure:
            profile = kept(result.profile, before)
            writes: list[Put | Delete] = [self._state.profiles.put(task.key, profile)]
            if result.model_config:
                config = state_pb2.StoredConfig(model_config=result.model_config)
                writes.append(self._state.configs.put(task.wanted.digest, config))
            await self._state.commit(writes, [])
        self._profiling.finished(task, result.profile, self._clock.monotonic_s())
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


def _applied(step: engine.Step, before: Plan, changes: Changes, model: str) -> bool:
    return model in changes.models or step.plan[model] == before.get(model)


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
