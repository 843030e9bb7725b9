"""What follows from plans, profiles and reports: desired state, routes, nodes and the bill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from paldia_controller import encoding
from paldia_controller.observer import TAKEOVER_S, Observer
from paldia_controller.profiling import Profiling
from paldia_controller.state import State, Table, profile_key
from paldia_controller.views import Views

from paldia.api import convert
from paldia.api.v1 import agent_pb2, state_pb2, types_pb2
from paldia.core.baselines import PALDIA, Policy, policy_named
from paldia.core.errors import InvalidArgumentError
from paldia.core.ledger import FORMER_MODELS, Energy, Ledger
from paldia.core.observation import Assignment, ModelPlan
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, NodeState
from paldia.store.embedded import EmbeddedStore

DIGEST = "d" * 64
OLD_DIGEST = "e" * 64
PROFILE = Profile(
    points=((1, 0.01), (8, 0.04)),
    load_s=1.0,
    memory_bytes=1 << 30,
    demand=((1, 0.2), (8, 0.6)),
    sm_share=((1, 0.25), (8, 0.5)),
    colocation_penalty=0.1,
)
GPU = types_pb2.Gpu(uuid="g", name="T4", memory_bytes=15 << 30)


class Clock:
    """A clock that a test turns."""

    now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


class World:
    """A controller's state and reports, without a controller."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.state = State(store)
        self.clock = Clock()
        self.observer = Observer(self.state, self.clock)
        self.views = self.under(PALDIA)

    def under(self, policy: Policy) -> Views:
        return Views(self.state, self.observer, Profiling(), policy)

    def store(self, table: Table[Message], name: str, message: Message) -> None:
        table.load(name, message.SerializeToString(), 1)
        self.state.changed.fire()

    def serve(self, model: str, *target: Assignment, retiring: tuple[Assignment, ...] = ()) -> None:
        record = types_pb2.Model(name=model)
        record.serving.spec.name = model
        record.serving.spec.artifact_digest = DIGEST
        self.store(self.state.models, model, record)
        plan = ModelPlan(model, 1, target, retiring)
        self.store(self.state.plans, model, encoding.plan_to_proto(plan))

    def profile(self, profile: types_pb2.Profile, digest: str = DIGEST) -> None:
        self.store(self.state.profiles, profile_key(digest, "gpu"), profile)

    def rates(self, **rates: float) -> None:
        for model, rate in rates.items():
            memory = state_pb2.StoredMemory(model=model, requests_per_second=rate)
            self.store(self.state.memories, model, memory)

    def node(
        self,
        node_id: str,
        *ready: str,
        sm_percent: int = 0,
        watts: tuple[float | None, ...] = (),
        **hardware: object,
    ) -> None:
        told = types_pb2.Hardware(name="gpu", price_usd_per_hour=3600.0, **hardware)
        session = self.observer.agent_connected(agent_pb2.NodeInfo(node_id=node_id, hardware=told))
        report = agent_pb2.NodeReport(
            deployments=[
                agent_pb2.DeploymentStatus(
                    model=model,
                    artifact_digest=digest,
                    state=types_pb2.PLACEMENT_STATE_READY,
                    endpoint=f"{node_id}:1",
                    lanes=2,
                    sm_percent=sm_percent,
                )
                for model in ready
                for digest in (DIGEST, OLD_DIGEST)
            ]
        )
        for power in watts:
            report.utilisation.gpus.add(power_watts=power)
        self.observer.agent_reported(session, report)


def on(node_id: str, batch: int = 8, sm_percent: int = 100, digest: str = DIGEST) -> Assignment:
    return Assignment(node_id, "gpu", digest, lanes=2, batch=batch, sm_percent=sm_percent)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = EmbeddedStore(tmp_path / "state.db")
    made = World(store)
    made.profile(convert.profile_to_proto(PROFILE))
    yield made
    await store.close()


async def test_a_node_is_told_the_sm_share_of_each_process(world: World) -> None:
    world.node("n")
    world.serve("held", on("n", sm_percent=30))
    world.serve("free", on("n"))
    told = {wanted.model: wanted.sm_percent for wanted in world.views.desired("n").deployments}
    assert told == {"free": 0, "held": 30}


async def test_a_route_tells_which_lanes_are_emulated(world: World) -> None:
    world.node("real", "m")
    world.node("virtual", "m", emulated=True)
    world.serve("m", on("real"), on("virtual"))
    lanes = world.views.routes()["m"].lanes
    assert {lane.node_id: lane.emulated for lane in lanes} == {"real": False, "virtual": True}


