"""How a model's record is changed: validated, numbered, and never over somebody else's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from paldia.api import convert
from paldia.api.v1 import types_pb2
from paldia.core.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
)
from paldia.core.types import NAME_LIMIT
from paldia.kit.clock import Clock
from paldia.kit.lifecycle import sleep_unless
from paldia.kit.observability import logger
from paldia.store.base import Delete, Put, StoreConflictError
from paldia_controller.artifacts import Artifacts
from paldia_controller.state import State

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{NAME_LIMIT - 1}}}")
ATTEMPTS = 5
"""Tries of a change that others keep getting in the way of."""


class ModelWriter:
    """Writes models' records."""

    def __init__(
        self, state: State, artifacts: Artifacts, clock: Clock, stop: asyncio.Event
    ) -> None:
        self._state = state
        self._artifacts = artifacts
        self._clock = clock
        self._stop = stop

    async def deploy(self, spec: types_pb2.ModelSpec) -> None:
        """Accept a revision of a model, known or not.

        Raises:
            InvalidArgumentError: the spec is wrong.
            NotFoundError: its artifact has not been uploaded.
            ConflictError: others keep changing the model.
        """
        await self._change(spec.name, lambda known: self._revised(known, spec))

    async def update(self, spec: types_pb2.ModelSpec, resource_version: int) -> None:
        """Change a known model; the artifact stays where none is named.

        Raises:
            ConflictError: `resource_version` is not 0 and the record has changed since,
                or others keep changing it.
            InvalidArgumentError, NotFoundError: as for `deploy`.
        """

        def revise(known: types_pb2.Model | None) -> types_pb2.Model:
            if known is None:
                raise NotFoundError.of("model", spec.name)
            revision = self._state.models.rows[spec.name].revision
            if resource_version not in (0, revision):
                raise ConflictError(
                    f"model {spec.name!r} was changed meanwhile (version {revision}, not "
                    f"{resource_version}); read it again and repeat the change"
                )
            wanted = types_pb2.ModelSpec()
            wanted.CopyFrom(spec)
            wanted.artifact_digest = wanted.artifact_digest or newest(known).spec.artifact_digest
            if not wanted.artifact_digest:
                raise NotServableError(f"model {spec.name!r} has never loaded; deploy it again")
            return self._revised(known, wanted)

        await self._change(spec.name, revise)

    async def remove(self, name: str) -> None:
        """Remove a model.

        Raises:
            NotFoundError: there is none of that name.
        """
        if self._state.models.get(name) is None:
            raise NotFoundError.of("model", name)
        await self._state.commit([self._state.models.delete(name)], [])
        logger().info("model.removed", model=name)

    def _revised(self, known: types_pb2.Model | None, spec: types_pb2.ModelSpec) -> types_pb2.Model:
        """Give the record with a new candidate."""
        if not _NAME.fullmatch(spec.name):
            raise InvalidArgumentError(
                f"{spec.name!r} is no model name; use letters, digits, '.', '_' and '-', "
                f"at most {NAME_LIMIT} of them, beginning with a letter or digit"
            )
        self._artifacts.refresh(spec.artifact_digest)
        model = types_pb2.Model(name=spec.name)
        generation = 0
        if known is not None:
            model.CopyFrom(known)
            generation = max(newest(known).generation, known.last_failure.generation)
        # Decoding checks the ranges, before anything is written.
        convert.model_from_proto(spec, generation + 1)
        model.candidate.Clear()
        model.candidate.generation = generation + 1
        model.candidate.spec.CopyFrom(spec)
        model.candidate.created_at.CopyFrom(convert.timestamp(self._clock.wall_s()))
        return model

    async def _change(
        self, name: str, revise: Callable[[types_pb2.Model | None], types_pb2.Model]
    ) -> None:
        """Write a model's record; try again if somebody else got in between.

        What could not be measured before is measured anew: its cause may be gone.
        """
        for _ in range(ATTEMPTS):
            revised = revise(self._state.models.get(name))
            digest = revised.candidate.spec.artifact_digest
            writes: list[Put | Delete] = [self._state.models.put(name, revised)]
            writes += [
                self._state.profiles.delete(key)
                for key, row in sorted(self._state.profiles.rows.items())
                if key.startswith(f"{digest}/") and row.message.failure
            ]
            try:
                await self._state.commit(writes, [self._state.models.unchanged(name)])
            except StoreConflictError:
                await sleep_unless(self._stop, 0.02)
                continue
            logger().info("model.accepted", model=name, generation=revised.candidate.generation)
            return
        raise ConflictError(f"model {name!r} is being changed by others all the time; try again")


def newest(model: types_pb2.Model) -> types_pb2.ModelRevision:
    """Give a model's candidate, or what serves where there is none."""
    return model.candidate if model.HasField("candidate") else model.serving
