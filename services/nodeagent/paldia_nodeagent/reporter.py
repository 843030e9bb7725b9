"""Puts together what the controller hears: who the node is, and how."""

from __future__ import annotations

import time

from paldia.api import convert
from paldia.api.v1 import agent_pb2
from paldia.api.v1 import types_pb2 as pb
from paldia_nodeagent.devices.base import Accelerators
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.profiler import Profiler
from paldia_nodeagent.reconciler import Reconciler
from paldia_nodeagent.runtime import RuntimeFinder


class Reporter:
    """Reports on the parts of the agent."""

    def __init__(
        self,
        cpu: Cpu,
        accelerators: Accelerators,
        finder: RuntimeFinder,
        reconciler: Reconciler,
        profiler: Profiler,
    ) -> None:
        self._cpu = cpu
        self._accelerators = accelerators
        self._finder = finder
        self._reconciler = reconciler
        self._profiler = profiler

    def report(self) -> agent_pb2.NodeReport:
        """Say how the node is now."""
        return agent_pb2.NodeReport(
            reported_at=convert.timestamp(time.time()),
            utilisation=pb.Utilisation(
                cpu=self._cpu.share(),
                memory_used_bytes=self._cpu.memory_used_bytes(),
                gpus=self._accelerators.utilisation(),
            ),
            deployments=self._reconciler.statuses(),
            profile_results=self._profiler.results(),
            profile_progress=self._profiler.progress(),
            problem=self._finder.problem or self._accelerators.problem,
            warnings=self._accelerators.warnings(),
        )


def describe_hardware(cpu: Cpu, accelerators: Accelerators) -> pb.Hardware:
    """Say what the machine has; its name and price are its owner's to say."""
    return pb.Hardware(
        memory_bytes=cpu.memory_bytes,
        cores=cpu.cores,
        gpus=accelerators.describe(),
        sm_shares=accelerators.sm_shares,
    )
