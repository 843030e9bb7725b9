"""What paldia-frontend can be told; its workers are told the same, and who they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from paldia.kit.settings import ServiceSettings


class FrontendSettings(ServiceSettings):
    """What paldia-frontend can be told."""

    controller: str = Field(description="the controller's address, HOST:PORT")
    bind: str = Field(default="127.0.0.1:8001", description="address to serve inference on")
    metrics_bind: str = Field(
        default="127.0.0.1:8002", description="address to serve Prometheus metrics on"
    )
    frontend_id: str = Field(
        default="", description="name of this frontend; made from host and process if empty"
    )
    workers: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        ge=1,
        le=256,
        description="processes that serve, on one port; as many as cores if not given",
    )
    connection_age_s: float = Field(
        default=60.0,
        ge=1,
        description="age at which a client is asked to connect anew: workers get even shares of "
        "the connections, and can be replaced; no call fails for it",
    )
    message_limit_mib: int = Field(
        default=128, ge=1, le=1000, description="largest request or answer, in MiB"
    )
    cold_wait_s: float = Field(
        default=30.0, ge=0, description="longest wait of a request for a model that is not loaded"
    )
    memory_mib: int = Field(
        default=2048,
        ge=64,
        description="memory of a worker, in MiB, above which large requests are refused",
    )
    receive_s: float = Field(
        default=60.0, gt=0, description="longest time that a request may take to come in"
    )
    calls: int = Field(
        default=16384, ge=1, description="most calls at once of a worker, streams included"
    )
    connections: int = Field(
        default=16384, ge=1, description="most connections of a worker, as far as open files allow"
    )
    connection_calls: int = Field(default=4096, ge=1, description="most calls on one connection")
    connection_idle_s: float = Field(
        default=300.0, gt=0, description="time without a call after which a connection is closed"
    )

    @property
    def message_limit_bytes(self) -> int:
        """Largest request or answer."""
        return self.message_limit_mib << 20

    @property
    def received_limit_bytes(self) -> int:
        """What is received of Tritons at most: contents may grow as they become raw."""
        return 2 * self.message_limit_bytes + (1 << 20)


class WorkerSettings(FrontendSettings):
    """What a worker is told: by its environment, which other users can't read."""

    slot: int = Field(description="its place among the workers")
    worker: int = Field(description="a number that no other worker of the frontend ever has")
    folder: Path = Field(description="where the workers' sockets are")

    @property
    def name(self) -> str:
        """What the supervisor knows it by."""
        return f"{self.slot}.{self.worker}"

    def environment(self) -> Mapping[str, str]:
        """Give the variables that say all this."""
        told = self.model_dump(mode="json", exclude_none=True)
        return {f"PALDIA_{name.upper()}": str(value) for name, value in told.items()}
