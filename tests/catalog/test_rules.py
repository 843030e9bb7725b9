"""Each rule is as far off as it was found to be, no further, and not suspiciously less."""

from __future__ import annotations

import numpy as np
import pytest

from bench.catalog.tables import gain, measured_gain, predicted_gains
from paldia.catalog import cpu_rules, demand_rules, footprint_rules, gpu_rules, machines
from paldia.catalog.crosscheck import Check, checks, full_speed_share
from paldia.catalog.shape import Shape
from paldia.catalog.tables import networks, rows

MEAN_ERRORS = {
    # rule: (known figures, mean relative error), as docs/catalog.md prints them
    "floor by operators": (8, 0.108),
    "V100 slope by RTX 3090": (5, 0.117),
    "RTX 3090 by costs": (46, 0.126),
    "shape between two batches": (64, 0.040),
    "T4 slope by V100": (7, 0.035),
    "M60 ratio by other models": (10, 0.099),
    "K80 ratio by other models": (10, 0.039),
    "inference ratio by training's": (1, 0.036),
    "vision table": (67, 0.097),
    "language table": (32, 0.040),
    "SMs in use": (12, 0.054),
    "SMs for full speed": (12, 0.051),
    "bandwidth in use": (9, 0.232),
    "time beside a neighbour": (4, 0.037),
    "two threads by one": (39, 0.076),
    "one core by costs": (16, 0.072),
    "weights by size": (16, 0.359),
    "busy power": (12, 0.122),
}


@pytest.fixture(scope="module")
def by_rule() -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checks(machines()["p3.2xlarge"]):
        found.setdefault(check.rule, []).append(check)
    return found


def test_every_rule_is_checked(by_rule):
    assert {rule: len(found) for rule, found in by_rule.items()} == {
        rule: count for rule, (count, _) in MEAN_ERRORS.items()
    }


@pytest.mark.parametrize("rule", MEAN_ERRORS)
def test_a_rule_is_off_as_much_as_it_was_found_to_be(by_rule, rule: str):
    errors = [abs(check.error) for check in by_rule[rule]]
    assert np.mean(errors) == pytest.approx(MEAN_ERRORS[rule][1], rel=0.03)


def test_an_error_is_relative_to_what_is_known():
    assert Check("rule", "case", 2.0, 2.5).error == pytest.approx(0.25)
    assert Check("rule", "case", 2.0, 1.0).error == pytest.approx(-0.5)


class TestLeavingOut:
    """A rule that looked at what it is asked for would prove nothing."""

    def test_floors_and_slopes_change_with_what_is_left_out(self):
        left_out = frozenset({"resnet50"})
        assert gpu_rules.launch_ms(left_out) != gpu_rules.launch_ms()
        assert gpu_rules.picture_factor(left_out) != gpu_rules.picture_factor()
        assert gpu_rules.gpu_factor("resnet50", "T4", left_out) != (
            gpu_rules.gpu_factor("resnet50", "T4")
        )
        own = gpu_rules.gpu_factor("vgg19", "M60")
        assert own == gpu_rules.training_ratios("M60")["VGG19"]
        assert gpu_rules.gpu_factor("vgg19", "M60", frozenset({"vgg19"})) != own

    def test_bert_is_told_from_a_larger_one_when_it_may_not_be_looked_at(self):
        costs = networks()["bert"]
        known = gpu_rules.known_shapes()["bert", "V100"]
        same = gpu_rules.shape_on("bert", costs, "V100")
        other = gpu_rules.shape_on("bert", costs, "V100", without=frozenset({"bert"}))
        assert same == pytest.approx(known) or (same.floor_ms, same.slope_ms) == pytest.approx(
            (known.floor_ms, known.slope_ms)
        )
        assert other.slope_ms != pytest.approx(known.slope_ms, rel=1e-3)

    def test_shares_penalties_threads_and_costs_too(self):
        for rule in (demand_rules.sm_demand_line, demand_rules.penalty):
            assert rule(frozenset({"vgg19"})) != rule()
        assert demand_rules.bandwidth_line(frozenset({"resnet50"})) != demand_rules.bandwidth_line()
        models = {row["model"] for row in rows("onnx_threads")}
        shares = {cpu_rules.serial_share(frozenset({model})) for model in models}
        assert len(shares) > 1
        costs = networks()["vgg19"]
        assert cpu_rules.fitted_core_ms(costs, frozenset({"vgg19"})) != (
            cpu_rules.fitted_core_ms(costs)
        )
        assert footprint_rules.weights_s(100.0, frozenset({"resnet50"})) != (
            footprint_rules.weights_s(100.0)
        )


class TestGpu:
    def test_a_floor_is_the_hosts_and_a_slope_the_devices(self):
        costs = networks()["dpn92"]
        shapes = {gpu: gpu_rules.shape_on("dpn92", costs, gpu) for gpu in gpu_rules.GPUS}
        assert len({shape.floor_ms for shape in shapes.values()}) == 1
        slopes = [shapes[gpu].slope_ms for gpu in ("V100", "T4", "M60", "K80")]
        assert slopes == sorted(slopes)
        assert 2.5 < slopes[1] / slopes[0] < 3.1

    def test_ones_own_shape_stands_and_moves(self):
        own = {"V100": Shape(3.0, 1.0, 2.5)}
        costs = networks()["resnet18"]
        assert gpu_rules.shape_on("resnet18", costs, "V100", own) == own["V100"]
        moved = gpu_rules.shape_on("resnet18", costs, "K80", own)
        assert moved.floor_ms == 3.0
        assert moved.slope_ms == pytest.approx(gpu_rules.training_ratios("K80")["ResNet18"])

    def test_counts_agree_with_what_timm_counts(self):
        table = {row["model"]: row for row in rows("timm_infer_rtx3090")}
        for network, name in gpu_rules.PICTURE_ROWS.items():
            costs, row = networks()[network], table[name]
            assert costs.mparameters == pytest.approx(float(row["mparameters"]), rel=0.01)
            if row["side"] == "224":
                assert costs.gmacs == pytest.approx(float(row["gmacs"]), rel=0.04), network
                assert costs.mactivations == pytest.approx(float(row["mactivations"]), rel=0.04)


