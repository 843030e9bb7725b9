"""The list of machines that may be had: what it says, and what is wrong with it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from paldia_controller.command import CommandProvisioner
from paldia_controller.fleetfile import read_fleet
from paldia_controller.provisioner import ProvisionError

from paldia.api import machines
from paldia.api.v1 import types_pb2
from paldia.catalog import load
from paldia.core.errors import InvalidArgumentError
from paldia.core.types import Hardware

OWN = """
hardware:
  lab: {price_usd_per_hour: 0.05, memory_gib: 8, cores: 4, activation_s: 45,
    triton_image: 'lab:1', tritonserver: /srv/triton/bin/tritonserver}
nodes:
  lab-1: {hardware: lab}
  cloud-1: {hardware: g4dn.xlarge}
"""


def test_kinds_are_those_of_the_catalog_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(OWN)
    told = read_fleet(path)
    assert told["lab-1"].triton_image == "lab:1"
    assert told["lab-1"].tritonserver == "/srv/triton/bin/tritonserver"
    assert told["cloud-1"].triton_image == load.machines()["g4dn.xlarge"].triton_image != ""
    found = {name: machines.hardware_from_proto(it) for name, it in told.items()}
    assert found["lab-1"] == Hardware("lab", 0.05, 8 << 30, cores=4, activation_s=45.0)
    known = load.hardware()["g4dn.xlarge"]
    assert found["cloud-1"].memory_bytes == known.memory_bytes
    assert found["cloud-1"].activation_s == known.activation_s > 0
    assert found["cloud-1"].gpus == 1
    assert not found["cloud-1"].sm_shares


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nodes:\n  a: {hardware: g4dn.xlrage}\n", 2, "'g4dn.xlrage' is no kind of hardware"),
        ("nodes:\n  a: {}\n", 2, "hardware is missing"),
        ("nodes:\n  --help: {hardware: m4.xlarge}\n", 2, "expected a name"),
        ("nodes:\n  a/b: {hardware: m4.xlarge}\n", 2, "expected a name"),
        ("nodes: {}\n", 1, "expected 1 to 4096 nodes, not 0"),
        ("hardware: {}\n", 1, "nodes is missing"),
        ("", 1, "the file is empty"),
        (
            "hardware:\n  -x: {price_usd_per_hour: 1, memory_gib: 1, cores: 1}\nnodes: {}\n",
            2,
            "expected a name",
        ),
        (
            "hardware:\n  lab: {price_usd_per_hour: -1, memory_gib: 1, cores: 1}\nnodes: {}\n",
            2,
            "expected a number from 0",
        ),
        ("nodes:\n  a: {hardware: m4.xlarge, price: 2}\n", 2, "unknown key"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError) as wrong:
        read_fleet(path)
    assert f"fleet.yaml:{line}:" in str(wrong.value)
    assert words in str(wrong.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"nowhere\.yaml: No such file"):
        read_fleet(tmp_path / "nowhere.yaml")


PAGE = Path(__file__).parents[2] / "docs" / "provisioning.md"


def example(language: str) -> str:
    """Give the first block of a language in the page on provisioning."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_documented_fleet_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(example("yaml"))
    assert {node: it.name for node, it in read_fleet(path).items()} == {
        "spot-1": "g4dn.xlarge-spot",
        "spot-2": "g4dn.xlarge-spot",
        "cpu-1": "c6i.2xlarge",
    }


async def test_the_documented_command_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, cloud = tmp_path / "provision", tmp_path / "aws"
    hook.write_text(example("sh"))
    cloud.write_text(
        f'#!/bin/sh\necho "$2 $4" >> {tmp_path}/calls\n'
        '[ "$2" != describe-instances ] || case "$*" in *Values=spot-1*) echo i-0abc ;; esac\n'
    )
    for program in (hook, cloud):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    provisioner = CommandProvisioner(str(hook), {})
    hardware = types_pb2.Hardware(name="g4dn.xlarge-spot")
    await provisioner.activate("spot-1", hardware, 20.0)
    await provisioner.release("spot-1", hardware, 20.0)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1::2] == ["start-instances i-0abc", "stop-instances i-0abc"]
    with pytest.raises(ProvisionError, match="no instance is named spot-9"):
        await provisioner.activate("spot-9", hardware, 20.0)
