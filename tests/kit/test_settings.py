"""Flags, environment variables and what happens to wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from paldia.kit.settings import ServiceSettings


class Settings(ServiceSettings):
    """A service with a store."""

    bind: str = Field(default="127.0.0.1:8100", description="address to listen on")
    store: Literal["embedded", "etcd"] = Field(default="embedded", description="where state lives")
    drain_s: float = Field(default=3.0, gt=0, description="seconds to let requests finish")


def read(*argv):
    return Settings.from_command_line([*argv])


def test_defaults_need_nothing():
    settings = read()
    assert (settings.bind, settings.store, settings.drain_s) == ("127.0.0.1:8100", "embedded", 3.0)
    assert (settings.insecure, settings.ready_file) == (False, None)
    assert (settings.log_level, settings.log_format) == ("info", "json")


def test_flags_are_read():
    settings = read(
        "--bind", "127.0.0.1:0", "--store=etcd", "--drain-s", "0.5", "--ready-file", "/x/ready",
        "--insecure", "--log-level", "debug",
    )  # fmt: skip
    assert (settings.bind, settings.store, settings.drain_s) == ("127.0.0.1:0", "etcd", 0.5)
    assert (settings.insecure, settings.ready_file) == (True, Path("/x/ready"))
    assert settings.log_level == "debug"


def test_the_environment_is_read_and_flags_beat_it(monkeypatch):
    monkeypatch.setenv("PALDIA_READY_FILE", "/x/ready")
    monkeypatch.setenv("PALDIA_DRAIN_S", "7")
    monkeypatch.setenv("PALDIA_INSECURE", "true")
    monkeypatch.setenv("PALDIA_UNRELATED", "ignored")
    settings = read("--drain-s", "9")
    assert (settings.ready_file, settings.drain_s) == (Path("/x/ready"), 9.0)
    assert settings.insecure


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--store", "redis"], "redis"),
        (["--drain-s", "0"], "greater than 0"),
        (["--drain-s", "soon"], "soon"),
        (["--no-such-flag"], "--no-such-flag"),
        (["stray"], "stray"),
        (["--bind"], "--bind"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_exits_with_2(argv, told, capsys):
    with pytest.raises(SystemExit) as caught:
        read(*argv)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_a_wrong_environment_is_wrong_usage(monkeypatch, capsys):
    monkeypatch.setenv("PALDIA_STORE", "redis")
    with pytest.raises(SystemExit) as caught:
        read()
    assert caught.value.code == 2
    assert "redis" in capsys.readouterr().err


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for flag in ("--bind", "--store", "--drain-s", "--insecure", "--ready-file", "--log-level"):
        assert flag in out
