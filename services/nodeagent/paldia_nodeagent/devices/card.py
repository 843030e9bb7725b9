"""One NVIDIA card: what it is, and how it is now."""

from __future__ import annotations

import time
from collections import deque

import pynvml

from paldia.api import convert
from paldia.api.v1 import types_pb2 as pb
from paldia_nodeagent.devices.nvml import FaultEvents, Handle, LostError, ask, cuda_version

_FAULTS_KEPT = 16
_PROCESSES_MOST = 64
_LIMITS = {
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "clocks set by hand",
    pynvml.nvmlClocksEventReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "heat (driver)",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "heat (hardware)",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display clocks",
}


class Card:
    """A card, by its UUID. Its handle changes when NVML is opened anew."""

    def __init__(self, index: int, uuid: str, handle: Handle) -> None:
        """Describe it once."""
        self.index = index
        self.uuid = uuid
        self.capability: tuple[int, int] | None = None
        self._handle = handle
        self._faults: deque[pb.GpuFault] = deque(maxlen=_FAULTS_KEPT)
        self._fault_count = 0
        self._events = FaultEvents(handle)
        self.description = self._describe()

    def _describe(self) -> pb.Gpu:
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, self._handle, quietly=True)
        mig = ask(pynvml.nvmlDeviceGetMigMode, self._handle, quietly=True)
        self.capability = ask(pynvml.nvmlDeviceGetCudaComputeCapability, self._handle, quietly=True)
        return pb.Gpu(
            uuid=self.uuid,
            name=ask(pynvml.nvmlDeviceGetName, self._handle, quietly=True) or "",
            memory_bytes=0 if memory is None else int(memory.total),
            index=self.index,
            driver_version=ask(pynvml.nvmlSystemGetDriverVersion, quietly=True) or "",
            cuda_version=cuda_version(),
            compute_capability=".".join(map(str, self.capability)) if self.capability else "",
            mig=None if mig is None else mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
        )

    @property
    def label(self) -> str:
        """What people call it, such as `GPU 0 (Tesla T4)`."""
        return f"GPU {self.index} ({self.description.name or self.uuid})"

    def close(self) -> None:
        """Give back what it holds of NVML, which is about to be closed."""
        self._events.close()
        self._handle = None

    def reopen(self, handle: Handle) -> None:
        """Go on with a new handle, since NVML was opened anew."""
        self._handle = handle
        self._events = FaultEvents(handle)

    def sample(self) -> pb.GpuUtilisation:
        """Say how it is; figures that it doesn't tell are left out, and all once it is lost."""
        try:
            found = self._figures()
        except LostError as error:
            found = pb.GpuUtilisation(uuid=self.uuid, lost=str(error) or "it doesn't answer")
        # The event that says why a card was lost can be had after it was.
        self._note_faults()
        if self._events.known or self._faults:
            faults = pb.GpuFaults(count=self._fault_count, recent=self._faults)
            found.faults.CopyFrom(faults)
        return found

    def _figures(self) -> pb.GpuUtilisation:
        handle = self._handle
        if handle is None:
            raise LostError("NVML doesn't find it any more")
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
        rates = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = ask(pynvml.nvmlDeviceGetPowerUsage, handle)
        energy_mj = ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        sensor = pynvml.NVML_TEMPERATURE_GPU
        return pb.GpuUtilisation(
            uuid=self.uuid,
            sm=None if rates is None else rates.gpu / 100,
            memory=None if rates is None else rates.memory / 100,
            memory_used_bytes=None if memory is None else int(memory.used),
            power_watts=None if power_mw is None else power_mw / 1000,
            energy_joules=None if energy_mj is None else energy_mj / 1000,
            temperature_celsius=ask(pynvml.nvmlDeviceGetTemperature, handle, sensor),
            sm_clock_hertz=self._clock_hertz(pynvml.NVML_CLOCK_SM),
            memory_clock_hertz=self._clock_hertz(pynvml.NVML_CLOCK_MEM),
            throttling=self._throttling(),
            corrected_errors=self._ecc_errors(pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            uncorrected_errors=self._ecc_errors(pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            processes=self._processes(),
        )

    def _clock_hertz(self, kind: int) -> float | None:
        mhz = ask(pynvml.nvmlDeviceGetClockInfo, self._handle, kind)
        return None if mhz is None else mhz * 1e6

    def _ecc_errors(self, kind: int) -> int | None:
        since_load = pynvml.NVML_VOLATILE_ECC
        count: int | None = ask(pynvml.nvmlDeviceGetTotalEccErrors, self._handle, kind, since_load)
        return count

    def _throttling(self) -> pb.GpuThrottling | None:
        bits = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, self._handle)
        if bits is None:
            # Drivers before 535 know the older name alone.
            bits = ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._handle)
        if bits is None:
            return None
        # A card with nothing to do clocks down too, and that holds nothing up.
        bits &= ~pynvml.nvmlClocksEventReasonGpuIdle
        named = [name for bit, name in _LIMITS.items() if bits & bit]
        rest = bits & ~sum(_LIMITS)
        return pb.GpuThrottling(reasons=[*named, *([f"reason {rest:#x}"] if rest else [])])

    def _processes(self) -> pb.GpuProcesses | None:
        found = ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, self._handle)
        if found is None:
            return None
        found.sort(key=lambda process: (-(process.usedGpuMemory or 0), process.pid))
        return pb.GpuProcesses(
            processes=[
                pb.GpuProcess(pid=process.pid, memory_bytes=process.usedGpuMemory)
                for process in found[:_PROCESSES_MOST]
            ]
        )

    def _note_faults(self) -> None:
        for xid in self._events.fetch():
            self._fault_count += 1
            seen_at = convert.timestamp(time.time())
            self._faults.append(pb.GpuFault(xid=xid, seen_at=seen_at))

    def compute_mode(self) -> int | None:
        """Give its compute mode in NVML's numbers; None if unknown."""
        mode: int | None = ask(pynvml.nvmlDeviceGetComputeMode, self._handle, quietly=True)
        return mode

    def set_compute_mode(self, mode: int) -> str:
        """Set its compute mode; give why that can't be, empty if it is done."""
        try:
            pynvml.nvmlDeviceSetComputeMode(self._handle, mode)
        except pynvml.NVMLError as error:
            return str(error)
        return ""
