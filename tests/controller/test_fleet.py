"""What the fleet's machines are to the planner, to the bill and to measurements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from paldia_controller import encoding
from paldia_controller.fleet import Fleet
from paldia_controller.observer import NODE_LIFETIME_S, Observer
from paldia_controller.profiling import TASK_LIMIT_S, Profiling
from paldia_controller.provisioner import StaticProvisioner
from paldia_controller.provisioning import CALLS_LIMIT, CHANGES_LIMIT, Patience, Provisioning
from paldia_controller.provisions import Phase, Provision, provision_to_proto
from paldia_controller.rollout import Wanted
from paldia_controller.state import State
from paldia_controller.views import Views

from paldia.api import convert
from paldia.api.v1 import agent_pb2, types_pb2
from paldia.core.config import PolicyConfig
from paldia.core.ledger import Energy, Ledger
from paldia.core.observation import Assignment, ModelPlan, NodeView
from paldia.core.types import Hardware, NodeState
from paldia.store.embedded import EmbeddedStore

SLACK_S = 20.0
GPU = types_pb2.Hardware(
    name="gpu",
    price_usd_per_hour=3600.0,
    memory_bytes=1 << 34,
    cores=4,
    gpus=[types_pb2.Gpu(name="T4", memory_bytes=1 << 34)],
    activation=convert.duration(40),
    idle_watts=10.0,
    rated_watts=70.0,
)
LIMIT_S = 1.5 * 40 + SLACK_S


class Clock:
    """A clock that a test turns."""

    now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


@dataclass
class Slow:
    """A provisioner whose calls end when the test says so, or break."""

    machines: dict[str, types_pb2.Hardware]
    calls: list[str] = field(default_factory=list)
    under_way: int = 0
    most: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    breaks: bool = False

    async def activate(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        await self._call(f"activate {node_id}")

    async def release(self, node_id: str, hardware: types_pb2.Hardware, limit_s: float) -> None:
        await self._call(f"release {node_id}")

    async def _call(self, what: str) -> None:
        self.calls.append(what)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.breaks:
                raise ZeroDivisionError
            await self.go.wait()
        finally:
            self.under_way -= 1


class World:
    """A controller's state and reports with a fleet, without a controller."""

    def __init__(self, store: EmbeddedStore, nodes: int) -> None:
        self.state = State(store)
        self.clock = Clock()
        self.provisioner = Slow({f"n{number:03d}": GPU for number in range(nodes)})
        self.observer = Observer(
            self.state, self.clock, Fleet(self.state, self.provisioner.machines)
        )
        self.profiling = Profiling()
        self.views = Views(self.state, self.observer, self.profiling)
        self.provisioning = Provisioning(
            self.provisioner,
            self.state,
            self.observer,
            patience=Patience(call_s=5.0, slack_s=SLACK_S, unused_s=30.0),
            config=PolicyConfig(),
            clock=self.clock,
        )

    def plan(self, *nodes: str, model: str = "m") -> None:
        target = tuple(Assignment(node, "gpu", "d" * 64, 1, 1) for node in nodes)
        stored = encoding.plan_to_proto(ModelPlan(model, 1, target))
        self.state.plans.load(model, stored.SerializeToString(), 1)

    def connect(self, node_id: str, *, ready: bool = False, price: float = 1.0) -> None:
        told = types_pb2.Hardware(
            name="gpu", price_usd_per_hour=price, memory_bytes=7, cores=3, gpus=GPU.gpus
        )
        session = self.observer.agent_connected(agent_pb2.NodeInfo(node_id=node_id, hardware=told))
        report = agent_pb2.NodeReport()
        if ready:
            report.deployments.add(
                model="m", artifact_digest="d" * 64, state=types_pb2.PLACEMENT_STATE_READY
            )
        self.observer.agent_reported(session, report)

    async def stand(self, node_id: str, provision: Provision) -> None:
        stored = provision_to_proto(provision, GPU)
        await self.state.commit([self.state.provisions.put(node_id, stored)], [])

    async def tick(self) -> dict[str, Provision]:
        """Do what the planner does."""
        changes = self.provisioning.changes(self.clock.now_s)
        before = self.observer.fleet.provisions
        if changes:
            await self.state.commit(*self.provisioning.writes(changes))
            self.provisioning.committed(before, changes)
        self.provisioning.carry_out()
        await asyncio.sleep(0)
        return changes

    def states(self) -> dict[str, NodeState]:
        return {node.node_id: node.state for node in self.observer.nodes()}


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    store = EmbeddedStore(tmp_path / "state.db")
    made = World(store, getattr(request, "param", 3))
    follower = asyncio.create_task(made.state.follow())
    await made.state.synced(10)
    yield made
    await made.provisioning.close()
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    await store.close()