async def test_a_route_tells_what_a_batch_takes_in_a_process_that_is_held_back(
    world: World,
) -> None:
    # The process that runs tells its share: one that the plan changes comes with another one.
    world.node("m", "held", sm_percent=25)
    world.node("n", "free")
    world.serve("held", on("m", sm_percent=50))
    world.serve("free", on("n"))
    routes = world.views.routes()
    points = {
        name: [(point.batch_size, convert.seconds(point.latency)) for point in lane.points]
        for name in ("held", "free")
        for lane in routes[name].lanes
    }
    # A batch of 8 needs half of the SMs and has a quarter; one of 1 has what it needs.
    assert points == {"free": [(1, 0.01), (8, 0.04)], "held": [(1, 0.01), (8, 0.08)]}
    # Two batches of 8 that take 0.6 of the device, or half of that for twice as long.
    assert routes["free"].lanes[0].slowdown == pytest.approx(1.2 * 1.1)
    assert routes["held"].lanes[0].slowdown == pytest.approx(1.1)


async def test_a_profile_stored_with_one_figure_for_all_sizes_still_routes(world: World) -> None:
    old = convert.profile_to_proto(PROFILE)
    del old.demand[:]
    old.demand_fraction = 0.9
    world.profile(old)
    world.node("n", "m")
    world.serve("m", on("n"))
    assert world.views.routes()["m"].lanes[0].slowdown == pytest.approx(1.8 * 1.1)


async def test_a_route_tells_how_its_policy_dispatches(world: World) -> None:
    world.node("n", "m")
    world.serve("m", on("n"))
    world.state.models.rows["m"].message.serving.spec.slo.latency.FromMilliseconds(200)
    told = {
        name: world.under(policy_named(name)).routes()["m"]
        for name in ("paldia", "molecule-cost", "infless-llama-cost")
    }
    ways = {
        name: (it.late_keep_turn, it.unteachable, convert.seconds(it.linger))
        for name, it in told.items()
    }
    assert ways == {
        "paldia": (False, False, 0.0),
        "molecule-cost": (True, False, 0.0),
        "infless-llama-cost": (True, True, 0.2),
    }
    assert told["paldia"].lanes[0].slowdowns == pytest.approx([1.0, 1.2 * 1.1])
    assert told["infless-llama-cost"].lanes[0].slowdowns == [1.0, 1.0]


async def test_a_nodes_cost_goes_to_the_models_by_their_predicted_use(world: World) -> None:
    world.node("a", "big", "small")
    world.node("b", "big")
    world.serve("big", on("a"), on("b"))
    world.serve("small", on("a", batch=1))
    world.rates(big=100.0, small=50.0)
    ledger = world.views.settled(Ledger(1000.0, {}, {"a": 3600.0, "b": 3600.0}), 1010.0)
    # 50 requests/s a node / 8 x 40 ms x 0.6 on each of two; 50 x 10 ms x 0.2 on one.
    assert ledger.model_usd == pytest.approx({"big": 2 * 10 * 0.15, "small": 10 * 0.1})
    assert ledger.idle_usd == pytest.approx(20 - 3 - 1)
    assert ledger.running == {"a": 3600.0, "b": 3600.0}


async def test_what_still_serves_in_place_of_what_starts_is_charged(world: World) -> None:
    world.node("old", "m")
    world.node("new")
    world.serve("m", on("new"), retiring=(on("old"),))
    world.rates(m=100.0)
    ledger = Ledger(1000.0, {}, {"old": 3600.0, "new": 3600.0})
    assert world.views.settled(ledger, 1010.0).idle_usd == pytest.approx(20 - 3)
    world.clock.now_s += TAKEOVER_S
    world.node("new", "m")
    only_new = {"old": 3600.0}
    assert world.views.settled(Ledger(1000.0, {}, only_new), 1010.0).model_usd == {}


async def test_two_artifacts_of_a_model_on_one_node_are_charged_together(world: World) -> None:
    world.profile(convert.profile_to_proto(PROFILE), OLD_DIGEST)
    world.node("n", "m")
    world.node("starting")
    world.serve("m", on("n"), on("starting"), retiring=(on("n", digest=OLD_DIGEST),))
    world.rates(m=100.0)
    ledger = world.views.settled(Ledger(1000.0, {}, {"n": 3600.0}), 1010.0)
    assert ledger.model_usd == pytest.approx({"m": 3.0})


async def test_without_a_profile_or_a_rate_the_node_is_idle(world: World) -> None:
    world.node("n", "m")
    world.serve("m", on("n"))
    ledger = Ledger(1000.0, {}, {"n": 3600.0})
    assert world.views.settled(ledger, 1010.0).model_usd == {"m": 0.0}
    world.profile(types_pb2.Profile(failure="out of memory"))
    world.rates(m=100.0)
    assert world.views.settled(ledger, 1010.0).idle_usd == pytest.approx(10)


async def test_power_is_measured_where_the_gpus_tell_it_and_estimated_elsewhere(
    world: World,
) -> None:
    world.node("measured", "m", watts=(25.0, 40.0), rated_watts=70.0)
    world.node("mute", "m", watts=(25.0, None), idle_watts=10.0, rated_watts=70.0)
    world.node("unknown", "m")
    world.serve("m", on("measured"), on("mute"), on("unknown"))
    world.rates(m=300.0)
    running = dict.fromkeys(("measured", "mute", "unknown"), 1.0)
    ledger = world.views.settled(Ledger(1000.0, {}, running), 1010.0)
    # Each takes 100 requests/s: 0.3 of the device.
    assert ledger.energy == {
        "measured": Energy(measured_j=650.0),
        "mute": Energy(estimated_j=pytest.approx(10 * (10 + 0.3 * 60))),
    }
    mute = world.views.node("mute", ledger)
    assert mute.energy_joules == mute.estimated_energy_joules == pytest.approx(280)
    assert not world.views.node("measured", ledger).estimated_energy_joules


