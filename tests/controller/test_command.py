"""The provisioner that runs a command: real processes, good ones and bad ones."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from paldia_controller.command import REASON_LIMIT_BYTES, CommandProvisioner
from paldia_controller.provisioner import ProvisionError

from paldia.api import convert
from paldia.api.v1 import types_pb2
from paldia.core.errors import InvalidArgumentError

HARDWARE = types_pb2.Hardware(
    name="g4dn.xlarge",
    price_usd_per_hour=0.526,
    memory_bytes=16 << 30,
    cores=2,
    gpus=[types_pb2.Gpu(name="T4", memory_bytes=16 << 30)],
    activation=convert.duration(45),
    triton_image="registry/triton:old",
    tritonserver="/opt/old/bin/tritonserver",
)
LIMIT_S = 20.0

Script = Callable[[str], CommandProvisioner]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Make a provisioner of the text of a shell script; `$OUT` is a folder for it."""

    def make(text: str) -> CommandProvisioner:
        path = tmp_path / "hook"
        path.write_text(f"#!/bin/sh\nOUT='{tmp_path}'\n{text}\n")
        path.chmod(0o755)
        return CommandProvisioner(f"{path} 'first argument'", {"n": HARDWARE})

    return make


async def ended(path: Path) -> None:
    """Wait until the process whose number a file holds is gone."""
    async with asyncio.timeout(LIMIT_S):
        while psutil.pid_exists(pid := int(path.read_text())):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
            await asyncio.sleep(0.02)


async def test_it_is_told_what_to_do_with_which_machine(script: Script, tmp_path: Path) -> None:
    hook = script('cat > "$OUT/$2"; printf "%s|" "$@" >> "$OUT/said"')
    await hook.activate("gpu-7; rm -rf x", HARDWARE, LIMIT_S)
    await hook.release("gpu-7; rm -rf x", HARDWARE, LIMIT_S)
    said = (tmp_path / "said").read_text()
    arguments = "first argument|{}|gpu-7; rm -rf x|g4dn.xlarge|"
    assert said == arguments.format("activate") + arguments.format("release")
    assert json.loads((tmp_path / "activate").read_text()) == {
        "action": "activate",
        "node_id": "gpu-7; rm -rf x",
        "hardware": {
            "name": "g4dn.xlarge",
            "price_usd_per_hour": 0.526,
            "memory_bytes": 16 << 30,
            "cores": 2,
            "gpus": 1,
            "accelerator": "T4",
            "activation_s": 45.0,
            "triton_image": "registry/triton:old",
            "tritonserver": "/opt/old/bin/tritonserver",
        },
    }


async def test_a_failure_is_told_in_its_own_words(script: Script) -> None:
    hook = script("printf 'no capacity\\033[31m in zone a\\n' >&2; exit 3")
    with pytest.raises(ProvisionError) as failure:
        await hook.activate("n", HARDWARE, LIMIT_S)
    assert str(failure.value) == "activate ended with 3: no capacity in zone a"
    with pytest.raises(ProvisionError, match="release ended with 1: it gave no reason"):
        await script("exit 1").release("n", HARDWARE, LIMIT_S)


async def test_only_the_end_of_many_words_is_kept(script: Script) -> None:
    hook = script("yes no | head -c 999999 >&2; echo because >&2; exit 1")
    with pytest.raises(ProvisionError) as failure:
        await hook.activate("n", HARDWARE, LIMIT_S)
    assert str(failure.value).endswith("no\nbecause")
    assert len(str(failure.value)) < REASON_LIMIT_BYTES + 100


async def test_one_that_hangs_is_ended_with_all_it_started(script: Script, tmp_path: Path) -> None:
    hook = script('echo asking >&2; sleep 600 & echo $! > "$OUT/pid"; wait')
    with pytest.raises(ProvisionError) as failure:
        await hook.activate("n", HARDWARE, 0.5)
    assert str(failure.value) == "activate still ran after 0.5 s and was ended: asking"
    await ended(tmp_path / "pid")


async def test_one_that_is_called_off_is_ended_with_all_it_started(
    script: Script, tmp_path: Path, until: Any
) -> None:
    hook = script('sleep 600 & echo $! > "$OUT/new"; mv "$OUT/new" "$OUT/pid"; wait')
    call = asyncio.create_task(hook.activate("n", HARDWARE, LIMIT_S))
    await until((tmp_path / "pid").exists, "the command runs")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await ended(tmp_path / "pid")


async def test_what_it_leaves_running_goes_on_and_holds_nobody_up(
    script: Script, tmp_path: Path
) -> None:
    hook = script('sleep 600 & echo $! > "$OUT/pid"; echo started >&2')
    await hook.activate("n", HARDWARE, LIMIT_S)
    left = psutil.Process(int((tmp_path / "pid").read_text()))
    assert left.is_running()
    left.kill()


async def test_settings_of_this_process_are_not_passed_on(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALDIA_DATA_DIR", "here")
    monkeypatch.setenv("CLOUD_REGION", "there")
    await script('env > "$OUT/env"').activate("n", HARDWARE, LIMIT_S)
    told = (tmp_path / "env").read_text()
    assert "CLOUD_REGION=there" in told
    assert "PALDIA_DATA_DIR" not in told


async def test_no_file_is_left_open(script: Script, tmp_path: Path) -> None:
    hook = script('echo words >&2; sleep 600 & echo $! >> "$OUT/left"; exit 1')
    open_files = []
    for _ in range(4):
        with pytest.raises(ProvisionError):
            await hook.activate("n", HARDWARE, LIMIT_S)
        await asyncio.sleep(0)
        open_files.append(len(os.listdir("/proc/self/fd")))
    for pid in (tmp_path / "left").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    assert open_files[-1] == open_files[0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "no program of that name"),
        ("nowhere-to-be-found x", "no program of that name"),
        ("'unbalanced", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_at_once(command: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        CommandProvisioner(command, {})


async def test_a_command_that_is_gone_later_is_a_failure(script: Script, tmp_path: Path) -> None:
    hook = script("exit 0")
    (tmp_path / "hook").unlink()
    with pytest.raises(ProvisionError, match="No such file"):
        await hook.activate("n", HARDWARE, LIMIT_S)
