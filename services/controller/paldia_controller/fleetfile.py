"""The file that lists the machines that may be had.

Each is named by the id that its agent will connect with, and is of a kind that the catalog
describes, or the file itself.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from paldia.api.machines import hardware_to_proto
from paldia.api.v1 import types_pb2
from paldia.catalog.document import Entry, read_parts
from paldia.catalog.load import machines
from paldia.catalog.machines import machine
from paldia.core.types import NAME_LIMIT

MACHINES_LIMIT = 4096
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{NAME_LIMIT - 1}}}")


def read_fleet(path: Path) -> dict[str, types_pb2.Hardware]:
    """Give the machines that a file lists, by node id.

    `nodes` names each with its `hardware`; under `hardware` stand kinds of the user's own, laid
    out as in the catalog, whose kinds need not be repeated.

    Raises:
        InvalidArgumentError: with the file, the line, the key and what was expected.
    """
    parts = read_parts(path, ("nodes",), ("hardware",))
    kinds = dict(machines())
    if "hardware" in parts:
        kinds |= {
            _name(name, entry): machine(name, entry) for name, entry in parts["hardware"].items()
        }
    listed = {}
    for name, entry in parts["nodes"].items():
        fields = entry.fields(("hardware",), ())
        kind = fields["hardware"].text()
        if kind not in kinds:
            raise fields["hardware"].fault(
                f"{kind!r} is no kind of hardware; describe it under hardware, or take one of "
                f"{', '.join(sorted(kinds))}"
            )
        found = kinds[kind]
        # Whether processes can be held to shares of its GPU is for its agent to say.
        hardware = replace(found.hardware, sm_shares=False)
        told = listed[_name(name, entry)] = hardware_to_proto(hardware, found.accelerator)
        told.triton_image, told.tritonserver = found.triton_image, found.tritonserver
    if not 0 < len(listed) <= MACHINES_LIMIT:
        raise parts["nodes"].fault(f"expected 1 to {MACHINES_LIMIT} nodes, not {len(listed)}")
    return listed


def _name(name: str, entry: Entry) -> str:
    """Check a name, which becomes a word of a command line."""
    if not _NAME.fullmatch(name):
        raise entry.fault(
            f"expected a name of letters, digits, '.', '_' and '-', at most {NAME_LIMIT} of them, "
            f"beginning with a letter or digit, not {name[:NAME_LIMIT]!r}"
        )
    return name
