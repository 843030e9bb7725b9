"""Machines and their states to protobuf and back."""

from __future__ import annotations

from paldia.api import convert
from paldia.api.v1 import types_pb2 as pb
from paldia.core.types import Hardware, NodeState

_NODE_STATE = {
    NodeState.PARKED: pb.NODE_STATE_PARKED,
    NodeState.ACTIVATING: pb.NODE_STATE_ACTIVATING,
    NodeState.ACTIVE: pb.NODE_STATE_ACTIVE,
    NodeState.DRAINING: pb.NODE_STATE_DRAINING,
    NodeState.LOST: pb.NODE_STATE_LOST,
}
_NODE_STATE_OF = {code: state for state, code in _NODE_STATE.items()}


def node_state_to_proto(state: NodeState) -> pb.NodeState.ValueType:
    """Encode a node's state."""
    return _NODE_STATE[state]


def node_state_from_proto(state: pb.NodeState.ValueType) -> NodeState:
    """Decode a node's state; what is unknown can't be counted on, and is lost."""
    return _NODE_STATE_OF.get(state, NodeState.LOST)


def hardware_from_proto(hardware: pb.Hardware) -> Hardware:
    """Decode a machine; its memory is the GPUs' where there are any."""
    gpu_bytes = sum(gpu.memory_bytes for gpu in hardware.gpus)
    return Hardware(
        name=hardware.name,
        price_usd_per_hour=hardware.price_usd_per_hour,
        memory_bytes=gpu_bytes or hardware.memory_bytes,
        cores=hardware.cores,
        gpus=len(hardware.gpus),
        sm_shares=hardware.sm_shares,
        activation_s=convert.seconds(hardware.activation),
        idle_watts=hardware.idle_watts,
        rated_watts=hardware.rated_watts,
    )


def hardware_to_proto(hardware: Hardware, gpu_name: str = "") -> pb.Hardware:
    """Encode a machine; its GPUs are alike, and their memory is the machine's."""
    shared_bytes = hardware.memory_bytes // hardware.gpus if hardware.gpus else 0
    return pb.Hardware(
        name=hardware.name,
        price_usd_per_hour=hardware.price_usd_per_hour,
        memory_bytes=hardware.memory_bytes,
        cores=hardware.cores,
        gpus=[pb.Gpu(name=gpu_name, memory_bytes=shared_bytes) for _ in range(hardware.gpus)],
        sm_shares=hardware.sm_shares,
        activation=convert.duration(hardware.activation_s),
        idle_watts=hardware.idle_watts,
        rated_watts=hardware.rated_watts,
    )