async def test_the_planner_sees_machines_that_it_may_have(world: World) -> None:
    node = world.observer.nodes()[0]
    assert (node.node_id, node.state, node.usable) == ("n000", NodeState.PARKED, True)
    assert node.hardware == Hardware("gpu", 3600.0, 1 << 34, 4, 1, False, 40.0, 10.0, 70.0)


async def test_each_phase_has_its_state_and_its_price(world: World) -> None:
    world.plan("n000")
    await world.tick()
    assert world.states()["n000"] is NodeState.ACTIVATING
    assert world.views.running() == {"n000": 3600.0}
    world.connect("n000")
    await world.tick()
    assert world.states()["n000"] is NodeState.ACTIVE
    world.clock.now_s += NODE_LIFETIME_S + 1
    assert world.states()["n000"] is NodeState.LOST
    assert world.views.running() == {"n000": 3600.0}
    await world.stand("n000", Provision(Phase.RELEASING, 1000.0))
    assert world.states()["n000"] is NodeState.DRAINING
    assert world.views.running() == {"n000": 3600.0}
    await world.stand("n000", Provision(Phase.RELEASING, 1000.0, done_s=1001.0))
    assert world.views.running() == {}


async def test_one_that_is_left_alone_is_not_usable_until_then(world: World) -> None:
    failed = Provision(failures=1, avoid_until_s=1060.0, reason="no capacity")
    await world.stand("n000", failed)
    node = world.observer.nodes()[0]
    assert not node.usable
    assert node.problem == "no capacity; left alone until 00:17:40 UTC"
    world.clock.now_s = 1060.0
    assert world.observer.nodes()[0].usable


async def test_what_a_former_life_left_is_not_taken_for_the_present(world: World) -> None:
    world.plan("n000")
    await world.tick()
    world.connect("n000", ready=True)
    await world.tick()
    digest = "d" * 64
    assert world.observer.nodes()[0].deployments
    await world.stand("n000", Provision(Phase.RELEASING, 1000.0))
    assert not world.observer.nodes()[0].deployments
    world.plan()
    world.provisioner.go.set()
    await world.tick()
    await asyncio.sleep(0)
    await world.tick()
    # Given back, it has nothing that a route could lead to, and is not there.
    assert world.observer.deployment("n000", "m", digest) is None
    assert not world.observer.is_here("n000")


async def test_a_machine_is_what_its_agent_says_at_the_price_of_the_file(world: World) -> None:
    await world.stand("n000", Provision(Phase.ACTIVE, 1000.0))
    world.connect("n000", price=5.0)
    told = world.observer.hardware("n000")
    assert (told.cores, told.price_usd_per_hour, told.rated_watts) == (3, 3600.0, 70.0)
    assert convert.seconds(told.activation) == 40.0


async def test_power_is_estimated_from_what_the_file_says(world: World) -> None:
    await world.stand("n000", Provision(Phase.ACTIVATING, 1000.0))
    ledger = world.views.settled(Ledger(1000.0, {}, {"n000": 3600.0}), 1010.0)
    assert ledger.energy == {"n000": Energy(estimated_j=100.0)}
    assert ledger.cost_usd == {"n000": pytest.approx(10.0)}


async def test_the_bill_begins_and_ends_with_what_changes(world: World) -> None:
    asked = {"n000": Provision(Phase.ACTIVATING, 1005.0)}
    ledger = world.views.settled(Ledger(1000.0), 1005.0, asked)
    assert (ledger.total_usd, ledger.running) == (0.0, {"n000": 3600.0})
    await world.stand("n000", Provision(Phase.RELEASING, 1005.0))
    given_back = {"n000": Provision(Phase.RELEASING, 1005.0, done_s=1015.0)}
    ledger = world.views.settled(ledger, 1015.0, given_back)
    assert ledger.total_usd == pytest.approx(10.0)
    assert ledger.running == {}


async def test_after_a_restart_nobody_waits_for_machines_that_are_not_there(world: World) -> None:
    world.plan("n000", "n001")
    await world.stand("n000", Provision(Phase.ACTIVATING, 1000.0))
    await world.stand("n001", Provision(Phase.ACTIVE, 1000.0))
    assert not world.observer.settled()
    world.connect("n001")
    assert world.observer.settled()


async def test_one_of_several_that_fell_silent_is_replaced(world: World) -> None:
    for node_id in ("n000", "n001", "n002"):
        await world.stand(node_id, Provision(Phase.ACTIVE, 1000.0))
    world.plan("n000", "n001", "n002")
    world.clock.now_s += LIMIT_S + 1
    for node_id in ("n001", "n002"):
        world.connect(node_id)
    changes = world.provisioning.changes(world.clock.now_s)
    assert list(changes) == ["n000"]
    assert changes["n000"].phase is Phase.RELEASING


async def test_where_all_fell_silent_nothing_is_given_back(world: World) -> None:
    for node_id in ("n000", "n001", "n002"):
        await world.stand(node_id, Provision(Phase.ACTIVE, 1000.0))
    world.plan("n000", "n001", "n002")
    world.clock.now_s += 10 * LIMIT_S
    assert world.provisioning.changes(world.clock.now_s) == {}


