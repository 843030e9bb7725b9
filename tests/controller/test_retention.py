"""What no model refers to is forgotten, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from paldia_controller.artifacts import Artifacts
from paldia_controller.retention import Retention
from paldia_controller.state import State

from paldia.api.v1 import control_pb2, state_pb2, types_pb2
from paldia.kit.clock import SystemClock
from paldia.store.embedded import EmbeddedStore


async def _upload(artifacts: Artifacts, content: bytes, digest: str) -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        yield control_pb2.UploadArtifactRequest(
            digest=digest, size_bytes=len(content), chunk=content
        )

    await artifacts.receive(pieces())


async def test_only_old_and_unreferenced_artifacts_go(tmp_path: Path) -> None:
    contents = [b"served", b"candidate", b"old", b"young"]
    digests = {name: hashlib.sha256(name).hexdigest() for name in contents}
    artifacts = Artifacts(tmp_path / "artifacts")
    for name, digest in digests.items():
        await _upload(artifacts, name, digest)
        if name != b"young":
            os.utime(tmp_path / "artifacts" / digest, (1.0, 1.0))
    store = EmbeddedStore(tmp_path / "state.db")
    state = State(store)
    follower = asyncio.create_task(state.follow())
    await state.synced(10)
    model = types_pb2.Model(name="m")
    model.serving.spec.artifact_digest = digests[b"served"]
    model.candidate.spec.artifact_digest = digests[b"candidate"]
    writes = [state.models.put("m", model)]
    for digest in digests.values():
        writes.append(state.profiles.put(f"{digest}/cpu", types_pb2.Profile(hardware="cpu")))
        writes.append(state.configs.put(digest, state_pb2.StoredConfig(model_config=b"c")))
    await state.commit(writes, [])

    await Retention(state, artifacts, SystemClock()).forget(keep_s=3600)

    kept = {name for name, digest in digests.items() if artifacts.has(digest)}
    assert kept == {b"served", b"candidate", b"young"}
    assert {key.partition("/")[0] for key in state.profiles.rows} == {digests[n] for n in kept}
    assert set(state.configs.rows) == {digests[name] for name in kept}
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    await store.close()
