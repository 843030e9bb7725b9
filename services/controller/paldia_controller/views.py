"""From plans and reports to what others are told: desired state, routes and status.

Pure functions of one picture; the streams send what they give.
"""

from __future__ import annotations

from collections.abc import Mapping

from tritonclient.grpc import model_config_pb2

from paldia.api import convert, machines
from paldia.api.v1 import agent_pb2, routing_pb2, state_pb2, types_pb2
from paldia.core.baselines import PALDIA, Policy
from paldia.core.ledger import Energy, Ledger
from paldia.core.types import NodeState
from paldia_controller import billing, encoding, rollout
from paldia_controller.observer import Observer
from paldia_controller.profiling import Profiling
from paldia_controller.provisions import Provision
from paldia_controller.state import State, profile_key


class Views:
    """What follows from the state, the reports and the measurements under way."""

    def __init__(
        self, state: State, observer: Observer, profiling: Profiling, policy: Policy = PALDIA
    ) -> None:
        self._state = state
        self._observer = observer
        self._profiling = profiling
        self._policy = policy
        self._routes: dict[str, routing_pb2.ModelRoute] = {}
        self._routes_of: tuple[int, int] | None = None

    def desired(self, node_id: str) -> agent_pb2.ConnectAgentResponse:
        """Give all that a node should hold and do."""
        deployments = [
            agent_pb2.DesiredDeployment(
                model=name,
                artifact_digest=placement.artifact_digest,
                lanes=placement.lanes,
                sm_percent=placement.sm_percent,
            )
            for name, record in sorted(self._state.plans.rows.items())
            for placement in (*record.message.target, *record.message.retiring)
            if placement.node_id == node_id
        ]
        return agent_pb2.ConnectAgentResponse(
            deployments=deployments, profile_tasks=self._profiling.task_messages(node_id)
        )

    def routes(self) -> dict[str, routing_pb2.ModelRoute]:
        """Give every model's route, by name; all streams share what is made for one change."""
        seen = self._state.changed.count, self._observer.changed.count
        if self._routes_of != seen:
            self._routes_of = seen
            self._routes = {
                name: self._route(record.message)
                for name, record in sorted(self._state.models.rows.items())
            }
        return self._routes

    def _route(self, model: types_pb2.Model) -> routing_pb2.ModelRoute:
        revision = model.serving if model.HasField("serving") else model.candidate
        route = routing_pb2.ModelRoute(
            model=model.name,
            generation=revision.generation,
            slo=revision.spec.slo,
            on_overload=revision.spec.on_overload,
            late_keep_turn=not self._policy.late_yields,
            linger=convert.duration(
                self._policy.linger_s(convert.seconds(revision.spec.slo.latency))
            ),
            unteachable=not self._policy.sees_interference,
        )
        if not model.HasField("serving"):
            if model.HasField("candidate"):
                route.state = routing_pb2.ROUTE_STATE_LOADING
                route.reason = "its first revision is being measured"
            else:
                route.state = routing_pb2.ROUTE_STATE_FAILED
                route.reason = model.last_failure.reason
            return route
        config = self._state.configs.get(revision.spec.artifact_digest)
        route.model_config = _named(config.model_config, model.name) if config else b""
        plan = self._state.plans.get(model.name)
        route.lanes.extend(self._lanes(model.name, plan) if plan else [])
        route.slo_unreachable = plan is not None and plan.slo_unreachable
        route.state = (
            routing_pb2.ROUTE_STATE_READY if route.lanes else routing_pb2.ROUTE_STATE_LOADING
        )
        return route

    def _lanes(self, model: str, plan: state_pb2.StoredPlan) -> list[routing_pb2.Lane]:
        return [
            self._lane(placement, status)
            for placement in self._serving(model, plan)
            if (status := self._status(model, placement)) is not None
        ]

    def _serving(self, model: str, plan: state_pb2.StoredPlan) -> list[types_pb2.Placement]:
        """Give the ready places: the target's, and the retiring ones while any of it is not."""

        def ready(placement: types_pb2.Placement) -> bool:
            status = self._status(model, placement)
            return status is not None and status.state == types_pb2.PLACEMENT_STATE_READY

        serving = [placement for placement in plan.target if ready(placement)]
        if len(serving) < len(plan.target):
            serving += [placement for placement in plan.retiring if ready(placement)]
        return serving

    def _status(
        self, model: str, placement: types_pb2.Placement
    ) -> agent_pb2.DeploymentStatus | None:
        return self._observer.deployment(placement.node_id, model, placement.artifact_digest)

    def _lane(
        self, placement: types_pb2.Placement, status: agent_pb2.DeploymentStatus
    ) -> routing_pb2.Lane:
        lane = routing_pb2.Lane(
            node_id=placement.node_id,
            hardware=placement.hardware,
            endpoint=status.endpoint,
            # While Triton is changing the instance count, the smaller one holds.
            count=max(1, min(placement.lanes, status.lanes or placement.lanes)),
            batch_size=placement.batch_size,
            slowdown=1.0,
            emulated=self._observer.hardware(placement.node_id).emulated,
            artifact_digest=placement.artifact_digest,
        )
        key = profile_key(placement.artifact_digest, placement.hardware)
        profile = self._observer.knowledge.profile(key)
        if profile is not None:
            # Its own, not the plan's: a changed share waits for another process.
            sm_percent = convert.sm_percent_from_proto(status.sm_percent)
            for batch, _ in profile.points:
                latency = convert.duration(profile.latency_s(batch, sm_percent))
                lane.points.add(batch_size=batch, latency=latency)
            lane.correction = self._observer.knowledge.applied(key)
            demand = profile.demand_fraction(max(1, lane.batch_size), sm_percent)
            lane.slowdowns.extend(self._policy.slowdowns(profile, demand, lane.count))
            lane.slowdown = lane.slowdowns[-1]
        return lane

    def model(self, name: str) -> types_pb2.Model | None:
        """Give a model with its observed status, None if there is none of that name."""
        record = self._state.models.rows.get(name)
        if record is None:
            return None
        model = types_pb2.Model()
        model.CopyFrom(record.message)
        model.resource_version = record.revision
        plan = self._state.plans.get(name)
        for placement in (*plan.target, *plan.retiring) if plan else ():
            model.status.placements.append(self._observed(name, placement))
        model.status.slo_unreachable = plan is not None and plan.slo_unreachable
        model.status.phase, model.status.reason = self._phase(model, plan)
        remembered = self._state.memories.get(name)
        if remembered is not None:
            model.status.requests_per_second = remembered.requests_per_second
        return model

    @property
    def rates(self) -> Mapping[str, float]:
        """Give the requests per second of each model, as the planner last saved them."""
        rows = self._state.memories.rows
        return {name: row.message.requests_per_second for name, row in rows.items()}

    def models(self) -> dict[str, types_pb2.Model]:
        """Give all models with their status, by name."""
        names = sorted(self._state.models.rows)
        return {name: model for name in names if (model := self.model(name)) is not None}

    def _observed(self, model: str, placement: types_pb2.Placement) -> types_pb2.Placement:
        observed = types_pb2.Placement()
        observed.CopyFrom(placement)
        status = self._status(model, placement)
        observed.state = status.state if status else types_pb2.PLACEMENT_STATE_LOADING
        if status is not None:
            observed.endpoint, observed.reason = status.endpoint, status.reason
        return observed

    def _phase(
        self, model: types_pb2.Model, plan: state_pb2.StoredPlan | None
    ) -> tuple[types_pb2.ModelPhase.ValueType, str]:
        if not model.HasField("serving"):
            if not model.HasField("candidate"):
                return types_pb2.MODEL_PHASE_FAILED, model.last_failure.reason
            return types_pb2.MODEL_PHASE_PROFILING, self.candidate_waits_for(model)
        ready = [
            placement
            for placement in model.status.placements
            if placement.state == types_pb2.PLACEMENT_STATE_READY
        ]
        if ready:
            return types_pb2.MODEL_PHASE_READY, ""
        if plan is not None and plan.target:
            reasons = [p.reason for p in model.status.placements if p.reason]
            return types_pb2.MODEL_PHASE_STARTING, "; ".join(reasons)
        if plan is not None and model.serving.spec.min_replicas == 0:
            return types_pb2.MODEL_PHASE_COLD, "unused; the first request loads it"
        if plan is None:
            return types_pb2.MODEL_PHASE_STARTING, "about to be placed"
        reason = f"no node can take it; see `paldia explain {model.name}`"
        return types_pb2.MODEL_PHASE_UNPLACED, reason

    def candidate_waits_for(self, model: types_pb2.Model) -> str:
        """Say what a model's candidate waits for."""
        profiles = {key: row.message for key, row in self._state.profiles.rows.items()}
        return rollout.waiting_for(model, profiles, self._observer.nodes())

    def node(self, node_id: str, ledger: Ledger | None = None) -> types_pb2.Node:
        """Give a node that is known, with what it cost by `ledger`.

        The bill as it was last saved, if none is given.
        """
        ledger = ledger or self._saved_ledger()
        energy = ledger.energy.get(node_id, Energy())
        observer = self._observer
        session = observer.present(node_id)
        report = session.report if session else agent_pb2.NodeReport()
        state = observer.node_state(node_id, observer.occupied_nodes())
        node = types_pb2.Node(
            id=node_id,
            hardware=observer.hardware(node_id),
            state=machines.node_state_to_proto(state),
            utilisation=report.utilisation,
            models=[
                status.model
                for status in report.deployments
                if status.state == types_pb2.PLACEMENT_STATE_READY
            ],
            problem=report.problem or observer.note(node_id),
            cost_usd=ledger.cost_usd.get(node_id, 0.0),
            energy_joules=energy.total_j,
            estimated_energy_joules=energy.estimated_j,
            warnings=report.warnings,
        )
        if session is not None:
            node.last_report_at.CopyFrom(convert.timestamp(session.reported_wall_s))
        if state is NodeState.LOST and not node.problem:
            node.problem = "its agent is silent"
        return node

    def nodes(self, ledger: Ledger | None = None) -> list[types_pb2.Node]:
        """Give all nodes, by id; see `node`."""
        ledger = ledger or self._saved_ledger()
        return [self.node(node_id, ledger) for node_id in self._observer.node_ids()]

    def settled(
        self, ledger: Ledger, now_s: float, changes: Mapping[str, Provision] = {}
    ) -> Ledger:
        """Give the bill with everything up to `now_s`, in UTC seconds, charged to it.

        From there it runs on what is paid for after `changes` of the fleet's machines.
        """
        serving = {
            name: self._serving(name, record.message)
            for name, record in self._state.plans.rows.items()
        }
        busy = billing.busy_shares(self._observer.knowledge, serving, self.rates)
        drawn = billing.draws(self._observer, ledger.running, busy)
        return ledger.settle(now_s, self.running(changes), busy, drawn)

    def running(self, changes: Mapping[str, Provision] = {}) -> dict[str, float]:
        """Give the price in dollars per hour of each node that is paid for now.

        Machines of the fleet are paid for from their activation until they have been given
        back, others while they are in use. A lost node that a model is still planned on may
        well be running: it is paid for until the model has found another place.
        """
        observer = self._observer
        others = observer.occupied_nodes() & observer.agents.keys() - observer.fleet.ids
        prices = {
            node_id: observer.agents[node_id].info.hardware.price_usd_per_hour for node_id in others
        }
        return dict(sorted((prices | observer.fleet.prices(changes)).items()))

    def _saved_ledger(self) -> Ledger:
        planner = self._state.planner.get("state")
        return encoding.ledger_from_proto(planner.ledger) if planner else Ledger(0.0)


def _named(model_config: bytes, name: str) -> bytes:
    """Give a model config under the model's own name.

    It was completed once for the artifact, which may be deployed under several names, and
    every Triton holds the model under its own.
    """
    config = model_config_pb2.ModelConfig()
    config.ParseFromString(model_config)
    config.name = name
    encoded: bytes = config.SerializeToString(deterministic=True)
    return encoded
