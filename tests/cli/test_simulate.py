"""`paldia simulate` from its options to the files it leaves."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paldia.catalog import PAPER_NODES

PALDIA = str(Path(sys.executable).with_name("paldia"))
SHORT = ("--trace", "poisson:20:20", "--models", "mobilenet_v2")
PICTURES = {"latency.png", "compliance.png", "nodes.png", "tail.png"}
NODES_YAML = """\
hardware:
  box: {price_usd_per_hour: 0.12, memory_gib: 64, cores: 16}
  crate: {price_usd_per_hour: 0.3, memory_gib: 64, cores: 32}
"""
MODELS_YAML = """\
workloads:
  reader:
    profiles:
      box:
        latency_ms: {1: 40, 4: 150}
        demand: {1: 0.0625}
        memory_mib: 900
        load_s: 3
"""


def read_json(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_it_leaves_a_report_with_pictures(paldia, tmp_path: Path):
    out = tmp_path / "made" / "on the way"
    ran = paldia("simulate", *SHORT, "--out", out)
    assert ran.code == 0, ran.err
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", *PICTURES}
    (cell,) = read_json(out)["cells"]
    assert (cell["policy"], cell["workload"]) == ("paldia", "mobilenet_v2")
    assert cell["requests"] == pytest.approx(400, abs=80)
    assert cell["slo_compliance"] > 0.9
    settings = read_json(out)["settings"]
    assert settings["nodes"] == dict.fromkeys(PAPER_NODES, 1)
    assert (settings["slo_s"], settings["duration_s"]) == (0.2, 20.0)
    text = (out / "report.md").read_text()
    assert f"{cell['requests']:,} requests" in text
    assert all(f"({name})" in text for name in PICTURES)
    assert "POLICY" in ran.out
    assert str(out / "report.md") in ran.out
    assert "paldia (1 of 1)" in ran.err


def test_policies_are_compared_on_the_same_requests(paldia, tmp_path: Path):
    ran = paldia(
        "simulate", *SHORT, "--policy", "paldia, molecule-cost,paldia", "--json", "--out", tmp_path
    )
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert json.loads(ran.out) == read_json(tmp_path)
    cells = read_json(tmp_path)["cells"]
    assert [cell["policy"] for cell in cells] == ["paldia", "molecule-cost"]
    assert cells[0]["requests"] == cells[1]["requests"]
    assert (tmp_path / "overview.png").exists()


def test_a_trace_is_cut_sped_up_and_scaled(paldia, tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("minute,requests\n" + "".join(f"{at},{60 * (at + 1)}\n" for at in range(6)))
    ran = paldia(
        *("simulate", "--trace", trace, "--models", "mobilenet_v2", "--out", tmp_path),
        *("--speed", 6, "--start", 10, "--duration", 20, "--peak-rps", 30, "--seed", 3),
    )
    assert ran.code == 0, ran.err
    found = read_json(tmp_path)
    # Minutes 1 and 2 go by in 10 s each; the busier one brings 30 requests a second.
    assert found["cells"][0]["requests"] == pytest.approx(500, abs=40)
    settings = found["settings"]
    assert (settings["speed"], settings["duration_s"], settings["seed"]) == (6, 20, 3)
    assert settings["load"] == pytest.approx(30)
    assert settings["factor"] == pytest.approx(30 / 18)
    assert "compressed 6 times" in (tmp_path / "report.md").read_text()


def test_a_line_for_every_request(paldia, tmp_path: Path):
    ran = paldia("simulate", *SHORT, "--requests-csv", "--json", "--out", tmp_path)
    assert ran.code == 0, ran.err
    with (tmp_path / "requests-paldia.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (cell,) = json.loads(ran.out)["cells"]
    assert len(rows) == cell["requests"]
    in_time = sum(row["fate"] == "answered" and float(row["latency_ms"]) <= 200 for row in rows)
    assert in_time == pytest.approx(cell["slo_compliance"] * len(rows), abs=1)


def test_several_models_share_the_trace(paldia, tmp_path: Path):
    ran = paldia(
        *("simulate", "--trace", "poisson:60:30", "--models", "mobilenet_v2,resnet18", "--json"),
        *("--hardware", "2*p3.2xlarge,g3s.xlarge", "--out", tmp_path),
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["settings"]["nodes"] == {"p3.2xlarge": 2, "g3s.xlarge": 1}
    models = found["cells"][0]["models"]
    assert [model["name"] for model in models] == ["mobilenet_v2", "resnet18"]
    assert [model["requests"] for model in models] == pytest.approx([900, 900], abs=150)


def test_models_and_machines_of_the_users_own(paldia, tmp_path: Path):
    nodes, models = tmp_path / "nodes.yaml", tmp_path / "models.yaml"
    nodes.write_text(NODES_YAML)
    models.write_text(MODELS_YAML)
    ran = paldia(
        *("simulate", "--trace", "poisson:5:20", "--models", models, "--hardware", f"2*{nodes}"),
        *("--json", "--out", tmp_path),
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["settings"]["nodes"] == {"box": 2, "crate": 2}
    assert found["cells"][0]["workload"] == "reader"
    assert set(found["cells"][0]["bill"]) == {"box"}


def test_a_model_that_runs_on_none_of_the_machines(paldia, tmp_path: Path):
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text(NODES_YAML)
    ran = paldia("simulate", *SHORT, "--hardware", nodes, "--out", tmp_path)
    assert ran.code == 1
    assert "nothing is known of how mobilenet_v2 runs on box, crate" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "no.csv"], "no trace at no.csv"),
        (["--trace", "poisson:fast"], "poisson:200"),
        (["--models", "resnet"], "Did you mean resnet"),
        (["--hardware", "p3.2xlarg"], "Did you mean p3.2xlarge?"),
        (["--hardware", "x*p3.2xlarge"], "NUMBER*KIND"),
        (["--hardware", "0*p3.2xlarge"], "NUMBER*KIND"),
        (["--hardware", "1001*p3.2xlarge"], "at most 1000"),
        (["--policy", "best"], "no policy named 'best'; there are molecule-cost"),
        (["--speed", "0"], "speed must be above 0"),
        (["--start", "20"], "lasts 20 s"),
        (["--duration", "0"], "holds nothing"),
        (["--peak-rps", "-5"], "more than none"),
        (["--hardware", "mine.yaml"], "mine.yaml"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(
    paldia, tmp_path: Path, arguments: list[str], said: str
):
    ran = paldia("simulate", *SHORT, "--out", tmp_path / "out", *arguments)
    assert ran.code == 1
    assert ran.err.startswith("paldia: ")
    assert said in ran.err
    assert ran.out == ""
    assert not (tmp_path / "out").exists()


def test_a_bad_trace_is_told_by_file_and_line(paldia, tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("second,requests\n0,4\n1,many\n")
    ran = paldia("simulate", "--trace", trace, "--models", "resnet18", "--out", tmp_path)
    assert ran.code == 1
    assert f"{trace}, line 3: expected a whole number of requests" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "resnet18"], "--trace"),
        (["--trace", "poisson:5"], "--models"),
        ([*SHORT, "--seed", "-1"], "seed"),
        ([*SHORT, "--slo-ms", "0"], "above 0"),
        ([*SHORT, "--frobnicate"], "frobnicate"),
    ],
)
def test_wrong_usage_exits_with_2(paldia, arguments: list[str], said: str):
    ran = paldia("simulate", *arguments)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_shows_examples(paldia, option: str):
    ran = paldia("simulate", option)
    assert ran.code == 0
    assert "paldia simulate --trace poisson:150:900 --models resnet50\n" in ran.out


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path):
    command = [
        *(PALDIA, "simulate", "--trace", "poisson:20:900", "--models", "mobilenet_v2"),
        *("--policy", "molecule-perf,paldia", "--requests-csv", "--out", str(tmp_path)),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "paldia (2 of 2)" in line:
                process.send_signal(signal.SIGINT)
                break
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "molecule-perf" in out
    found = read_json(tmp_path)
    assert [cell["policy"] for cell in found["cells"]] == ["molecule-perf"]
    assert found["unfinished"] == ["paldia"]
    assert "**Interrupted**: paldia" in (tmp_path / "report.md").read_text()
    assert {path.name for path in tmp_path.glob("requests*")} == {"requests-molecule-perf.csv"}
