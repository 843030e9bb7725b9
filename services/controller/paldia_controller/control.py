"""What users ask: deploy, change, list, explain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from paldia import __version__
from paldia.api import convert
from paldia.api.decisions import decision_to_proto
from paldia.api.v1 import control_pb2, control_pb2_grpc, state_pb2, types_pb2
from paldia.core.errors import (
    NotFoundError,
    NotServableError,
    UnavailableError,
)
from paldia.kit.clock import Clock
from paldia.kit.lifecycle import wait_any
from paldia.kit.observability import logger
from paldia.kit.rpc import Context
from paldia_controller.artifacts import Artifacts
from paldia_controller.observer import Observer
from paldia_controller.planner import Planner
from paldia_controller.profiling import Profiling
from paldia_controller.recall import record_at
from paldia_controller.state import State, profile_key
from paldia_controller.views import Views
from paldia_controller.writing import ModelWriter, newest

PROFILE_LIMIT_S = 170.0
"""Longest wait for a measurement that was asked for."""
PROGRESS_EVERY_S = 0.5


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """Serves users and tools."""

    def __init__(
        self,
        state: State,
        observer: Observer,
        profiling: Profiling,
        planner: Planner,
        *,
        views: Views,
        artifacts: Artifacts,
        writer: ModelWriter,
        clock: Clock,
        controller_id: str,
        stop: asyncio.Event,
    ) -> None:
        self._state = state
        self._observer = observer
        self._profiling = profiling
        self._planner = planner
        self._views = views
        self._artifacts = artifacts
        self._writer = writer
        self._clock = clock
        self._id = controller_id
        self._stop = stop
        self._started_s = clock.wall_s()

    async def UploadArtifact(  # noqa: N802 - named by the protocol
        self, requests: AsyncIterator[control_pb2.UploadArtifactRequest], context: Context
    ) -> control_pb2.UploadArtifactResponse:
        """Store a packed model folder."""
        digest = await self._artifacts.receive(aiter(requests))
        logger().info("artifact.stored", digest=digest)
        return control_pb2.UploadArtifactResponse(digest=digest)

    async def DeployModel(  # noqa: N802 - named by the protocol
        self, request: control_pb2.DeployModelRequest, context: Context
    ) -> control_pb2.DeployModelResponse:
        """Accept a revision of a model."""
        await self._writer.deploy(request.spec)
        return control_pb2.DeployModelResponse(model=self._model(request.spec.name))

    async def UpdateModel(  # noqa: N802 - named by the protocol
        self, request: control_pb2.UpdateModelRequest, context: Context
    ) -> control_pb2.UpdateModelResponse:
        """Change a model's objective, unless somebody else changed it first."""
        await self._writer.update(request.spec, request.resource_version)
        return control_pb2.UpdateModelResponse(model=self._model(request.spec.name))

    async def UndeployModel(  # noqa: N802 - named by the protocol
        self, request: control_pb2.UndeployModelRequest, context: Context
    ) -> control_pb2.UndeployModelResponse:
        """Remove a model."""
        await self._writer.remove(request.name)
        return control_pb2.UndeployModelResponse()

    async def ListModels(  # noqa: N802 - named by the protocol
        self, request: control_pb2.ListModelsRequest, context: Context
    ) -> control_pb2.ListModelsResponse:
        """List every model."""
        return control_pb2.ListModelsResponse(models=self._views.models().values())

    async def GetModel(  # noqa: N802 - named by the protocol
        self, request: control_pb2.GetModelRequest, context: Context
    ) -> control_pb2.GetModelResponse:
        """Describe one model."""
        return control_pb2.GetModelResponse(model=self._model(request.name))

    async def WatchModels(  # noqa: N802 - named by the protocol
        self, request: control_pb2.WatchModelsRequest, context: Context
    ) -> AsyncIterator[control_pb2.WatchModelsResponse]:
        """Send all models, then each change."""
        told: dict[str, types_pb2.Model] | None = None
        while not self._stop.is_set():
            seen = self._state.changed.count, self._observer.changed.count
            models = self._views.models()
            if request.name:
                models = {name: m for name, m in models.items() if name == request.name}
            before = told or {}
            changed = [model for name, model in models.items() if before.get(name) != model]
            removed = sorted(before.keys() - models.keys())
            if told is None or changed or removed:
                yield control_pb2.WatchModelsResponse(
                    snapshot=told is None, models=changed, removed=removed
                )
            told = models
            await wait_any(
                [
                    self._state.changed.beyond(seen[0]),
                    self._observer.changed.beyond(seen[1]),
                    self._stop.wait(),
                ],
                timeout_s=1.0,
            )

    async def ExplainModel(  # noqa: N802 - named by the protocol
        self, request: control_pb2.ExplainModelRequest, context: Context
    ) -> control_pb2.ExplainModelResponse:
        """Give a model's decisions, newest first, and the profiles they rest on."""
        model = self._model(request.name)
        keys = sorted(
            (key for key in self._state.decisions.rows if key.startswith(f"{request.name}/")),
            reverse=True,
        )
        latest = self._planner.latest.get(request.name)
        return control_pb2.ExplainModelResponse(
            model=model,
            current=decision_to_proto(*latest) if latest else None,
            decisions=[
                self._state.decisions.rows[key].message for key in keys[: max(1, request.limit)]
            ],
            profiles=self._observer.knowledge.told(newest(model).spec.artifact_digest),
        )

    async def GetDecision(  # noqa: N802 - named by the protocol
        self, request: control_pb2.GetDecisionRequest, context: Context
    ) -> control_pb2.GetDecisionResponse:
        """Give the record of a model that was in force at some time."""
        at_s = convert.wall_s(request.at) if request.HasField("at") else None
        name = self._model(request.name).name
        return record_at(self._state, name, at_s, with_step=request.with_step)

    async def ProfileModel(  # noqa: N802 - named by the protocol
        self, request: control_pb2.ProfileModelRequest, context: Context
    ) -> AsyncIterator[control_pb2.ProfileModelResponse]:
        """Measure a model anew: say how far it is, then what came of it."""
        digest = newest(self._model(request.name)).spec.artifact_digest
        if not digest:
            raise NotServableError(f"model {request.name!r} has never loaded; deploy it again")
        present = {
            node.hardware.name
            for node in self._observer.nodes()
            if node.usable and request.hardware in ("", node.hardware.name)
        }
        if not present:
            kind = f" of kind {request.hardware!r}" if request.hardware else ""
            raise NotServableError(f"no usable node{kind} is connected")
        keys = {profile_key(digest, hardware) for hardware in present}
        # The planner goes on with the old profiles until new ones replace them.
        self._profiling.repeat(keys, self._clock.wall_s(), full=not request.quick)
        self._observer.changed.fire()
        try:
            async for progress in self._measuring(keys):
                yield control_pb2.ProfileModelResponse(progress=progress)
        finally:
            self._profiling.forget(keys)
        outcomes = self._profiling.outcomes
        if not keys <= outcomes.keys():
            raise UnavailableError("the measurement was given up by another who asked for it")
        yield control_pb2.ProfileModelResponse(profiles=[outcomes[key] for key in sorted(keys)])

    async def _measuring(self, keys: set[str]) -> AsyncIterator[list[control_pb2.MeasureProgress]]:
        """Say how far it is with profiles that are measured anew, until all of them are."""
        started_s = self._clock.monotonic_s()
        told: list[control_pb2.MeasureProgress] = []
        while pending := self._profiling.repeating.keys() & keys:
            if self._clock.monotonic_s() - started_s > PROFILE_LIMIT_S:
                raise UnavailableError(
                    f"no result within {PROFILE_LIMIT_S:g} s; see the agents' logs"
                )
            if self._stop.is_set():
                raise UnavailableError("the controller is stopping")
            seen = self._state.changed.count
            reports = {name: session.report for name, session in self._observer.agents.items()}
            progress = self._profiling.progress(pending, reports)
            if progress != told:
                told = progress
                yield progress
            await wait_any(
                [self._state.changed.beyond(seen), self._stop.wait()], timeout_s=PROGRESS_EVERY_S
            )

    async def ListNodes(  # noqa: N802 - named by the protocol
        self, request: control_pb2.ListNodesRequest, context: Context
    ) -> control_pb2.ListNodesResponse:
        """List every node."""
        return control_pb2.ListNodesResponse(nodes=self._views.nodes())

    async def DrainNode(  # noqa: N802 - named by the protocol
        self, request: control_pb2.DrainNodeRequest, context: Context
    ) -> control_pb2.DrainNodeResponse:
        """Move everything off a node, or take it back into service."""
        if request.node_id not in self._observer.node_ids():
            raise NotFoundError.of("node", request.node_id)
        record = state_pb2.StoredNode(draining=not request.undo)
        await self._state.commit([self._state.nodes.put(request.node_id, record)], [])
        return control_pb2.DrainNodeResponse(node=self._views.node(request.node_id))

    async def GetStatus(  # noqa: N802 - named by the protocol
        self, request: control_pb2.GetStatusRequest, context: Context
    ) -> control_pb2.GetStatusResponse:
        """Sum up the cluster."""
        ledger = self._views.settled(self._planner.ledger, self._clock.wall_s())
        energy = ledger.total_energy
        return control_pb2.GetStatusResponse(
            controller_id=self._id,
            version=__version__,
            store=self._state.store.kind,
            frontends=[
                control_pb2.Frontend(
                    id=session.info.id,
                    address=session.info.address,
                    started_at=session.info.started_at,
                )
                for _, session in sorted(self._observer.frontends.items())
            ],
            nodes=self._views.nodes(ledger),
            models=self._views.models().values(),
            cost_usd=ledger.total_usd,
            cost_usd_per_hour=ledger.usd_per_hour,
            decisions=self._planner.decisions,
            moves=self._planner.moves,
            started_at=convert.timestamp(self._started_s),
            cost_usd_by_model=ledger.model_usd,
            idle_cost_usd=ledger.idle_usd,
            energy_joules=energy.total_j,
            estimated_energy_joules=energy.estimated_j,
            stale_profiles=self._observer.knowledge.stale_profiles(),
        )

    def _model(self, name: str) -> types_pb2.Model:
        model = self._views.model(name)
        if model is None:
            raise NotFoundError.of("model", name)
        return model
