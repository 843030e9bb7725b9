"""Which figures an emulated model has: those of its workload on the emulated hardware.

The workload is the one that config.pbtxt names in its parameter `paldia_workload`, or else the
one called as the model is. It is looked up in the user's file, then in the catalog.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from paldia.catalog import Machine, Workload, load_workloads, machines, workloads
from paldia.core.errors import InvalidArgumentError, NotServableError
from paldia.core.profiles import Profile
from paldia_nodeagent.repository import ModelConfig

PARAMETER = "paldia_workload"


def machine_of(name: str) -> Machine:
    """Give the catalog's machine of that name, if it has a GPU to emulate.

    Raises:
        InvalidArgumentError: it has none, or isn't there; lists those that are.
    """
    kinds = [kind for kind, machine in machines().items() if machine.hardware.gpus == 1]
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InvalidArgumentError(
            f"{name!r} can't be emulated{hint}: the catalog's machines with a GPU are "
            f"{', '.join(kinds)}"
        )
    return machines()[name]


class Figures:
    """Profiles of workloads on one kind of hardware."""

    def __init__(self, hardware: str, file: Path | None) -> None:
        """Read the catalog, and `file` before it if there is one.

        Raises:
            InvalidArgumentError: the file is wrong; says where.
        """
        known: Mapping[str, Workload] = workloads({hardware: machines()[hardware]})
        if file is not None:
            known = {**known, **load_workloads(file)}
        self._hardware = hardware
        self._file = file
        self._known = known

    def profile(self, model: str, config: ModelConfig) -> Profile:
        """Give the profile of a model with this configuration.

        Raises:
            NotServableError: there is none; says what to do.
        """
        named = config.parameters[PARAMETER].string_value if PARAMETER in config.parameters else ""
        name = named or model
        workload = self._known.get(name)
        if workload is None:
            raise NotServableError(self._unknown(name, by_name=not named))
        profile = workload.profiles.get(self._hardware)
        if profile is None:
            raise NotServableError(
                f"workload {name} has no figures for {self._hardware}; it has some for "
                f"{', '.join(workload.profiles)}; add them to {self._file}"
            )
        return profile

    def _unknown(self, name: str, *, by_name: bool) -> str:
        near = difflib.get_close_matches(name, self._known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        said = (
            f"no workload is called {name!r}, as the model is"
            if by_name
            else (f"config.pbtxt names the workload {name!r}, which isn't known")
        )
        return (
            f"this {self._hardware} is emulated, and nothing is known of the model there: "
            f'{said}{hint}. Name one in config.pbtxt: parameters {{ key: "{PARAMETER}" value '
            f'{{ string_value: "bert" }} }}, or start the node with --workloads FILE '
            f"(docs/catalog.md)"
        )
