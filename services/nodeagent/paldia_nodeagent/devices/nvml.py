"""Questions to NVML, the driver's own library.

What a card can't tell is None, never 0. A card that is gone raises, so that it isn't taken
for one that merely can't tell.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pynvml

from paldia.core.errors import UnavailableError

# pynvml is published without types.
Handle: TypeAlias = Any

_LOST = frozenset(
    (
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_UNINITIALIZED,
    )
)
_CURES = {
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the driver was changed while it was loaded: reboot the machine, or unload its kernel "
        "modules and load them again"
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load it, or reboot the machine",
    pynvml.NVML_ERROR_NO_PERMISSION: "let the agent read /dev/nvidiactl and /dev/nvidia0",
}
_EVENTS_MOST = 64


class LostError(Exception):
    """A card, or the whole driver, that doesn't answer any more; says why."""


def open_session() -> bool:
    """Begin to ask NVML; False where the machine has none.

    Raises:
        UnavailableError: there is a driver that can't be used; says why and what to do.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return False
        cure = _CURES.get(error.value, "see what nvidia-smi says")
        raise UnavailableError(
            f"the NVIDIA driver can't be asked for GPUs: {error}; {cure}"
        ) from error
    return True


def close_session() -> None:
    """Stop asking; handles and event sets are void then."""
    ask(pynvml.nvmlShutdown, quietly=True)


def ask(question: Callable[..., Any], *arguments: Any, quietly: bool = False) -> Any:
    """Ask NVML something; None if the card can't say.

    Raises:
        LostError: the card or the driver is gone, unless `quietly`.
    """
    try:
        return question(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _LOST and not quietly:
            raise LostError(str(error)) from error
        return None


def cuda_version() -> str:
    """Give the newest CUDA that the driver can run, such as `12.4`; empty if unknown."""
    version = ask(pynvml.nvmlSystemGetCudaDriverVersion_v2, quietly=True)
    return "" if version is None else f"{version // 1000}.{version % 1000 // 10}"


def handles() -> Iterator[tuple[int, Handle | str]]:
    """Give each card by its index: its handle, or why there is none."""
    for index in range(ask(pynvml.nvmlDeviceGetCount, quietly=True) or 0):
        try:
            yield index, pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            # One card that fell off the bus must not hide the others.
            yield index, str(error)


def visible(uuids: dict[int, str]) -> tuple[dict[int, str], str]:
    """Keep what CUDA_VISIBLE_DEVICES leaves of cards by index, and say what it names in vain.

    It holds UUIDs, their beginnings, or indices; the indices are the driver's.
    """
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return uuids, ""
    kept: dict[int, str] = {}
    vain = []
    for entry in filter(None, map(str.strip, text.split(","))):
        found = {
            index: uuid
            for index, uuid in uuids.items()
            if entry == str(index) or (entry.startswith("GPU-") and uuid.startswith(entry))
        }
        kept |= found
        if not found:
            vain.append(entry)
    said = f"CUDA_VISIBLE_DEVICES names {', '.join(vain)}, which no GPU here is" if vain else ""
    return kept, said


class FaultEvents:
    """The XID events of one card, fetched without waiting."""

    def __init__(self, handle: Handle) -> None:
        """Ask the driver to keep them; `known` is False where it can't."""
        self._events = ask(pynvml.nvmlEventSetCreate, quietly=True)
        self.known = False
        if self._events is not None:
            kind = pynvml.nvmlEventTypeXidCriticalError
            try:
                pynvml.nvmlDeviceRegisterEvents(handle, kind, self._events)
                self.known = True
            except pynvml.NVMLError:
                self.close()

    def fetch(self) -> list[int]:
        """Give the XIDs since the last call, a bounded number at a time."""
        xids = []
        for _ in range(_EVENTS_MOST if self.known else 0):
            # With no time to wait, "nothing there" is a timeout, and so None.
            event = ask(pynvml.nvmlEventSetWait_v2, self._events, 0, quietly=True)
            if event is None:
                break
            if event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                xids.append(int(event.eventData))
        return xids

    def close(self) -> None:
        """Give the event set back."""
        if self._events is not None:
            ask(pynvml.nvmlEventSetFree, self._events, quietly=True)
        self._events, self.known = None, False