class TestDemand:
    def test_a_fuller_device_is_in_greater_demand(self):
        shape = Shape(10.0, 1.0, 2.5)
        demands = [demand_rules.demand("other", "vision", shape, 1 << n) for n in range(8)]
        assert demands == sorted(demands)
        assert 0.2 < demands[0] < 0.4
        assert 0.9 < demands[-1] <= 1

    def test_a_frameworks_floor_leaves_the_device_idle(self):
        empty, full = demand_rules.sm_demand_line()
        idle, busy = Shape(10.0, 1e-6, 1.0), Shape(1e-6, 10.0, 1.0)
        assert demand_rules.sm_demand(idle, 1) == pytest.approx(
            empty * demand_rules.framework_idleness(), rel=1e-3
        )
        assert demand_rules.sm_demand(busy, 1) == pytest.approx(full, rel=1e-3)
        # TensorRT's floor of ResNet-50 is 1.8 ms, PyTorch's some 10 ms.
        assert demand_rules.framework_idleness() == pytest.approx(0.174, abs=0.002)

    def test_a_batch_held_to_its_sm_share_keeps_95_percent_of_its_speed(self):
        for sharpness in (1.0, 1.5, 2.5):
            shape = Shape(5.0, 0.7, sharpness)
            for batch in (1, 4, 16, 64):
                share = demand_rules.sm_share(shape, batch)
                held = Shape(5.0, 0.7 / share, sharpness).latency_ms(batch)
                assert shape.latency_ms(batch) / held >= 0.95 - 1e-9
                assert share <= 0.95 + 1e-9

    def test_shares_read_off_measurements(self):
        # ResNet-50, batch 1: 2.50 ms on 80 % of the SMs, 2.46 ms on all, so 80 % or less will do.
        assert 0.6 < full_speed_share("resnet50", 1) <= 0.82
        assert full_speed_share("vgg19", 32) > 0.9


class TestTwoLanes:
    """What the catalog says sharing gains, against what iGniter measured."""

    def test_a_gain_follows_from_demand_and_penalty(self):
        assert gain(0.4, 0.0) == pytest.approx(2.0)
        assert gain(0.5, 0.1) == pytest.approx(2 / 1.1)
        assert gain(1.0, 0.1) == pytest.approx(1 / 1.1)

    def test_measured_gains(self):
        gains = {name: measured_gain(name) for name in ("alexnet", "resnet50", "vgg19", "ssd")}
        assert gains == pytest.approx(
            {"alexnet": 1.069, "resnet50": 1.083, "vgg19": 0.976, "ssd": 0.980}, abs=0.001
        )

    def test_sms_in_use_tell_the_gain_where_bandwidth_does_not(self):
        for name in ("alexnet", "resnet50", "vgg19", "ssd"):
            predicted, measured = predicted_gains(name), measured_gain(name)
            for way in ("SMs in use", "rule, network left out"):
                assert predicted[way] == pytest.approx(measured, rel=0.08), (name, way)
            if "bandwidth alone" in predicted:
                assert predicted["bandwidth alone"] > 1.5 * measured


class TestCpu:
    def test_threads_are_added_until_one_request_is_quick_enough(self):
        assert cpu_rules.threads_for(0.08, 8) == 1
        assert cpu_rules.threads_for(0.15, 8) == 2
        assert cpu_rules.threads_for(0.30, 8) == 4
        assert cpu_rules.threads_for(5.0, 8) == 8
        assert cpu_rules.threads_for(5.0, 6) == 6
        assert cpu_rules.threads_for(5.0, 1) == 1

    def test_threads_help_less_and_less(self):
        factors = [cpu_rules.threads_factor(threads) for threads in (1, 2, 4, 8)]
        assert factors[0] == pytest.approx(1.0)
        assert factors == sorted(factors, reverse=True)
        assert factors[1] > 0.5
        assert 0 < cpu_rules.penalty() < 0.15

    def test_a_network_that_nobody_measured_is_told_from_its_costs(self):
        points, measured = cpu_rules.core_points("unheard of", networks()["resnet50"])
        known, by_table = cpu_rules.core_points("resnet50", networks()["resnet50"])
        assert (measured, by_table) == (False, True)
        assert points[0][1] == pytest.approx(known[0][1], rel=0.15)


class TestFootprint:
    def test_memory_counts_weights_and_what_a_batch_keeps_alive(self):
        bare = footprint_rules.memory_bytes(0.0, 0.0, 1, gpu=False)
        heavy = footprint_rules.memory_bytes(100.0, 0.0, 1, gpu=False)
        assert heavy - bare == 400_000_000
        batch = footprint_rules.memory_bytes(0.0, 10.0, 64, gpu=False)
        assert batch - bare == 640_000_000
        assert footprint_rules.memory_bytes(0.0, 0.0, 1, gpu=True) > bare

    def test_power_lies_between_idle_and_rated(self):
        machine = machines()["p3.2xlarge"].hardware
        assert footprint_rules.busy_watts(machine, 0.0) == machine.idle_watts
        assert footprint_rules.busy_watts(machine, 1.0) == machine.rated_watts
        assert footprint_rules.busy_watts(machine, 3.0) == machine.rated_watts
