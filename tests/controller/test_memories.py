"""What is remembered of a thousand models: more than a value or a commit holds, and never lost."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from paldia_controller import encoding
from paldia_controller.observer import Observer
from paldia_controller.planner import Planner
from paldia_controller.profiling import Profiling
from paldia_controller.provisioner import StaticProvisioner
from paldia_controller.provisioning import Patience, Provisioning
from paldia_controller.state import State
from paldia_controller.views import Views

from paldia.api import convert
from paldia.api.v1 import routing_pb2, state_pb2, types_pb2
from paldia.core.baselines import PALDIA
from paldia.core.config import PolicyConfig
from paldia.core.observation import ModelPlan
from paldia.store.base import COMMIT_LIMIT_WRITES, VALUE_LIMIT_BYTES, Delete, Expect, Put, Store
from paldia.store.embedded import EmbeddedStore
from paldia.store.etcd import EtcdStore

SAVED_WITHIN = 12
"""Commits in which all of them are saved, one a second: some hundred in each."""
UNPLANNED = 150
"""Models that are new; the others had a plan, and no memory."""
MODELS = [f"model-{number:04d}" for number in range(1000)]


class KilledError(Exception):
    """The process that commits is gone."""


class Mortal:
    """A store whose user is killed at a commit: before it is made, or before it hears of that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commits_left = math.inf
        self.killed_before = False
        self.commits = 0
        self.written: dict[str, int] = {}
        """How many commits there had been when a key was last written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, writes: Sequence[Put | Delete], expect: Sequence[Expect] = ()) -> int:
        self.commits_left -= 1
        if self.commits_left == 0 and self.killed_before:
            raise KilledError
        revision = await self._store.commit(writes, expect)
        self.commits += 1
        self.written |= {write.key: self.commits for write in writes}
        if self.commits_left == 0:
            raise KilledError
        return revision


@pytest.fixture(params=["embedded", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mortal]:
    if request.param == "embedded":
        inner: Store = EmbeddedStore(tmp_path / "state.db")
    else:
        etcd = request.getfixturevalue("etcd")
        inner = EtcdStore([etcd.endpoint], prefix=f"/{uuid.uuid4()}/")
    yield Mortal(inner)
    await inner.close()


class Clock:
    """A clock that a test turns."""

    now_s = 1_790_000_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


class Life:
    """A controller's planner from its start to its end."""

    def __init__(self, store: Mortal, clock: Clock, names: Sequence[str]) -> None:
        self.names = names
        self.state = State(store)
        self.observer = Observer(self.state, clock)
        profiling, config = Profiling(), PolicyConfig()
        self.views = Views(self.state, self.observer, profiling)
        provisioning = Provisioning(
            StaticProvisioner(),
            self.state,
            self.observer,
            patience=Patience(1.0, 1.0, 1.0),
            config=config,
            clock=clock,
        )
        self.planner = Planner(
            *(self.state, self.observer, profiling, provisioning, self.views),
            config=config,
            policy=PALDIA,
            clock=clock,
        )
        self._clock, self._offered = clock, 0
        info = routing_pb2.FrontendInfo(id="f", address="127.0.0.1:1")
        self._frontend = self.observer.frontend_connected(info, self._demands())

    def _demands(self) -> routing_pb2.ConnectFrontendRequest:
        return routing_pb2.ConnectFrontendRequest(
            demands=[
                routing_pb2.ModelDemand(model=name, offered=self._offered * (1 + number % 7))
                for number, name in enumerate(self.names)
            ]
        )

    async def tick(self) -> None:
        self._clock.now_s += 1.0
        self._offered += 1
        self.observer.frontend_reported(self._frontend, self._demands())
        await self.planner.tick()

    async def run(self, known: dict[str, set[bytes]]) -> None:
        """Tick without end; note in `known` all that is ever remembered."""
        while True:
            try:
                await self.tick()
            finally:
                for name, kept in self.remembered().items():
                    known[name].add(kept)

    def remembered(self) -> dict[str, bytes]:
        return {
            name: encoding.memory_to_proto(name, kept).SerializeToString(deterministic=True)
            for name, kept in self.planner.memory.items()
        }


@contextlib.asynccontextmanager
async def living(store: Mortal, clock: Clock, names: Sequence[str] = MODELS) -> AsyncIterator[Life]:
    life = Life(store, clock, names)
    follower = asyncio.create_task(life.state.follow())
    await life.state.synced(10)
    life.planner.restore()
    try:
        yield life
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


async def deploy(store: Mortal, names: Sequence[str] = MODELS) -> None:
    state = State(store)
    for start in range(0, len(names), COMMIT_LIMIT_WRITES):
        writes = []
        for name in names[start : start + COMMIT_LIMIT_WRITES]:
            model = types_pb2.Model(name=name)
            model.serving.generation = 1
            spec = types_pb2.ModelSpec(name=name, artifact_digest="d" * 64)
            spec.slo.CopyFrom(types_pb2.Slo(latency=convert.duration(0.1), share=0.99))
            model.serving.spec.CopyFrom(spec)
            writes.append(state.models.put(name, model))
        await store.commit(writes)
    # It can't be placed. To find that out of all of them takes a while.
    plans = [encoding.plan_to_proto(ModelPlan(name, 1)) for name in names[UNPLANNED:]]
    for start in range(0, len(plans), COMMIT_LIMIT_WRITES):
        some = plans[start : start + COMMIT_LIMIT_WRITES]
        await store.commit([state.plans.put(plan.model, plan) for plan in some])


async def test_a_thousand_models_are_remembered_through_kills_at_any_commit(store: Mortal) -> None:
    clock = Clock()
    await deploy(store)
    known: dict[str, set[bytes]] = {name: set() for name in MODELS}
    # The first die while plans are made, the last while nothing but memories is saved.
    for commits, before in ((1, True), (3, False), (5, True), (4, False)):
        async with living(store, clock) as life:
            planned = life.state.plans.rows.keys() & set(MODELS[:UNPLANNED])
            assert planned <= life.planner.memory.keys()
            assert all(kept in known[name] for name, kept in life.remembered().items())
            store.commits_left, store.killed_before = commits, before
            with pytest.raises(KilledError):
                await life.run(known)
    store.commits_left = math.inf
    async with living(store, clock) as life:
        assert all(kept in known[name] for name, kept in life.remembered().items())
        # No life began again with those that another one had saved.
        assert len(life.state.memories.rows) > 800
        for _ in range(SAVED_WITHIN):
            await life.tick()
        assert life.state.memories.rows.keys() == life.state.plans.rows.keys() == set(MODELS)
        assert sum(len(kept) for kept in life.remembered().values()) > VALUE_LIMIT_BYTES
        since = {name: store.written[f"paldia/v1/memories/{name}"] for name in MODELS}
        assert all(store.commits - commit <= SAVED_WITHIN for commit in since.values())
        assert life.views.rates["model-0006"] == pytest.approx(7, rel=0.2)


async def test_a_model_that_goes_takes_its_memory_along(store: Mortal) -> None:
    names = MODELS[:10]
    await deploy(store, names)
    async with living(store, Clock(), names) as life:
        await life.tick()
        assert life.state.memories.rows.keys() == set(names)
        await life.state.commit([life.state.models.delete("model-0000")], [])
        # Of this one the plan went in a commit after which nobody was left to save.
        stray = state_pb2.StoredMemory(model="stray")
        await life.state.commit([life.state.memories.put("stray", stray)], [])
        await life.tick()
        assert life.state.memories.rows.keys() == set(names[1:])
