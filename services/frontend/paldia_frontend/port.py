"""The port that clients talk to, and what they may take of it."""

from __future__ import annotations

from paldia.kit.connections import ConnectionLimits
from paldia.kit.lifecycle import open_files_limit
from paldia.kit.observability import logger
from paldia.kit.receipts import ReceiptLimits, Receipts
from paldia.kit.rpc import RpcServer
from paldia_frontend.metrics import Metrics
from paldia_frontend.servicer import SERVICE_NAME
from paldia_frontend.settings import FrontendSettings
from paldia_frontend.wire import check_head

_OWN_FILES = 256
"""Open files that are no clients' connections."""


def open_port(settings: FrontendSettings, metrics: Metrics) -> RpcServer:
    """Make a server for clients that keeps to the limits."""
    # Room beyond the limit, so that what is a little over it gets an error that names the setting.
    with_room_bytes = settings.message_limit_bytes + (1 << 20)
    # One half for what is here, the other for what is on its way here.
    half_bytes = settings.memory_mib << 19
    receipts = Receipts(
        ReceiptLimits(
            calls=settings.calls,
            held_bytes=max(half_bytes, 2 * with_room_bytes),
            resident_bytes=2 * half_bytes,
            long_receipts=max(2, half_bytes // with_room_bytes),
            receive_s=settings.receive_s,
        ),
        checks={
            f"/{SERVICE_NAME}/{method}": check_head for method in ("ModelInfer", "ModelStreamInfer")
        },
        on_refusal=lambda cause: metrics.refusals.labels(cause).inc(),
    )
    connections = min(settings.connections, max(1, open_files_limit() - _OWN_FILES))
    if connections < settings.connections:
        logger().warning("port.open_files", connections=connections, cure="raise ulimit -n")
    return RpcServer(
        settings.bind,
        insecure=settings.insecure,
        message_limit_bytes=with_room_bytes,
        connection_limits=ConnectionLimits(
            connections=connections,
            streams=settings.connection_calls,
            idle_s=settings.connection_idle_s,
        ),
        interceptors=[receipts],
        shares_port=True,
        connection_age_s=settings.connection_age_s,
    )
