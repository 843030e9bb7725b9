"""A step of the planner, recorded so that it can be run again to the same answer, elsewhere.

A recording holds all that `engine.step` takes and all that it gave, as `paldia.api.values` writes
it, compressed. Who runs it again must have the same core: the form of every value is part of the
recording, and so is a digest of the core's sources, which says whether the rules are the same.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Protocol

import paldia.core
from paldia import __version__
from paldia.api import values
from paldia.api.v1 import types_pb2 as pb
from paldia.core import engine
from paldia.core.baselines import policy_named
from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError, NotServableError, TooLargeError
from paldia.core.observation import Memory, Observation

CONTENT_LIMIT_BYTES = 512 << 10
"""Most that one recording takes in the store, which takes 1 MiB in a value."""
ENTRIES_LIMIT = 256
"""Most models and nodes together of which a step is recorded: more would take a planner that
decides each second a noticeable part of it, only to be found too large."""
_PLAIN_LIMIT_BYTES = 64 << 20
"""Most that a recording is unpacked to."""
_PRESET = 1
"""Fast, and it still finds that a memory afterwards is much like the one before."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a step was made from, and what came of it; `policy` is the policy's name."""

    observation: Observation
    memory: Memory
    config: PolicyConfig
    policy: str
    outcome: engine.Step

    def run_again(self) -> engine.Step:
        """Decide once more.

        Raises:
            NotFoundError: there is no such policy here.
            InvalidArgumentError: nothing can be decided on it, so it isn't what was recorded.
        """
        policy = policy_named(self.policy)
        try:
            return engine.step(self.observation, self.memory, self.config, policy)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"the recorded step can't be decided on ({type(error).__name__}: {error}): it was "
                "changed after it was recorded, or the rules were; ask for another time"
            ) from error


class Stored(Protocol):
    """A recording as it is stored, or sent; see `RecordedStep` in types.proto."""

    @property
    def version(self) -> str:
        """Version of the program that recorded it."""

    @property
    def core_digest(self) -> str:
        """See `core_digest` here."""

    @property
    def form_digest(self) -> str:
        """See `form_digest` here."""

    @property
    def content(self) -> bytes:
        """The recording, compressed."""

    @property
    def not_kept(self) -> str:
        """Why there is no content."""


def packed(recording: Recording) -> pb.RecordedStep:
    """Give a recording as it is stored.

    Raises:
        TooLargeError: the fleet, or what is recorded of it, is over the limit.
    """
    seen = recording.observation
    entries = len(seen.models) + len(seen.nodes)
    if entries > ENTRIES_LIMIT:
        raise TooLargeError(
            f"steps of more than {ENTRIES_LIMIT} models and nodes aren't recorded, and this one "
            f"was about {len(seen.models)} models on {len(seen.nodes)} nodes"
        )
    plain = json.dumps(values.written(Recording, recording), separators=(",", ":"))
    content = lzma.compress(plain.encode(), preset=_PRESET)
    if len(content) > CONTENT_LIMIT_BYTES:
        raise TooLargeError(
            f"the step takes {len(content)} bytes, and {CONTENT_LIMIT_BYTES} are kept at most"
        )
    return pb.RecordedStep(
        version=__version__,
        core_digest=core_digest(),
        form_digest=form_digest(),
        content=content,
    )


def unpacked(stored: Stored) -> Recording:
    """Undo `packed`.

    Raises:
        NotServableError: it was not kept, or by a version with other values; the message says
            which, and what to do.
        InvalidArgumentError: it is damaged.
    """
    if stored.not_kept:
        raise NotServableError(
            f"the step can't be run again: {stored.not_kept}; its record is shown without --replay"
        )
    if stored.form_digest != form_digest():
        raise NotServableError(
            f"paldia {stored.version} recorded the step, and paldia {__version__} here has other "
            f"values to decide on; run it again with paldia {stored.version} (core "
            f"{short(stored.core_digest)})"
        )
    try:
        unpacker = lzma.LZMADecompressor()
        plain = unpacker.decompress(stored.content, max_length=_PLAIN_LIMIT_BYTES)
        if not unpacker.eof:
            raise EOFError("it ends early, or goes on beyond the limit")
        recording: Recording = values.read(Recording, json.loads(plain))
    except (lzma.LZMAError, EOFError, ValueError, InvalidArgumentError) as error:
        raise InvalidArgumentError(
            f"the recorded step is damaged ({error}); ask for another time"
        ) from error
    return recording


@functools.cache
def form_digest() -> str:
    """Fingerprint of the types that a recording is made of, with all their fields."""
    return hashlib.sha256(values.described(Recording).encode()).hexdigest()


@functools.cache
def core_digest() -> str:
    """Fingerprint of the rules: the sources of `paldia.core`, as they were when first asked."""
    digest = hashlib.sha256()
    _take_in(digest, resources.files(paldia.core), "")
    return digest.hexdigest()


def _take_in(digest: hashlib._Hash, folder: Traversable, path: str) -> None:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            _take_in(digest, entry, f"{path}{entry.name}/")
        elif entry.name.endswith(".py"):
            digest.update(f"{path}{entry.name}\0".encode() + entry.read_bytes() + b"\0")


def short(digest: str) -> str:
    """Give as much of a digest as people compare."""
    return digest[:8]
