"""What agents and frontends report, kept in memory and never in the store.

Turned into one consistent `Observation` for each step of the planner.
"""

from __future__ import annotations

from paldia.api import convert, machines
from paldia.api.v1 import agent_pb2, routing_pb2, types_pb2
from paldia.core.errors import ConflictError, InvalidArgumentError, OverloadedError
from paldia.core.observation import (
    DemandView,
    DeploymentView,
    ModelView,
    NodeView,
    Observation,
)
from paldia.core.types import NodeState
from paldia.kit.clock import Clock
from paldia_controller.checks import CheckMeter
from paldia_controller.demand import DemandMeter
from paldia_controller.encoding import plan_from_proto
from paldia_controller.fleet import Fleet
from paldia_controller.knowledge import ByHardware, Knowledge
from paldia_controller.sessions import AgentSession, FrontendSession, check_info
from paldia_controller.state import Signal, State, profile_key

NODE_LIFETIME_S = 10.0
"""A node whose agent has been silent for longer is lost."""
NODES_LIMIT = 4096
TAKEOVER_S = 3.0
"""A second agent may take a node's name once the first has been silent for this long."""


class Observer:
    """Holds the latest reports."""

    def __init__(self, state: State, clock: Clock, fleet: Fleet | None = None) -> None:
        self._state = state
        self.fleet = fleet or Fleet(state, {})
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._settled = False
        self.agents: dict[str, AgentSession] = {}
        self.frontends: dict[str, FrontendSession] = {}
        self.demand = DemandMeter()
        self.knowledge = Knowledge(state)
        self._checks = CheckMeter()
        self.profiling: frozenset[str] = frozenset()
        """Nodes that a model is being measured on."""
        self.changed = Signal()
        """Fires when a report says something that routes or plans depend on."""
        self.urgent = Signal()
        """Fires when a request waits for a model that isn't loaded."""

    def agent_connected(self, info: agent_pb2.NodeInfo) -> AgentSession:
        """Welcome an agent.

        Raises:
            InvalidArgumentError: it doesn't say who it is, its figures make no sense, or it is
                on another kind of machine than its node.
            ConflictError: another agent that is alive has that name.
            OverloadedError: there are as many nodes as there may be.
        """
        check_info(info)
        self.fleet.check(info)
        known = self.agents.get(info.node_id)
        now_s = self._clock.monotonic_s()
        if known and known.connected and now_s - known.last_report_s < TAKEOVER_S:
            raise ConflictError(
                f"node {info.node_id!r} is connected already; give this one another --node-id"
            )
        if known is None and len(self.agents) >= NODES_LIMIT:
            self._forget_lost()
        session = AgentSession(info, now_s, reported_wall_s=self._clock.wall_s())
        if known:
            session.report, session.heard = known.report, known.heard
        self.agents[info.node_id] = session
        self.changed.fire()
        return session

    def _forget_lost(self) -> None:
        """Make room for a node among those that are gone and that no plan counts on.

        Raises:
            OverloadedError: all of them are still there.
        """
        occupied = self.occupied_nodes()
        gone = [
            node_id
            for node_id in self.agents.keys() - occupied
            if self.node_state(node_id, occupied) is NodeState.LOST
        ]
        if not gone:
            raise OverloadedError(f"the fleet is at its limit of {NODES_LIMIT} nodes", 60.0)
        del self.agents[min(gone, key=lambda node_id: self.agents[node_id].last_report_s)]

    def agent_changed(self, session: AgentSession, info: agent_pb2.NodeInfo) -> None:
        """Take in that a node's hardware isn't what it was, such as one that lost its SM shares.

        Raises:
            InvalidArgumentError: its figures make no sense, or it is another node now.
        """
        check_info(info)
        names = session.info.node_id, session.info.hardware.name
        if names != (info.node_id, info.hardware.name):
            raise InvalidArgumentError(f"node {names[0]!r} can't become another on its way")
        session.info = info
        self.changed.fire()

    def agent_reported(self, session: AgentSession, report: agent_pb2.NodeReport) -> None:
        """Take in a report."""
        before, session.report = session.report, report
        if not session.heard:
            session.heard = True
            self.changed.fire()
        session.last_report_s = self._clock.monotonic_s()
        session.reported_wall_s = self._clock.wall_s()
        if (
            before.deployments != report.deployments
            or before.profile_results != report.profile_results
            or before.problem != report.problem
        ):
            self.changed.fire()

    def agent_disconnected(self, session: AgentSession) -> None:
        """Note that a stream ended; the node counts as lost only when it stays away."""
        session.connected = False
        self.changed.fire()

    def agent_forgotten(self, node_id: str) -> None:
        """Forget an agent whose machine is given back; its stream ends if it still has one."""
        if self.agents.pop(node_id, None) is not None:
            self.changed.fire()

    def silent_s(self, node_id: str) -> float:
        """How long a node has not been heard of, as far as this controller can know."""
        session = self.agents.get(node_id)
        return self._clock.monotonic_s() - (session.last_report_s if session else self._started_s)

    def is_here(self, node_id: str) -> bool:
        """Whether a node's agent is connected and has said how it is."""
        session = self.agents.get(node_id)
        alive = self.silent_s(node_id) <= NODE_LIFETIME_S
        return session is not None and session.connected and session.heard and alive

    def frontend_connected(
        self, info: routing_pb2.FrontendInfo, request: routing_pb2.ConnectFrontendRequest
    ) -> FrontendSession:
        """Welcome a frontend.

        Raises:
            InvalidArgumentError: it doesn't say who it is.
        """
        if not info.id:
            raise InvalidArgumentError("a frontend needs an id")
        session = self.frontends[info.id] = FrontendSession(info)
        self.demand.connect(info.id, request.demands, self._clock.monotonic_s())
        self._checks.connect(info.id, request.demands)
        return session

    def frontend_reported(
        self, session: FrontendSession, request: routing_pb2.ConnectFrontendRequest
    ) -> None:
        """Take in a frontend's counters; wake the planner if a model is missed."""
        if self.frontends.get(session.info.id) is not session:
            return
        frontend, now_s = session.info.id, self._clock.monotonic_s()
        self.demand.report(frontend, request.demands, now_s)
        for seen in self._checks.report(frontend, request.demands, now_s):
            key = profile_key(seen.digest, self.hardware(seen.node_id).name)
            if self.knowledge.heard(key, seen.mean_ratio, seen.batches):
                self.changed.fire()
        for demand in request.demands:
            plan = self._state.plans.get(demand.model)
            if demand.backlog and (plan is None or not plan.target):
                self.urgent.fire()

    def frontend_disconnected(self, session: FrontendSession) -> None:
        """Forget a frontend, unless a newer stream of it has taken over."""
        if self.frontends.get(session.info.id) is session:
            del self.frontends[session.info.id]
            self.demand.disconnect(session.info.id)
            self._checks.disconnect(session.info.id)

    def settled(self) -> bool:
        """Whether it is known how the planned nodes are; False for a while after a start.

        Until then nodes that haven't said a word are unknown, and neither plans nor routes
        may be made as if they were gone.
        """
        if not self._settled:
            heard = {node_id for node_id, session in self.agents.items() if session.heard}
            waited_s = self._clock.monotonic_s() - self._started_s
            expected = set(filter(self.fleet.is_expected, self.planned_nodes()))
            self._settled = expected <= heard or waited_s > NODE_LIFETIME_S
        return self._settled

    def planned_nodes(self) -> frozenset[str]:
        """Give the nodes that any model should be on."""
        return frozenset(
            placement.node_id
            for record in self._state.plans.rows.values()
            for placement in (*record.message.target, *record.message.retiring)
        )

    def occupied_nodes(self) -> frozenset[str]:
        """Give the nodes that are in use: they hold a model, or measure one."""
        return self.planned_nodes() | self.profiling

    def node_state(self, node_id: str, occupied: frozenset[str]) -> NodeState:
        """Give a node's state; `occupied` are the nodes in use."""
        stored = self._state.nodes.get(node_id)
        away = self.fleet.away(node_id)
        if away is None and self.silent_s(node_id) > NODE_LIFETIME_S:
            return NodeState.LOST
        if (stored is not None and stored.draining) or self.fleet.is_leaving(node_id):
            return NodeState.DRAINING
        if away is not None:
            return away
        in_use = node_id in occupied or self.fleet.provision(node_id) is not None
        return NodeState.ACTIVE if in_use else NodeState.PARKED

    def node_ids(self) -> list[str]:
        """Give all nodes: those that have connected, and those of the fleet."""
        return sorted(self.agents.keys() | self.fleet.ids)

    def present(self, node_id: str) -> AgentSession | None:
        """Give a node as its agent last reported it; None if there is none whose word counts."""
        return self.agents.get(node_id) if self.fleet.away(node_id) is None else None

    def note(self, node_id: str) -> str:
        """Say what whoever runs the fleet should know of a node's machine; empty if nothing."""
        return self.fleet.note(node_id, self._clock.wall_s())

    def hardware(self, node_id: str) -> types_pb2.Hardware:
        """Give a node's machine, as its agent and the fleet's file describe it."""
        session = self.present(node_id)
        if session is not None:
            return self.fleet.merged(node_id, session.info.hardware)
        return self.fleet.hardware(node_id) or types_pb2.Hardware()

    def deployment(
        self, node_id: str, model: str, digest: str
    ) -> agent_pb2.DeploymentStatus | None:
        """Give what a node last said of a model, None if nothing."""
        session = self.agents.get(node_id)
        for deployment in session.report.deployments if session else ():
            if deployment.model == model and deployment.artifact_digest == digest:
                return deployment
        return None

    def nodes(self) -> tuple[NodeView, ...]:
        """Give all nodes, by id."""
        occupied = self.occupied_nodes()
        return tuple(self._node(node_id, occupied) for node_id in self.node_ids())

    def _node(self, node_id: str, occupied: frozenset[str]) -> NodeView:
        session = self.present(node_id)
        report = session.report if session else agent_pb2.NodeReport()
        return NodeView(
            node_id=node_id,
            hardware=machines.hardware_from_proto(self.hardware(node_id)),
            state=self.node_state(node_id, occupied),
            deployments={
                (status.model, status.artifact_digest): DeploymentView(
                    convert.deployment_state_from_proto(status.state), status.reason
                )
                for status in report.deployments
            },
            problem=report.problem or self.fleet.problem(node_id, self._clock.wall_s()),
        )

    def observe(self) -> Observation:
        """Give the picture that the next step decides on; demand is counted from there."""
        serving = {
            name: record.message
            for name, record in sorted(self._state.models.rows.items())
            if record.message.HasField("serving")
        }
        nodes, demand = self.nodes(), self.demand.sample(serving, self._clock.monotonic_s())
        profiles = self.knowledge.for_planning(node.hardware for node in nodes)
        return Observation(
            now_s=self._clock.wall_s(),
            models=tuple(
                _model_view(model, demand[name], profiles) for name, model in serving.items()
            ),
            nodes=nodes,
            plan={
                name: plan_from_proto(record.message)
                for name, record in sorted(self._state.plans.rows.items())
            },
        )


def _model_view(
    model: types_pb2.Model, demand: DemandView, profiles: dict[str, ByHardware]
) -> ModelView:
    spec = convert.model_from_proto(model.serving.spec, model.serving.generation)
    return ModelView(spec, demand, profiles.get(spec.artifact_digest, {}))
