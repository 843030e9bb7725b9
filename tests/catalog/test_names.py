"""Asking by name or by file, and a user's own figures with rules filling what they leave out."""

from __future__ import annotations

import pytest

from paldia.catalog import (
    choose_machines,
    choose_workloads,
    hardware,
    load_workloads,
    machines_from,
    workloads,
    workloads_from,
)
from paldia.core.errors import InvalidArgumentError, NotFoundError
from paldia.core.profiles import Provenance

COSTS = "costs: {kind: vision, gmacs: 4.0, mactivations: 11.0, mparameters: 25.0, operators: 170}"


def test_names_give_what_they_name():
    machines = machines_from("p3.2xlarge, c6i.4xlarge")
    assert list(machines) == ["p3.2xlarge", "c6i.4xlarge"]
    found = workloads_from("resnet50,bert", machines)
    assert list(found) == ["resnet50", "bert"]
    assert list(found["bert"].profiles) == ["p3.2xlarge", "c6i.4xlarge"]
    everything = workloads()["bert"].profiles
    assert found["bert"].profiles["p3.2xlarge"] == everything["p3.2xlarge"]


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(NotFoundError, match="no workload named 'resnet5'") as caught:
        choose_workloads(["resnet5"])
    assert "Did you mean resnet50?" in str(caught.value)
    assert all(name in str(caught.value) for name in workloads())
    with pytest.raises(NotFoundError, match="no hardware named 'p3'") as caught:
        choose_machines(["p3"])
    assert all(name in str(caught.value) for name in hardware())
    with pytest.raises(InvalidArgumentError, match="expected a YAML file or names"):
        workloads_from(" , ")


def test_a_complete_profile_needs_no_rule(write):
    path = write(
        "workloads:\n  mine:\n    title: My model\n    profiles:\n      c6i.4xlarge:\n"
        "        latency_ms: {1: 10, 4: 8, 8: 70}\n        demand: {1: 0.25}\n"
        "        memory_mib: 300\n        load_s: 2.5\n        watts: 60\n"
        "        colocation_penalty: 0.03\n"
    )
    mine = workloads_from(str(path))["mine"]
    assert mine.title == "My model"
    assert list(mine.profiles) == ["c6i.4xlarge"]
    profile = mine.profiles["c6i.4xlarge"]
    # Noise in a table is no gain: a larger batch never takes less time.
    assert profile.points == ((1, 0.010), (4, 0.010), (8, 0.070))
    assert profile.demand == ((1, 0.25),)
    assert (profile.memory_bytes, profile.load_s) == (300 * 2**20, 2.5)
    assert (profile.watts, profile.colocation_penalty) == (60, 0.03)
    assert profile.provenance is Provenance.MEASURED
    assert {it.source for it in mine.figures["c6i.4xlarge"]} == {str(path)}


def test_costs_alone_give_a_profile_everywhere(write):
    mine = load_workloads(write(f"workloads:\n  mine:\n    {COSTS}\n"))["mine"]
    assert set(mine.profiles) == set(hardware())
    near = workloads()["resnet50"].profiles
    for kind, profile in mine.profiles.items():
        assert profile.provenance is Provenance.ESTIMATED
        batch = min(profile.largest_batch, near[kind].largest_batch)
        # Costs like ResNet-50's make times like ResNet-50's.
        ratio = profile.latency_s(batch) / near[kind].latency_s(batch)
        assert 0.6 < ratio < 1.6, kind


def test_ones_own_table_on_one_gpu_tells_of_the_others(write):
    table = "latency_ms: {1: 20, 8: 20, 32: 60, 64: 120}"
    path = write(
        f"workloads:\n  mine:\n    {COSTS}\n    profiles:\n      p3.2xlarge:\n        {table}\n"
    )
    mine = load_workloads(path)["mine"].profiles
    assert mine["p3.2xlarge"].latency_s(64) == pytest.approx(0.120)
    assert mine["p3.2xlarge"].latency_s(128) == pytest.approx(0.240, rel=0.02)
    near = workloads()["resnet50"].profiles
    for kind in ("g4dn.xlarge", "g3s.xlarge", "p2.xlarge"):
        assert mine[kind].latency_s(1) > 1.7 * near[kind].latency_s(1), kind
        assert mine[kind].latency_s(32) > 1.7 * near[kind].latency_s(32), kind


def test_a_figure_of_ones_own_stands_before_a_rule(write):
    own = (
        "{demand: {value: {1: 0.5}, source: my bench, provenance: measured}, sm_share: {1: 0.4}, "
        "memory_mib: 777, load_s: 9, watts: 123, colocation_penalty: 0.2}"
    )
    path = write(f"workloads:\n  mine:\n    {COSTS}\n    profiles:\n      p3.2xlarge: {own}\n")
    mine = load_workloads(path)["mine"]
    profile = mine.profiles["p3.2xlarge"]
    assert (profile.demand, profile.sm_share) == (((1, 0.5),), ((1, 0.4),))
    assert (profile.memory_bytes, profile.load_s) == (777 * 2**20, 9)
    assert (profile.watts, profile.colocation_penalty) == (123, 0.2)
    origin = {it.name: (it.source, it.provenance.value) for it in mine.figures["p3.2xlarge"]}
    assert origin["demand"] == ("my bench", "measured")
    assert origin["latency"][1] == "estimated"


def test_more_threads_of_ones_own_choice_are_faster_and_take_more(write):
    def profile(threads: int):
        own = f"      c6i.4xlarge: {{threads: {threads}}}\n"
        path = write(f"workloads:\n  mine:\n    {COSTS}\n    profiles:\n{own}")
        return load_workloads(path)["mine"].profiles["c6i.4xlarge"]

    one, four, many = profile(1), profile(4), profile(64)
    assert (one.demand[0][1], four.demand[0][1], many.demand[0][1]) == (1 / 8, 1 / 2, 1.0)
    assert one.latency_s(1) / 4 < four.latency_s(1) < one.latency_s(1) / 2
    assert many.latency_s(1) < four.latency_s(1)


def test_ones_own_hardware_takes_the_rules_of_its_gpu(write, tmp_path):
    node = "price_usd_per_hour: 0.1, memory_gib: 16, cores: 4, gpus: 1"
    (tmp_path / "nodes.yaml").write_text(
        f"hardware:\n  known: {{{node}, accelerator: T4}}\n  strange: {{{node}}}\n"
    )
    machines = machines_from(str(tmp_path / "nodes.yaml"))
    known = choose_workloads(["dpn92"], machines)["dpn92"].profiles
    assert list(known) == ["known"]
    assert known["known"].points == workloads()["dpn92"].profiles["g4dn.xlarge"].points
    alone = {"strange": machines["strange"]}
    path = write(f"workloads:\n  mine:\n    {COSTS}\n")
    with pytest.raises(InvalidArgumentError, match="mine has no profile on any of strange"):
        load_workloads(path, alone)