async def test_one_that_still_holds_something_is_not_given_back(world: World) -> None:
    await world.stand("n000", Provision(Phase.ACTIVE, 1000.0))
    for _ in range(20):
        world.clock.now_s += 5.0
        world.connect("n000", ready=True)
        assert world.provisioning.changes(world.clock.now_s) == {}
    world.clock.now_s += 5.0
    world.connect("n000")
    await world.tick()
    world.clock.now_s += 30.0
    world.connect("n000")
    assert (await world.tick())["n000"].phase is Phase.RELEASING


@pytest.mark.parametrize("world", [CHANGES_LIMIT + 20], indirect=True)
async def test_only_so_many_change_and_are_called_for_at_once(world: World) -> None:
    world.plan(*world.provisioner.machines)
    assert len(await world.tick()) == CHANGES_LIMIT
    assert len(await world.tick()) == 20
    await world.tick()
    assert (len(world.provisioner.calls), world.provisioner.most) == (CALLS_LIMIT, CALLS_LIMIT)
    world.provisioner.go.set()
    for _ in range(30):
        await world.tick()
    assert len({*world.provisioner.calls}) == len(world.provisioner.calls) == CHANGES_LIMIT + 20
    assert world.provisioner.most == CALLS_LIMIT


async def test_a_call_for_what_is_no_longer_wanted_is_ended(world: World) -> None:
    world.plan("n000")
    await world.tick()
    await world.tick()
    assert (world.provisioner.calls, world.provisioner.under_way) == (["activate n000"], 1)
    world.clock.now_s += LIMIT_S + 1
    await world.tick()
    assert world.provisioner.calls == ["activate n000", "release n000"]
    assert world.provisioner.under_way == 1


async def test_a_provisioner_that_breaks_is_not_called_again_at_once(world: World) -> None:
    world.provisioner.breaks = True
    world.plan("n000")
    for _ in range(10):
        await world.tick()
    assert world.provisioner.calls == ["activate n000"]
    provision = world.observer.fleet.provision("n000")
    assert provision is not None
    assert "ZeroDivisionError" in provision.reason


async def test_an_answer_that_was_stored_without_our_knowledge_counts_once(world: World) -> None:
    world.provisioner.breaks = True
    world.plan("n000")
    await world.tick()
    await asyncio.sleep(0)
    # The store kept it, but the confirmation was lost on its way.
    changes = world.provisioning.changes(world.clock.now_s)
    await world.state.commit(*world.provisioning.writes(changes))
    assert changes["n000"].tries == 1
    assert world.provisioning.changes(world.clock.now_s) == {}
    world.clock.now_s = changes["n000"].retry_s
    await world.tick()
    assert world.provisioner.calls == ["activate n000"] * 2


async def test_without_a_fleet_machines_are_simply_there(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "state.db")
    state = State(store)
    stored = provision_to_proto(Provision(Phase.ACTIVE, 1.0), GPU)
    state.provisions.load("n", stored.SerializeToString(), 1)
    observer = Observer(state, Clock(), Fleet(state, StaticProvisioner().machines))
    assert observer.node_ids() == []
    info = agent_pb2.NodeInfo(node_id="n", hardware=types_pb2.Hardware(name="cpu"))
    observer.agent_connected(info)
    assert [node.state for node in observer.nodes()] == [NodeState.PARKED]
    await StaticProvisioner().activate("n", GPU, 1.0)
    await StaticProvisioner().release("n", GPU, 1.0)
    await store.close()


def view(node_id: str, state: NodeState, activation_s: float) -> NodeView:
    return NodeView(node_id, Hardware("gpu", 1.0, 1 << 34, activation_s=activation_s), state)


def test_what_is_there_measures_before_what_has_to_be_asked_for() -> None:
    profiling = Profiling()
    nodes = (view("a", NodeState.PARKED, 40.0), view("b", NodeState.ACTIVE, 40.0))
    profiling.assign([Wanted("m", "d", "gpu", 1.0)], nodes, now_s=0.0)
    assert profiling.nodes == {"b"}


def test_a_measurement_begins_once_its_machine_is_there() -> None:
    profiling = Profiling()
    wanted = [Wanted("m", "d", "gpu", 1.0)]
    for now_s in range(0, 500, 50):
        profiling.assign(wanted, (view("a", NodeState.ACTIVATING, 40.0),), float(now_s))
        assert profiling.results({}, float(now_s)) == []
    before = profiling.under_way
    there = (view("a", NodeState.ACTIVE, 40.0),)
    for now_s in (460.0, 450.0 + TASK_LIMIT_S):
        profiling.assign(wanted, there, now_s)
        assert profiling.results({}, now_s) == []
    assert profiling.under_way == before
    ((_, result),) = profiling.results({}, 451.0 + TASK_LIMIT_S)
    assert "no result" in result.profile.failure
