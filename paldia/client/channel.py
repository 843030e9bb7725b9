"""How the SDK reaches a controller: channels, what is retried, and what errors say.

Only calls that change nothing, or change it to the same thing again, are retried, and
only when nothing answered (UNAVAILABLE).
"""

from __future__ import annotations

import json
import os

import grpc

from paldia.api.v1 import control_pb2
from paldia.core.errors import ExpiredError, PaldiaError, UnavailableError
from paldia.kit import rpc

DEFAULT_CONTROLLER = "127.0.0.1:8100"
CONTROLLER_VARIABLE = "PALDIA_CONTROLLER"

_SERVICE = control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name
_IDEMPOTENT = ("ListModels", "GetModel", "WatchModels", "ExplainModel", "ListNodes", "GetStatus")
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": _SERVICE, "method": name} for name in _IDEMPOTENT],
                "retryPolicy": _RETRY,
            }
        ]
    }
)
# gRPC's own words where it found nobody; other UNAVAILABLE answers come from a controller.
_UNREACHED = ("failed to connect", "errors resolving", "DNS resolution failed")


def controller_address(given: str | None) -> str:
    """Give the controller's address: the one given, PALDIA_CONTROLLER's, or the default."""
    return given or os.environ.get(CONTROLLER_VARIABLE) or DEFAULT_CONTROLLER


def open_aio_channel(address: str) -> grpc.aio.Channel:
    """Open an asyncio channel to a controller."""
    return rpc.open_channel(address, service_config=_SERVICE_CONFIG)


def open_sync_channel(address: str) -> grpc.Channel:
    """Open a blocking channel to a controller, with the same options."""
    return grpc.insecure_channel(
        address, options=rpc.channel_options(service_config=_SERVICE_CONFIG)
    )


def error_of(call: rpc.FailedCall, address: str, timeout_s: float | None) -> PaldiaError:
    """Turn a failed call into its error; one that met no controller says how to get one."""
    error = rpc.error_of(call)
    details = str(error)
    if isinstance(error, UnavailableError) and details.startswith(_UNREACHED):
        cause = details.rpartition(": ")[2].rstrip("]")
        return UnavailableError(
            f"can't reach the controller at {address} ({cause}); start a cluster with "
            f"`paldia up`, or name another by --controller or {CONTROLLER_VARIABLE}"
        )
    if isinstance(error, ExpiredError) and timeout_s is not None:
        return ExpiredError(f"the controller at {address} didn't answer within {timeout_s:g} s")
    return error
