"""The Python SDK: everything the command line can do.

With a cluster at hand (`paldia up`) and the sample weights in place (`paldia samples
prepare`), from the source tree:

    import numpy as np
    from tritonclient.grpc import InferInput

    from paldia.client import Client

    with Client() as paldia:
        model = paldia.deploy("paldia/samples/magika", slo_latency_s=0.1)
        print(model.name, model.phase.value, [place.node_id for place in model.placements])

        contents = np.full((1, 2048), 256, np.int32)  # 256 is padding
        head = b"#!/usr/bin/env python3\\nimport os\\n\\nprint(os.name)\\n"
        contents[0, : len(head)] = list(head)
        tensor = InferInput("bytes", contents.shape, "INT32")
        tensor.set_data_from_numpy(contents)
        with paldia.infer_client() as infer:
            answer = infer.infer("magika", [tensor], client_timeout=5)
        print(answer.as_numpy("scores").max())

`AsyncClient` is the same for asyncio. docs/sdk.md tells more.
"""

from paldia.client.aio import AsyncClient
from paldia.client.decisions import (
    Candidate,
    Decision,
    Demand,
    Explanation,
    Record,
    RecordedStep,
)
from paldia.client.gpus import Gpu, GpuFault, GpuProcess
from paldia.client.results import (
    BatchShare,
    ClusterStatus,
    DeployProgress,
    Failure,
    Frontend,
    LatencyPoint,
    Measuring,
    Model,
    ModelChange,
    ModelPhase,
    Node,
    Placement,
    PlacementState,
    Profile,
    ProfileCheck,
    Provenance,
    Revision,
    ShareRange,
    StaleProfile,
)
from paldia.client.sync import Client
from paldia.core.types import NodeState, OverloadPolicy, Slo

__all__ = [
    "AsyncClient",
    "BatchShare",
    "Candidate",
    "Client",
    "ClusterStatus",
    "Decision",
    "Demand",
    "DeployProgress",
    "Explanation",
    "Failure",
    "Frontend",
    "Gpu",
    "GpuFault",
    "GpuProcess",
    "LatencyPoint",
    "Measuring",
    "Model",
    "ModelChange",
    "ModelPhase",
    "Node",
    "NodeState",
    "OverloadPolicy",
    "Placement",
    "PlacementState",
    "Profile",
    "ProfileCheck",
    "Provenance",
    "Record",
    "RecordedStep",
    "Revision",
    "ShareRange",
    "Slo",
    "StaleProfile",
]
