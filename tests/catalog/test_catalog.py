"""What the built-in catalog holds: complete, sourced, plausible, and no two networks alike."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from paldia.catalog import PAPER_NODES, Workload, cpu_rules, hardware, machines, workloads
from paldia.catalog.tables import DATA, networks, rows
from paldia.core.profiles import Profile, Provenance

GPUS = ("p3.2xlarge", "g4dn.xlarge", "g3s.xlarge", "p2.xlarge")
CPUS = ("c6i.4xlarge", "c6i.2xlarge", "m4.xlarge")
PEAK_TFLOPS = {"p3.2xlarge": 15.7, "g4dn.xlarge": 8.1, "g3s.xlarge": 4.8, "p2.xlarge": 4.4}
WINOGRAD = 2.25
"""3 x 3 convolutions may save this factor of multiplications, and so exceed the peak."""


@pytest.fixture(scope="module")
def catalog() -> dict[str, Workload]:
    return workloads()


def all_profiles(catalog: dict[str, Workload]) -> list[tuple[str, str, Profile]]:
    return [
        (name, kind, profile)
        for name, workload in catalog.items()
        for kind, profile in workload.profiles.items()
    ]


def test_it_holds_the_papers_nodes_and_workloads(catalog):
    assert set(hardware()) == {*GPUS, *CPUS}
    assert set(PAPER_NODES) == {*GPUS, *CPUS} - {"g4dn.xlarge"}
    assert len(PAPER_NODES) == 6
    assert len(catalog) == 16
    assert all(set(workload.profiles) == set(hardware()) for workload in catalog.values())


def test_hardware_is_what_it_is_sold_as():
    kinds = hardware()
    prices = {name: kind.price_usd_per_hour for name, kind in kinds.items()}
    assert prices == {
        "p3.2xlarge": 3.06,
        "p2.xlarge": 0.90,
        "g3s.xlarge": 0.75,
        "g4dn.xlarge": 0.526,
        "c6i.4xlarge": 0.68,
        "c6i.2xlarge": 0.34,
        "m4.xlarge": 0.20,
    }
    assert {name for name, kind in kinds.items() if kind.sm_shares} == {"p3.2xlarge", "g4dn.xlarge"}
    assert {name for name, kind in kinds.items() if kind.gpus} == set(GPUS)
    for kind in kinds.values():
        assert 0 < kind.idle_watts < kind.rated_watts
        assert 20 <= kind.activation_s <= 120


def test_old_cards_are_given_no_image_that_lacks_them():
    images = {name: machine.triton_image for name, machine in machines().items()}
    named = {name: image.rpartition(":")[2] for name, image in images.items() if image}
    # A V100 has compute capability 7.0, and 25.01 asks for 7.5; K80 and M60 never had one.
    assert named == {"p3.2xlarge": "24.10-py3", "g4dn.xlarge": "25.03-py3"}


def test_every_figure_says_where_it_comes_from(catalog):
    shown = [figure for machine in machines().values() for figure in machine.figures]
    for workload in catalog.values():
        assert set(workload.figures) == set(workload.profiles)
        shown += itertools.chain.from_iterable(workload.figures.values())
    assert len(shown) > 700
    for figure in shown:
        assert figure.value
        assert len(figure.source) > 20
        assert ".yaml" not in figure.source
    by_origin = {it: [f for f in shown if f.provenance is it] for it in Provenance}
    assert by_origin[Provenance.IMPORTED]
    for figure in by_origin[Provenance.ESTIMATED]:
        assert figure.source.startswith(("rule: ", "Judgement: ", "ResNet-50 with ONNX Runtime"))
    assert not [f for f in by_origin[Provenance.IMPORTED] if f.source.startswith("rule")]


def test_every_table_names_its_source():
    tables = sorted(DATA.glob("*.csv"))
    assert len(tables) >= 8
    for path in tables:
        head = path.read_text().splitlines()[0]
        assert head.startswith("#"), path
        assert any(
            word in head for word in ("Source: github.com/", "Measured", "Counted", "Shares")
        )
        assert rows(path.stem)
    assert (DATA / "licenses" / "timm_Apache-2.0.txt").read_text().strip().startswith("Apache")


def test_larger_batches_take_longer_and_more_of_the_device(catalog):
    for name, kind, profile in all_profiles(catalog):
        times = [profile.latency_s(batch) for batch in range(1, profile.largest_batch + 1)]
        assert times == sorted(times), (name, kind)
        demands = [profile.demand_fraction(batch) for batch in range(1, profile.largest_batch + 1)]
        # Between sizes that take as much, rounding may make a hair's breadth of difference.
        assert demands == pytest.approx(sorted(demands), abs=2e-3), (name, kind)
        assert all(0 < it <= 1 for it in demands)
        shares = [share for _, share in profile.sm_share]
        assert shares == sorted(shares)
        assert bool(shares) == hardware()[kind].sm_shares


def test_batching_pays_on_gpus_and_hardly_on_cpus(catalog):
    for name, kind, profile in all_profiles(catalog):
        largest = profile.largest_batch
        gain = largest * profile.latency_s(1) / profile.latency_s(largest)
        if kind in CPUS:
            assert 0.7 < gain < 1.3, (name, kind)
        elif kind == "p3.2xlarge":
            assert gain > 1.4, (name, kind)


def test_no_gpu_computes_faster_than_it_can(catalog):
    for name, workload in catalog.items():
        for kind, peak in PEAK_TFLOPS.items():
            profile = workload.profiles[kind]
            rate = profile.largest_batch / profile.latency_s(profile.largest_batch)
            tflops = 2e-3 * networks()[name].gmacs * rate
            assert tflops < WINOGRAD * peak, (name, kind)


def test_dearer_generations_are_faster(catalog):
    for name, workload in catalog.items():
        full = [workload.profiles[kind] for kind in GPUS]
        rates = [it.largest_batch / it.latency_s(it.largest_batch) for it in full]
        assert rates == sorted(rates, reverse=True), name
        big, small, old = (workload.profiles[kind].latency_s(1) for kind in CPUS)
        assert big <= small < old, name


def test_published_figures_are_carried_over_as_they_are(catalog):
    resnet50, bert = catalog["resnet50"].profiles, catalog["bert"].profiles
    assert resnet50["p3.2xlarge"].latency_s(8) == pytest.approx(0.0115)
    assert resnet50["p3.2xlarge"].latency_s(64) == pytest.approx(0.0554)
    assert resnet50["g4dn.xlarge"].latency_s(16) == pytest.approx(0.03977)
    assert bert["p3.2xlarge"].latency_s(4) == pytest.approx(0.01082)
    assert bert["g4dn.xlarge"].latency_s(8) == pytest.approx(0.04586)
    assert catalog["efficientnet_b0"].profiles["p3.2xlarge"].latency_s(32) == pytest.approx(0.01646)
    vgg19 = catalog["vgg19"].profiles["p3.2xlarge"]
    assert (vgg19.latency_s(16), vgg19.demand_fraction(16)) == pytest.approx((0.02859, 0.907))
    assert vgg19.colocation_penalty == pytest.approx(0.126, abs=0.001)
    for profile in (resnet50["p3.2xlarge"], bert["g4dn.xlarge"], vgg19):
        assert profile.provenance is Provenance.IMPORTED
    assert resnet50["g3s.xlarge"].provenance is Provenance.ESTIMATED


def test_a_table_goes_on_where_it_ends(catalog):
    bert = catalog["bert"].profiles["p3.2xlarge"]
    assert bert.largest_batch > 8
    slope = (bert.latency_s(8) - bert.latency_s(4)) / 4
    assert bert.latency_s(16) == pytest.approx(bert.latency_s(8) + 8 * slope, rel=0.15)


def test_a_demand_is_never_below_the_published_bandwidth(catalog):
    for row in rows("bandwidth_v100"):
        if row["network"] != "vgg19":
            profile = catalog[row["network"]].profiles["p3.2xlarge"]
            assert profile.demand_fraction(int(row["batch"])) >= float(row["share"]) - 1e-6


def test_an_instance_on_cpus_takes_whole_cores(catalog):
    for name, kind, profile in all_profiles(catalog):
        if kind in CPUS:
            threads = profile.demand_fraction(1) * hardware()[kind].cores
            assert threads in (1, 2, 4, 8), (name, kind)
    shufflenet, vgg19 = catalog["shufflenet_v2"].profiles, catalog["vgg19"].profiles
    assert shufflenet["c6i.4xlarge"].demand_fraction(1) == 1 / 8
    assert shufflenet["c6i.2xlarge"].latency_s(1) == shufflenet["c6i.4xlarge"].latency_s(1)
    assert vgg19["c6i.4xlarge"].demand_fraction(1) > shufflenet["c6i.4xlarge"].demand_fraction(1)


def test_memory_and_load_time_follow_the_network(catalog):
    for name, kind, profile in all_profiles(catalog):
        weights = 4e6 * networks()[name].mparameters
        assert weights < profile.memory_bytes < hardware()[kind].memory_bytes / 2, (name, kind)
        assert 1 < profile.load_s < 30, (name, kind)
        machine = hardware()[kind]
        assert machine.idle_watts < profile.watts <= machine.rated_watts


def shape_of(workload: Workload) -> np.ndarray:
    """How time grows with the batch on each GPU, and the CPU's time against the V100's."""
    grown = [
        workload.profiles[kind].latency_s(batch) / workload.profiles[kind].latency_s(1)
        for kind in GPUS
        for batch in (4, 16, 64)
    ]
    cpu = workload.profiles["c6i.4xlarge"].latency_s(1) / workload.profiles["p3.2xlarge"].latency_s(
        1
    )
    return np.log([*grown, cpu])


def test_no_two_networks_are_scaled_copies_of_one(catalog):
    for (one, first), (two, second) in itertools.combinations(catalog.items(), 2):
        apart = np.abs(shape_of(first) - shape_of(second)).max()
        if {one, two} <= {"bert", "albert", "distilbert"}:
            # Made of the same layers, twelve or six of them: alike on a GPU because they are.
            assert first.profiles["p3.2xlarge"].memory_bytes != (
                second.profiles["p3.2xlarge"].memory_bytes
            )
            assert [it.points for it in first.profiles.values()] != (
                [it.points for it in second.profiles.values()]
            )
        else:
            assert apart > 0.05, (one, two, apart)


def test_work_grows_with_tokens(catalog):
    size = catalog["bert"].input_size
    assert size is not None
    assert size.unit == "tokens"
    assert dict(size.work)[128] == 1.0
    assert dict(size.work)[384] == pytest.approx(54.33 / 18.13, rel=0.01)


def test_it_is_the_same_under_every_hash_seed():
    code = (
        "from paldia.catalog import hardware, workloads; import hashlib;"
        "print(hashlib.sha256(repr((hardware(), [(k, dict(w.profiles), dict(w.figures))"
        " for k, w in workloads().items()])).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(digests) == 1


def test_cpu_times_are_the_reference_cores_by_speed_and_threads(catalog):
    kinds = machines()
    for row in rows("onnx_reference_core"):
        for kind in CPUS:
            profile, machine = catalog[row["network"]].profiles[kind], kinds[kind]
            batch, cores = int(row["batch"]), machine.hardware.cores
            threads = round(profile.demand_fraction(1) * cores)
            one_core_s = float(row["latency_ms"]) / 1e3 / machine.core_speed
            if batch <= profile.largest_batch:
                known = one_core_s * cpu_rules.threads_factor(threads)
                assert profile.latency_s(batch) == pytest.approx(known, rel=1e-4)
            if batch == 1:
                # The fewest threads that are quick enough, if any are.
                assert threads == cores or profile.latency_s(1) <= cpu_rules.TARGET_S
                fewer_s = one_core_s * cpu_rules.threads_factor(threads // 2 or 1)
                assert threads == 1 or fewer_s > cpu_rules.TARGET_S
