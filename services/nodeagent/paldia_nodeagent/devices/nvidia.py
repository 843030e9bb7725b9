"""GPUs through NVML, the driver's own library.

No library, no driver or no GPU is a machine without GPUs. What a card doesn't tell is
unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pynvml

from paldia.api.v1 import types_pb2 as pb

_NO_MPS = (
    "the models on a GPU share it in time: this agent doesn't run NVIDIA MPS, so shares of "
    "streaming multiprocessors that are asked for don't take effect"
)


class Gpus:
    """The NVIDIA GPUs of this machine."""

    sm_shares = False

    def __init__(self, nvml: Any = pynvml) -> None:
        """Ask NVML which there are."""
        self._nvml = nvml
        self._handles: dict[str, Any] = {}
        try:
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError:
            return
        for index in range(count):
            # One card that fell off the bus must not hide the others.
            handle = self._ask(nvml.nvmlDeviceGetHandleByIndex, index)
            uuid = self._ask(nvml.nvmlDeviceGetUUID, handle) if handle is not None else None
            if uuid is not None:
                self._handles[_text(uuid)] = handle

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """Ask NVML something; None if the card can't say."""
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None

    def describe(self) -> list[pb.Gpu]:
        """Describe each card."""
        gpus = []
        for uuid, handle in self._handles.items():
            memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
            gpus.append(
                pb.Gpu(
                    uuid=uuid,
                    name=_text(self._ask(self._nvml.nvmlDeviceGetName, handle) or ""),
                    memory_bytes=int(memory.total) if memory is not None else 0,
                )
            )
        return gpus

    def utilisation(self) -> list[pb.GpuUtilisation]:
        """Say how busy each card is; figures that it doesn't tell are left out."""
        return [self._utilisation(uuid, handle) for uuid, handle in self._handles.items()]

    def warnings(self) -> list[str]:
        """Say what doesn't work as it should and is no obstacle."""
        return [_NO_MPS] if self._handles else []

    def environment(self, sm_percent: int) -> Mapping[str, str]:
        """Give what a model's Triton needs in its environment: nothing."""
        return {}

    def _utilisation(self, uuid: str, handle: Any) -> pb.GpuUtilisation:
        rates = self._ask(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        power_mw = self._ask(self._nvml.nvmlDeviceGetPowerUsage, handle)
        return pb.GpuUtilisation(
            uuid=uuid,
            sm=None if rates is None else rates.gpu / 100,
            memory_used_bytes=None if memory is None else int(memory.used),
            power_watts=None if power_mw is None else power_mw / 1000,
        )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
