"""The store's contents as messages: which key holds what, and a copy in memory.

`State` follows the store by its watch, so all reads are of one picture and cost nothing.
Writers commit to the store with the revisions they read and wait until the copy has
caught up. Nothing else in the controller knows keys or encodings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from paldia.api.v1 import state_pb2, types_pb2
from paldia.kit.observability import logger
from paldia.store.base import Change, Delete, Expect, Put, Resync, Store

ROOT = "paldia/v1/"
DECISIONS_KEPT = 50
"""Decisions remembered of each model."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Record(Generic[M]):
    """A stored message and the revision that wrote it."""

    message: M
    revision: int


class Table(Generic[M]):
    """All messages under one prefix, by the rest of their key."""

    def __init__(self, name: str, kind: Callable[[], M]) -> None:
        self.prefix = f"{ROOT}{name}/"
        self._kind = kind
        self.rows: dict[str, Record[M]] = {}

    def get(self, name: str) -> M | None:
        """Give one message, None if absent; it must not be changed."""
        record = self.rows.get(name)
        return record.message if record else None

    def put(self, name: str, message: M) -> Put:
        """Give the write that stores a message."""
        return Put(self.prefix + name, message.SerializeToString(deterministic=True))

    def delete(self, name: str) -> Delete:
        """Give the write that deletes a message."""
        return Delete(self.prefix + name)

    def unchanged(self, name: str) -> Expect:
        """Give the condition that the message is still as it was read here."""
        record = self.rows.get(name)
        return Expect(self.prefix + name, record.revision if record else 0)

    def load(self, name: str, value: bytes | None, revision: int) -> None:
        """Take over what the store holds now."""
        if value is None:
            self.rows.pop(name, None)
            return
        message = self._kind()
        message.ParseFromString(value)
        self.rows[name] = Record(message, revision)


class Signal:
    """Counts changes and wakes everybody who waits for the next.

    Who reads `count` before looking at the facts can't miss a change that comes between
    looking and waiting.
    """

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Count a change and wake all who wait."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def beyond(self, count: int) -> None:
        """Wait until more changes have been counted."""
        while self.count <= count:
            await self._event.wait()


class State:
    """The store's contents, followed by watch."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.models = Table("models", types_pb2.Model)
        self.plans = Table("plans", state_pb2.StoredPlan)
        self.nodes = Table("nodes", state_pb2.StoredNode)
        self.provisions = Table("provisions", state_pb2.StoredProvision)
        self.profiles = Table("profiles", types_pb2.Profile)
        self.configs = Table("configs", state_pb2.StoredConfig)
        self.decisions = Table("decisions", types_pb2.Decision)
        self.reviews = Table("reviews", types_pb2.Decision)
        self.steps = Table("steps", types_pb2.RecordedStep)
        self.planner = Table("planner", state_pb2.StoredPlanner)
        self.memories = Table("memories", state_pb2.StoredMemory)
        self._tables: tuple[Table[Any], ...] = (
            self.models,
            self.plans,
            self.nodes,
            self.provisions,
            self.profiles,
            self.configs,
            self.decisions,
            self.reviews,
            self.steps,
            self.planner,
            self.memories,
        )
        self.revision = -1
        self.changed = Signal()

    async def follow(self) -> None:
        """Keep the copy up to date, without end."""
        async for event in self.store.watch(ROOT):
            if isinstance(event, Resync):
                for table in self._tables:
                    table.rows.clear()
                for entry in event.listing.entries:
                    self._load(entry.key, entry.value, entry.revision)
                self.revision = event.listing.revision
            else:
                self._apply(event)
            self.changed.fire()

    async def synced(self, timeout_s: float) -> None:
        """Wait for the first full picture.

        Raises:
            TimeoutError: the store sent none in time.
        """
        await self._reached(0, timeout_s)

    async def commit(self, writes: Sequence[Put | Delete], expect: Sequence[Expect]) -> int:
        """Commit to the store and wait until the copy shows it.

        Raises:
            StoreConflictError: something that was read has changed; nothing was written.
            StoreUnavailableError: the store didn't answer.
        """
        revision = await self.store.commit(writes, expect)
        await self._reached(revision, timeout_s=10)
        return revision

    async def _reached(self, revision: int, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while self.revision < revision:
                await self.changed.beyond(self.changed.count)

    def _apply(self, change: Change) -> None:
        self._load(change.key, change.value, change.revision)
        self.revision = max(self.revision, change.revision)

    def _load(self, key: str, value: bytes | None, revision: int) -> None:
        for table in self._tables:
            if key.startswith(table.prefix):
                table.load(key.removeprefix(table.prefix), value, revision)
                return
        logger().warning("state.unknown_key", key=key)


def profile_key(digest: str, hardware: str) -> str:
    """Name of a profile: what was measured, and on what."""
    return f"{digest}/{hardware}"


def decision_key(model: str, decided_ms: int) -> str:
    """Name of a decision, or of a review: by model, then by time."""
    return f"{model}/{decided_ms:015d}"


def decisions_of(table: Table[types_pb2.Decision], model: str) -> list[str]:
    """List the keys of a model's decisions, or reviews, oldest first."""
    return sorted(key for key in table.rows if key.startswith(f"{model}/"))


def step_key(decided_ms: int) -> str:
    """Name of a recorded step: by the time of its decisions."""
    return f"{decided_ms:015d}"
