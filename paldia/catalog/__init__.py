"""Hardware and workloads with what is known of them, each figure with its origin.

`hardware.yaml` and `workloads.yaml` hold facts; rules, in code and with a measured error, fill the
gaps. docs/catalog.md says where the facts come from and how far the rules are off.
"""

from paldia.catalog.figures import Figure
from paldia.catalog.load import (
    PAPER_NODES,
    Workload,
    choose_machines,
    choose_workloads,
    hardware,
    load_hardware,
    load_workloads,
    machines,
    machines_from,
    workloads,
    workloads_from,
)
from paldia.catalog.machines import Machine, load_machines
from paldia.catalog.models import InputSize

__all__ = [
    "PAPER_NODES",
    "Figure",
    "InputSize",
    "Machine",
    "Workload",
    "choose_machines",
    "choose_workloads",
    "hardware",
    "load_hardware",
    "load_machines",
    "load_workloads",
    "machines",
    "machines_from",
    "workloads",
    "workloads_from",
]
