"""Forgets what no model refers to any more: artifacts, and what was measured of them."""

from __future__ import annotations

import asyncio

from paldia.core.errors import ConflictError, UnavailableError
from paldia.kit.clock import Clock
from paldia.kit.lifecycle import sleep_unless
from paldia.kit.observability import logger
from paldia.store.base import COMMIT_LIMIT_WRITES
from paldia_controller.artifacts import Artifacts
from paldia_controller.state import State

KEEP_S = 3600.0
"""An artifact younger than this may be about to be deployed."""
EVERY_S = 300.0


class Retention:
    """Looks now and then for what can go."""

    def __init__(self, state: State, artifacts: Artifacts, clock: Clock) -> None:
        self._state = state
        self._artifacts = artifacts
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Forget until `stop`."""
        while not await sleep_unless(stop, EVERY_S):
            try:
                await self.forget(KEEP_S)
            except (ConflictError, UnavailableError, TimeoutError) as error:
                logger().warning("retention.retry", reason=str(error) or "the store is slow")

    async def forget(self, keep_s: float) -> None:
        """Remove artifacts stored longer than `keep_s` seconds ago that no model refers to.

        What was measured of an artifact goes first: a profile without its artifact would
        be kept for ever, an artifact without profiles is found again the next time.
        """
        for digest in sorted(self._forgettable(keep_s)):
            writes = [
                table.delete(key)
                for table in (self._state.profiles, self._state.configs)
                for key in table.rows
                if key.partition("/")[0] == digest
            ]
            if writes:
                await self._state.commit(writes[:COMMIT_LIMIT_WRITES], [])
            # It may have been deployed meanwhile.
            if digest in self._forgettable(keep_s):
                self._artifacts.remove(digest)
                logger().info("artifact.removed", digest=digest)

    def _forgettable(self, keep_s: float) -> set[str]:
        used = {
            revision.spec.artifact_digest
            for record in self._state.models.rows.values()
            for revision in (record.message.serving, record.message.candidate)
        }
        return self._artifacts.stored_before(self._clock.wall_s() - keep_s) - used