async def test_a_node_shows_what_it_cost_as_last_saved(world: World) -> None:
    world.node("n")
    saved = Ledger(0.0, {"n": 2.5}, energy={"n": Energy(30.0, 12.0)})
    planner = state_pb2.StoredPlanner(ledger=encoding.ledger_to_proto(saved))
    world.store(world.state.planner, "state", planner)
    (node,) = world.views.nodes()
    assert (node.cost_usd, node.energy_joules, node.estimated_energy_joules) == (2.5, 42.0, 12.0)


async def test_a_node_shows_what_its_agent_warns_of(world: World) -> None:
    world.node("n")
    session = world.observer.agents["n"]
    world.observer.agent_reported(session, agent_pb2.NodeReport(warnings=["no MPS", "no light"]))
    assert list(world.views.node("n").warnings) == ["no MPS", "no light"]


async def test_a_node_that_loses_its_shares_of_the_sms_says_so_on_its_way(world: World) -> None:
    world.node("n", gpus=[GPU], sm_shares=True)
    session = world.observer.agents["n"]
    told = agent_pb2.NodeInfo()
    told.CopyFrom(session.info)
    told.hardware.sm_shares = False
    seen = world.observer.changed.count
    world.observer.agent_changed(session, told)
    (node,) = world.observer.nodes()
    assert not node.hardware.sm_shares
    assert world.observer.changed.count > seen
    other = agent_pb2.NodeInfo(node_id="other", hardware=told.hardware)
    with pytest.raises(InvalidArgumentError, match="another"):
        world.observer.agent_changed(session, other)


async def test_the_planner_sees_all_of_a_machine(world: World) -> None:
    world.node(
        "n",
        cores=4,
        gpus=[GPU],
        sm_shares=True,
        activation=convert.duration(42),
        idle_watts=10.0,
        rated_watts=70.0,
    )
    (node,) = world.observer.nodes()
    assert node.state is NodeState.PARKED
    assert node.hardware == Hardware("gpu", 3600.0, 15 << 30, 4, 1, True, 42.0, 10.0, 70.0)


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"price_usd_per_hour": -1.0}, "price must be 0 USD/h or more, not -1"),
        ({"price_usd_per_hour": float("nan")}, "price"),
        ({"activation": convert.duration(-1)}, "activation time must be 0 s or more"),
        ({"idle_watts": -5.0}, "idle power must be 0 W or more"),
        ({"rated_watts": float("inf")}, "rated power"),
    ],
)
async def test_a_machine_whose_figures_make_no_sense_is_refused(
    world: World, figure: dict[str, object], words: str
) -> None:
    hardware = types_pb2.Hardware(name="gpu", **figure)
    with pytest.raises(InvalidArgumentError, match=words):
        world.observer.agent_connected(agent_pb2.NodeInfo(node_id="n", hardware=hardware))


def test_the_bill_survives_its_store() -> None:
    ledger = Ledger(
        1000.5,
        cost_usd={"a": 1.0, "b": 2.0},
        running={"b": 0.5},
        model_usd={"m": 0.75, "k": 0.25},
        idle_usd=2.0,
        energy={"a": Energy(3.0, 4.0)},
    )
    stored = encoding.ledger_to_proto(ledger).SerializeToString()
    assert encoding.ledger_from_proto(state_pb2.StoredLedger.FromString(stored)) == ledger
    assert encoding.ledger_from_proto(state_pb2.StoredLedger()) == Ledger(0.0)
    unused = Ledger(10.0, cost_usd={"a": 1.0}, idle_usd=1.0)
    assert encoding.ledger_from_proto(encoding.ledger_to_proto(unused)) == unused


def test_a_bill_from_before_models_were_told_apart_still_adds_up() -> None:
    stored = state_pb2.StoredLedger(cost_usd={"a": 1.0, "b": 2.0}, running={"a": 3600.0})
    ledger = encoding.ledger_from_proto(stored).settle(1.0, {}, {"a": {"m": 0.25}})
    assert ledger.model_usd == pytest.approx({FORMER_MODELS: 3.0, "m": 0.25})
    assert sum(ledger.model_usd.values()) + ledger.idle_usd == pytest.approx(ledger.total_usd)


def test_a_plan_keeps_the_sm_share_of_its_processes() -> None:
    plan = ModelPlan("m", 3, (on("a", sm_percent=40),), (on("b"),), since_s=7.0)
    stored = encoding.plan_to_proto(plan).SerializeToString()
    assert encoding.plan_from_proto(state_pb2.StoredPlan.FromString(stored)) == plan
