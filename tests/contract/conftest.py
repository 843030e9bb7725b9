"""The stores under test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from paldia.store.base import Store
from paldia.store.embedded import EmbeddedStore
from paldia.store.etcd import EtcdStore


@pytest.fixture(params=["embedded", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[Store]:
    """Give an empty store of each kind."""
    store: Store
    if request.param == "embedded":
        store = EmbeddedStore(tmp_path / "state.db")
    else:
        etcd = request.getfixturevalue("etcd")
        store = EtcdStore([etcd.endpoint], prefix=f"/{uuid.uuid4()}/")
    yield store
    await store.close()
