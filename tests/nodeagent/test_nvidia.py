"""GPUs as the real pynvml shows them, over an NVML built here for machines of all sorts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodeagent.mps.install import StandIn
from tests.nodeagent.nvml.machine import DRIVER, M60, T4, Machine


@pytest.fixture
def machine(tmp_path: Path, build_nvml: Callable[..., Path]) -> Iterator[Callable[..., Machine]]:
    """Makes machines: cards in their order, and flags the library is built with."""
    made: list[Machine] = []

    def make(*cards: dict[str, Any], flags: tuple[str, ...] = (), **environment: str) -> Machine:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Machine(folder, build_nvml(*flags), environment))
        made[-1].set(None, count=len(cards), **DRIVER)
        for index, card in enumerate(cards):
            made[-1].set(index, **card)
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_everything_that_a_card_tells_is_reported(machine: Callable[..., Machine]) -> None:
    one = machine(T4)
    assert one.ask("describe") == [
        {
            "uuid": T4["uuid"],
            "name": "Tesla T4",
            "memory_bytes": str(16 << 30),
            "index": 0,
            "driver_version": "550.54.15",
            "cuda_version": "12.4",
            "compute_capability": "7.5",
            "mig": False,
        }
    ]
    assert one.ask("sample") == [
        {
            "uuid": T4["uuid"],
            "sm": 0.25,
            "memory": 0.1,
            "memory_used_bytes": str(3 << 30),
            "power_watts": 41.5,
            "energy_joules": 7000.5,
            "temperature_celsius": 55.0,
            "sm_clock_hertz": 1590e6,
            "memory_clock_hertz": 5001e6,
            "throttling": {"reasons": ["power cap", "heat (hardware)", "reason 0x8000"]},
            "corrected_errors": "3",
            "uncorrected_errors": "0",
            "faults": {},
            "processes": {
                "processes": [
                    {"pid": "42", "memory_bytes": str(2 << 30)},
                    {"pid": "41", "memory_bytes": str(1 << 30)},
                ]
            },
        }
    ]


@pytest.mark.parametrize(
    ("figure", "fields"),
    [
        ("sm_percent", ["sm", "memory"]),
        ("used", ["memory_used_bytes"]),
        ("power_mw", ["power_watts"]),
        ("energy_mj", ["energy_joules"]),
        ("temperature", ["temperature_celsius"]),
        ("sm_mhz", ["sm_clock_hertz"]),
        ("memory_mhz", ["memory_clock_hertz"]),
        ("throttle", ["throttling"]),
        ("corrected", ["corrected_errors"]),
        ("uncorrected", ["uncorrected_errors"]),
        ("processes", ["processes"]),
    ],
)
def test_one_figure_that_is_missing_takes_no_other_with_it(
    figure: str, fields: list[str], shared: Machine
) -> None:
    (whole,) = shared.ask("sample")
    shared.set(0, **{figure: None})
    (part,) = shared.ask("sample")
    shared.set(0, **{figure: T4[figure]})
    assert part == {key: value for key, value in whole.items() if key not in fields}
    assert whole.keys() - part.keys() == set(fields)


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, build_nvml: Callable[..., Path]
) -> Iterator[Machine]:
    """A machine with one whole card, to be left as it was."""
    one = Machine(tmp_path_factory.mktemp("shared"), build_nvml(), {})
    one.set(None, count=1, **DRIVER)
    one.set(0, **T4)
    yield one
    one.end()


def test_a_card_that_tells_next_to_nothing_is_one_all_the_same(
    machine: Callable[..., Machine],
) -> None:
    one = machine({"uuid": "GPU-1"}, flags=("-DOLD_DRIVER",))
    one.set(None, driver=None, cuda=None)
    assert one.ask("describe") == [{"uuid": "GPU-1", "index": 0}]
    assert one.ask("sample") == [{"uuid": "GPU-1"}]
    assert not one.ask("sm_shares")
    assert "doesn't tell its compute capability" in "".join(one.ask("warnings"))


def test_an_older_driver_is_asked_in_its_own_words(machine: Callable[..., Machine]) -> None:
    (load,) = machine(T4, flags=("-DOLD_DRIVER",)).ask("sample")
    assert load["throttling"]["reasons"][0] == "power cap"
    assert not {"processes", "faults"} & load.keys()
    assert load["temperature_celsius"] == 55


def test_faults_are_told_once_each_and_the_newest_are_kept(
    machine: Callable[..., Machine],
) -> None:
    one = machine(T4, {**T4, "uuid": "GPU-2"})
    one.ask("sample")
    one.set(1, xids="0,31,79")
    first, second = one.ask("sample")
    assert first["faults"] == {}
    assert [fault["xid"] for fault in second["faults"]["recent"]] == ["31", "79"]
    assert one.ask("sample")[1]["faults"] == second["faults"]
    one.set(1, xids=",".join(map(str, range(60))))
    faults = one.ask("sample")[1]["faults"]
    assert int(faults["count"]) == 2 + 57
    assert [int(fault["xid"]) for fault in faults["recent"]] == [*range(44, 60)]


def test_a_card_that_falls_off_the_bus_is_lost_alone_and_comes_back(
    machine: Callable[..., Machine],
) -> None:
    one = machine(T4, {**T4, **M60})
    assert [load["sm"] for load in one.ask("sample")] == [0.25, 0.25]
    both = ",".join([T4["uuid"], M60["uuid"]])
    assert one.ask("environment") == {"CUDA_VISIBLE_DEVICES": both}
    assert "GPU is lost" not in "".join(one.ask("warnings"))
    one.set(1, lost=15, xids="0,79")
    first, second = one.ask("sample")
    assert first["sm"] == 0.25
    assert second.pop("faults")["recent"][0]["xid"] == "79"
    assert second == {"uuid": M60["uuid"], "lost": "GPU is lost"}
    (said,) = [text for text in one.ask("warnings") if "GPU 1 (Tesla M60)" in text]
    assert "GPU is lost" in said
    assert not one.ask("problem")
    assert one.ask("environment") == {"CUDA_VISIBLE_DEVICES": T4["uuid"]}
    # It stays described, since it is still this node's.
    assert len(one.ask("describe")) == 2
    assert [bool(load.get("lost")) for load in one.ask("sample")] == [False, True]
    one.set(1, lost=0)
    one.ask("sample")
    assert [load["sm"] for load in one.ask("sample")] == [0.25, 0.25]
    assert "GPU 1" not in "".join(one.ask("warnings"))


@pytest.mark.parametrize("where", ["hangs_at_once", "hangs"])
def test_a_driver_that_hangs_at_the_start_leaves_a_node_without_gpus(
    where: str, machine: Callable[..., Machine]
) -> None:
    one = machine(T4, ANSWER_LIMIT_S="0.3")
    one.set(None, **{where: 1})
    one.ask("start")
    assert one.ask("describe") == one.ask("utilisation") == []
    assert one.ask("environment") == {}
    (said,) = one.ask("warnings")
    assert "driver hasn't said within 0.3 s which GPUs there are, so this node has none" in said
    assert "start the agent again" in said
    # What it says too late counts no more, and the agent can be stopped all the same.
    one.set(None, **{where: 0})
    assert one.ask("describe") == []
    one.set(None, **{where: 1})
    assert one.ask("stop") is None


def test_a_driver_that_hangs_holds_up_nobody(
    machine: Callable[..., Machine], wait_until: Any
) -> None:
    one = machine(T4)
    one.ask("impatient")
    one.ask("start")
    wait_until("figures", lambda: "sm" in one.ask("utilisation")[0])
    one.set(None, hangs=1)
    wait_until("they are unknown", lambda: one.ask("utilisation") == [{"uuid": T4["uuid"]}])
    assert "the NVIDIA driver hasn't answered" in "".join(one.ask("warnings"))
    one.set(None, hangs=0)
    wait_until("figures", lambda: "sm" in one.ask("utilisation")[0])
    assert "hasn't answered" not in "".join(one.ask("warnings"))
    one.set(None, hangs=1)
    wait_until("they are unknown", lambda: one.ask("utilisation") == [{"uuid": T4["uuid"]}])
    # And the agent can be stopped all the same.
    assert one.ask("stop") is None


def test_without_any_card_that_answers_no_model_is_let_run_on_the_cpu(
    machine: Callable[..., Machine],
) -> None:
    one = machine(T4)
    one.ask("sample")
    one.set(0, lost=15)
    one.ask("sample")
    assert "GPU is lost" in one.ask("problem")
    assert one.ask("environment") == one.ask("problem")


def test_a_card_that_is_lost_from_the_start_hides_no_other(
    machine: Callable[..., Machine],
) -> None:
    one = machine({**M60, "lost": 15}, T4)
    assert [gpu["index"] for gpu in one.ask("describe")] == [1]
    assert "GPU 0 is left out" in "".join(one.ask("warnings"))


@pytest.mark.parametrize(
    ("code", "cure"), [(18, "reboot the machine"), (9, "load it"), (999, "nvidia-smi")]
)
def test_a_driver_that_cannot_be_used_is_told_with_a_cure(
    code: int, cure: str, machine: Callable[..., Machine]
) -> None:
    one = machine(T4)
    one.set(None, init=code)
    assert one.ask("describe") == one.ask("sample") == []
    (said,) = one.ask("warnings")
    assert cure in said
    assert ("mismatch" in said) == (code == 18)
    assert one.ask("environment") == {}


def test_a_driver_changed_under_a_running_agent_is_told(machine: Callable[..., Machine]) -> None:
    one = machine(T4)
    assert one.ask("sample")[0]["sm"] == 0.25
    one.set(None, broken=18)
    assert "mismatch" in one.ask("sample")[0]["lost"]
    assert "mismatch" in one.ask("problem")


def test_without_the_library_there_are_no_gpus_and_nothing_to_say(tmp_path: Path) -> None:
    one = Machine(tmp_path, None, {})
    try:
        assert one.ask("describe") == one.ask("sample") == one.ask("warnings") == []
        assert one.ask("environment") == {}
        assert one.ask("problem") == ""
        assert one.ask("start") is one.ask("stop") is None
    finally:
        one.end()


@pytest.mark.parametrize(
    ("names", "indices"),
    [("1", [1]), ("GPU-bbbb", [1]), (T4["uuid"], [0]), ("1,0", [0, 1]), ("", []), ("-1", [])],
)
def test_an_agent_keeps_to_the_gpus_that_are_its_own(
    names: str, indices: list[int], machine: Callable[..., Machine]
) -> None:
    one = machine(T4, {**T4, **M60}, CUDA_VISIBLE_DEVICES=names)
    assert [gpu.get("index", 0) for gpu in one.ask("describe")] == indices
    assert ("CUDA_VISIBLE_DEVICES names -1" in "".join(one.ask("warnings"))) == (names == "-1")


FREE = {**T4, "processes": "none"}


def test_a_card_is_shared_under_mps_and_held_for_it_alone(
    machine: Callable[..., Machine], stand_in: StandIn
) -> None:
    one = machine(FREE, **stand_in.environment())
    one.set(None, root=1)
    one.ask("start")
    assert one.ask("sm_shares") is True
    assert one.ask("warnings") == []
    environment = one.ask("environment")
    assert environment["CUDA_VISIBLE_DEVICES"] == T4["uuid"]
    assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    (daemon,) = stand_in.running()
    assert daemon.environ()["CUDA_MPS_PIPE_DIRECTORY"] == environment["CUDA_MPS_PIPE_DIRECTORY"]
    assert one.values(0, "mode") == ["0", "3"]
    one.ask("stop")
    assert one.values(0, "mode") == ["0", "3", "0"]
    assert not stand_in.running()


def test_the_compute_mode_survives_an_agent_that_is_killed(
    machine: Callable[..., Machine], stand_in: StandIn
) -> None:
    one = machine(FREE, **stand_in.environment())
    one.set(None, root=1)
    one.ask("start")
    environment = one.ask("environment")
    one.end()
    one.ask("start")
    assert one.ask("environment") == environment
    assert one.values(0, "mode") == ["0", "3"]
    one.ask("stop")
    assert one.values(0, "mode")[-1] == "0"


@pytest.mark.parametrize(
    ("changes", "root", "said"),
    [
        ({}, 0, "Insufficient Permissions"),
        ({"processes": f"41:{1 << 30}"}, 1, "process 41"),
        ({"processes": None}, 1, "which processes use it"),
        ({"mode": None}, 1, "compute mode is unknown"),
    ],
)
def test_a_card_that_cannot_be_held_is_shared_under_mps_all_the_same(
    changes: dict[str, Any],
    root: int,
    said: str,
    machine: Callable[..., Machine],
    stand_in: StandIn,
) -> None:
    one = machine({**FREE, **changes}, **stand_in.environment())
    one.set(None, root=root)
    one.ask("start")
    (warning,) = one.ask("warnings")
    assert "open to other processes" in warning
    assert said in warning
    assert one.ask("sm_shares") is True
    assert "3" not in one.values(0, "mode")
    assert not one.mps.joinpath("compute_mode").exists(), "there is nothing to put back"
    one.ask("stop")
    assert "3" not in one.values(0, "mode")


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        ([{**FREE, "capability": "3.0"}], "compute capability 3.0"),
        ([{**FREE, "capability": None}], "doesn't tell its compute capability"),
        ([{**FREE, "mig": 1}], "switch MIG mode off"),
        ([FREE, {**FREE, "uuid": "GPU-2"}], "run an agent for each"),
    ],
)
def test_what_cannot_be_shared_under_mps_is_shared_in_time(
    cards: list[dict[str, Any]],
    said: str,
    machine: Callable[..., Machine],
    stand_in: StandIn,
) -> None:
    one = machine(*cards, **stand_in.environment())
    one.set(None, root=1)
    one.ask("start")
    assert one.ask("sm_shares") is False
    (warning,) = one.ask("warnings")
    assert warning.startswith("models share the GPU in time")
    assert said in warning
    uuids = ",".join(card["uuid"] for card in cards)
    assert one.ask("environment") == {"CUDA_VISIBLE_DEVICES": uuids}
    assert not stand_in.starts()
    assert "3" not in one.values(0, "mode")


def test_without_the_program_a_card_is_shared_in_time(machine: Callable[..., Machine]) -> None:
    one = machine(FREE)
    one.ask("start")
    assert one.ask("sm_shares") is False
    assert "nvidia-cuda-mps-control isn't on PATH" in "".join(one.ask("warnings"))


def test_a_card_before_volta_has_mps_without_shares(
    machine: Callable[..., Machine], stand_in: StandIn
) -> None:
    one = machine({**FREE, "capability": "6.0"}, **stand_in.environment())
    one.set(None, root=1)
    one.ask("start")
    assert one.ask("sm_shares") is False
    assert "older than Volta (compute capability 6.0)" in "".join(one.ask("warnings"))
    environment = one.ask("environment")
    assert "CUDA_MPS_PIPE_DIRECTORY" in environment
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in environment
    one.ask("stop")


def test_mps_that_keeps_failing_is_given_up_and_the_card_shared_in_time(
    machine: Callable[..., Machine], stand_in: StandIn, wait_until: Any
) -> None:
    one = machine(FREE, **stand_in.environment())
    one.set(None, root=1)
    one.ask("start")
    stand_in.refuse("Out of luck")
    (daemon,) = stand_in.running()
    daemon.kill()
    wait_until("it is given up", lambda: one.ask("sm_shares") is False)
    (warning,) = wait_until("it says so alone", lambda: one.ask("warnings"))
    assert warning.startswith("models share GPU 0 (Tesla T4) in time")
    assert "Out of luck" in warning
    assert one.ask("environment") == {"CUDA_VISIBLE_DEVICES": T4["uuid"]}
    wait_until("others may use the card again", lambda: one.values(0, "mode")[-1] == "0")


def test_mps_is_started_anew_for_a_card_that_came_back(
    machine: Callable[..., Machine], stand_in: StandIn, wait_until: Any
) -> None:
    one = machine(FREE, **stand_in.environment())
    one.ask("start")
    before = one.ask("environment")
    one.set(0, lost=15)
    wait_until("it is lost", lambda: one.ask("problem"))
    one.set(0, lost=0)
    wait_until(
        "MPS runs elsewhere",
        lambda: isinstance(now := one.ask("environment"), dict) and now != before,
    )
    wait_until("one daemon", lambda: len(stand_in.running()) == 1)
    assert one.ask("problem") == ""
    one.ask("stop")
