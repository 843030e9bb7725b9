"""A wrong file is answered with the file, the line, the key and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paldia.catalog import load_hardware, load_machines, load_workloads
from paldia.core.errors import InvalidArgumentError

NODE = """\
hardware:
  box:
    price_usd_per_hour: 0.5
    memory_gib: 8
    cores: 4
"""
MODEL = """\
workloads:
  mine:
    profiles:
      c6i.4xlarge:
        latency_ms: {1: 10, 2: 18}
        demand: {1: 0.125}
        memory_mib: 300
        load_s: 2.5
"""


def hardware_error(write, text: str) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        load_hardware(write(text))
    return str(caught.value)


def workload_error(write, text: str) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        load_workloads(write(text))
    return str(caught.value)


def test_a_small_file_is_enough_and_vouches_for_its_figures(write):
    path = write(NODE)
    box = load_machines(path)["box"]
    assert (box.hardware.price_usd_per_hour, box.hardware.cores) == (0.5, 4)
    assert box.hardware.memory_bytes == 8 * 2**30
    assert {(it.source, it.provenance.value) for it in box.figures} == {(str(path), "measured")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cores: 4", "cores: four", ":5: hardware.box.cores: expected a number from 0, not 'four'"),
        ("cores: 4", "cores: 2.5", ":5: hardware.box.cores: expected a whole number, not 2.5"),
        ("cores: 4", "cores: -1", ":5: hardware.box.cores: expected a number from 0, not -1"),
        ("cores: 4", "cores: .inf", ":5: hardware.box.cores: expected a number from 0, not"),
        ("cores: 4", "core: 4", ":5: hardware.box.core: unknown key; did you mean cores?"),
        ("    cores: 4\n", "", ":3: hardware.box: cores is missing"),
        ("cores: 4", "cores: 4\n    cores: 5", ":6: hardware.box.cores: stands here a second time"),
        ("cores: 4", "cores: 4\n    sm_shares: maybe", "expected true or false, not 'maybe'"),
        ("hardware:", "machines:", ":2: machines: unknown key Known here: hardware, sources"),
        ("cores: 4", "cores: 4\n    tritonserver: bin/x", "expected a whole path, not 'bin/x'"),
        ("cores: 4", "cores: [4]", ":5: hardware.box.cores: expected keys with values, not a list"),
        ("cores: 4", "cores: {4", "not YAML"),
        (
            "cores: 4",
            "cores: {value: 4, source: me, provenance: guessed}",
            "expected measured or imported or estimated, not 'guessed'",
        ),
        ("cores: 4", "cores: {value: 4, source: me}", ":5: hardware.box.cores: provenance is"),
    ],
)
def test_wrong_hardware_is_explained(write, old: str, new: str, said: str):
    message = hardware_error(write, NODE.replace(old, new))
    assert said in message
    assert "file.yaml" in message


def test_a_source_must_stand_at_the_top_of_the_file(write):
    cores = "cores: {value: 4, source: mime, provenance: measured}"
    text = "sources: {mine: my desk}\n" + NODE.replace("cores: 4", cores)
    said = ":6: hardware.box.cores.source: no source of that name stands under sources"
    assert f"{said}; did you mean mine?" in hardware_error(write, text)


def test_files_that_are_none_are_explained(write, tmp_path):
    with pytest.raises(InvalidArgumentError, match="No such file"):
        load_hardware(tmp_path / "none.yaml")
    assert "the file is empty; expected the key hardware" in hardware_error(write, "")
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgumentError, match="not a text file"):
        load_hardware(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "2: 18",
            "0: 18",
            ":5: workloads.mine.profiles.c6i.4xlarge.latency_ms.0: expected a batch",
        ),
        ("{1: 10, 2: 18}", "{2: 18, 1: 10}", "each batch size must be above the one before"),
        ("{1: 10, 2: 18}", "{}", "expected at least one batch size"),
        ("{1: 10, 2: 18}", "{1: 0}", "latency_ms.1: expected a number from 0.001, not 0"),
        ("{1: 0.125}", "{1: 1.5}", "demand.1: expected a number from 0.0001 to 1, not 1.5"),
        ("        load_s: 2.5\n", "", "load_s is missing, and no rule fills it: say what"),
        ("        demand: {1: 0.125}\n", "", "demand is missing, and no rule fills it"),
        ("c6i.4xlarge", "c6i.4xlarg", "no hardware named c6i.4xlarg. Did you mean c6i.4xlarge?"),
        ("    profiles", "    network: resnet51\n    profiles", "did you mean resnet50?"),
        ("    profiles", "    costs: {kind: sound}\n    profiles", "gmacs is missing"),
        ("    profiles", "    threads: 2\n    profiles", "mine.threads: unknown key"),
    ],
)
def test_wrong_workloads_are_explained(write, old: str, new: str, said: str):
    assert said in workload_error(write, MODEL.replace(old, new))


def test_a_workload_of_which_nothing_is_said_is_refused(write):
    message = workload_error(write, "workloads:\n  mine:\n    title: Mine\n")
    assert ":3: workloads.mine: expected network, costs or profiles" in message


def test_costs_come_from_one_place(write):
    costs = "{kind: vision, gmacs: 1, mactivations: 2, mparameters: 3, operators: 50}"
    text = f"workloads:\n  mine:\n    network: resnet50\n    costs: {costs}\n"
    assert "network gives the costs already" in workload_error(write, text)
    wrong = text.replace("    network: resnet50\n", "").replace("vision", "sound")
    assert "expected vision or language, not 'sound'" in workload_error(write, wrong)


def test_the_examples_in_the_documentation_hold(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "catalog.md").read_text()
    nodes, models = re.findall(r"```yaml\n(# \S+\n.*?)```", text, flags=re.DOTALL)
    (tmp_path / "my-nodes.yaml").write_text(nodes)
    (tmp_path / "my-models.yaml").write_text(models)
    machines = load_machines(tmp_path / "my-nodes.yaml")
    found = load_workloads(tmp_path / "my-models.yaml", machines)
    assert {name: list(it.profiles) for name, it in found.items()} == {
        "detector": ["rack-t4", "rack-cpu"],
        "reader": ["rack-cpu"],
    }
    (tmp_path / "my-nodes.yaml").write_text(nodes.replace("cores: 12", "cores: twelve"))
    with pytest.raises(InvalidArgumentError) as caught:
        load_machines(tmp_path / "my-nodes.yaml")
    assert str(caught.value).rpartition("/")[2] in text
