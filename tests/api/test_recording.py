"""A step is run again, from what was kept of it, to the same answer."""

from __future__ import annotations

import lzma
from dataclasses import replace

import pytest

from paldia.api import recording
from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    NotServableError,
    TooLargeError,
)
from paldia.core.observation import Action, DeploymentState
from tests.api.steps import SLOW, Planner, eventful


def kept(made):
    """Store a recording and read it."""
    return pb.RecordedStep.FromString(recording.packed(made).SerializeToString())


def test_the_steps_have_in_them_what_there_is_to_remember():
    steps = eventful()
    memories = [made.memory["m"] for made in steps if "m" in made.memory]
    assert any(memory.saving_since_s for memory in memories)
    assert any(memory.unready_since_s for memory in memories)
    assert any(memory.avoid for memory in memories)
    assert any(memory.backlog for memory in memories)
    decisions = [decision for made in steps for decision in made.outcome.decisions]
    assert {decision.action for decision in decisions} >= {
        *(Action.PLACE, Action.MOVE, Action.UNLOAD, Action.UNPLACED, Action.KEEP)
    }
    states = {
        view.state
        for made in steps
        for node in made.observation.nodes
        for view in node.deployments.values()
    }
    assert DeploymentState.FAILED in states


@pytest.mark.parametrize("made", eventful())
def test_every_step_comes_out_the_same_again(made):
    back = recording.unpacked(kept(made))
    assert back == made
    assert back.run_again() == made.outcome


def test_a_step_from_other_inputs_comes_out_otherwise():
    made = next(made for made in eventful() if made.outcome.decisions)
    view = made.observation.models[0]
    busier = replace(view, demand=replace(view.demand, arrivals=view.demand.arrivals + 1))
    models = (busier, *made.observation.models[1:])
    changed = replace(made, observation=replace(made.observation, models=models))
    assert recording.unpacked(kept(changed)).run_again() != made.outcome


def test_a_large_fleet_is_not_recorded_and_says_so():
    nodes = {f"s{number}": SLOW for number in range(recording.ENTRIES_LIMIT)}
    made = Planner(nodes=nodes).step({"m": 1})
    with pytest.raises(TooLargeError, match=f"2 models on {recording.ENTRIES_LIMIT} nodes"):
        recording.packed(made)


def test_a_step_that_takes_too_much_is_not_recorded(monkeypatch):
    made = eventful()[-1]
    size_bytes = len(recording.packed(made).content)
    monkeypatch.setattr(recording, "CONTENT_LIMIT_BYTES", size_bytes)
    recording.packed(made)
    monkeypatch.setattr(recording, "CONTENT_LIMIT_BYTES", size_bytes - 1)
    with pytest.raises(TooLargeError, match=f"takes {size_bytes} bytes"):
        recording.packed(made)


def test_a_step_that_was_not_kept_says_why():
    with pytest.raises(NotServableError, match="a whale"):
        recording.unpacked(pb.RecordedStep(not_kept="it was a whale"))


def test_a_step_of_another_version_names_it():
    stored = kept(eventful()[0])
    stored.version, stored.form_digest = "9.9.9", "0" * 64
    with pytest.raises(NotServableError, match=r"paldia 9\.9\.9 recorded the step"):
        recording.unpacked(stored)


def damaged(content: bytes) -> list[bytes]:
    """Give contents that are none."""
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    return [b"", content[:-20], bytes(flipped), lzma.compress(b"[1]"), lzma.compress(b"no json")]


@pytest.mark.parametrize("content", damaged(recording.packed(eventful()[0]).content))
def test_a_damaged_step_is_refused(content):
    stored = kept(eventful()[0])
    stored.content = content
    with pytest.raises(InvalidArgumentError, match="damaged"):
        recording.unpacked(stored)


def test_nothing_unpacks_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(recording, "_PLAIN_LIMIT_BYTES", 100)
    with pytest.raises(InvalidArgumentError, match="beyond the limit"):
        recording.unpacked(kept(eventful()[0]))


def test_what_cannot_be_decided_on_is_said_to_be_changed():
    made = next(made for made in eventful() if made.outcome.decisions)
    view = made.observation.models[0]
    never = replace(view, demand=replace(view.demand, arrivals=float("nan")))
    spoilt = replace(made, observation=replace(made.observation, models=(never,)))
    with pytest.raises(InvalidArgumentError, match="changed after it was recorded"):
        spoilt.run_again()


def test_a_policy_that_is_not_known_is_named():
    made = replace(eventful()[0], policy="coin-toss")
    with pytest.raises(NotFoundError, match="coin-toss"):
        recording.unpacked(kept(made)).run_again()


def test_the_digest_of_the_core_is_of_its_sources(tmp_path, monkeypatch):
    room = tmp_path / "room"
    room.mkdir()
    rule = room / "rule.py"
    rule.write_text("MARGIN = 0.9\n")
    monkeypatch.setattr(recording.resources, "files", lambda package: tmp_path)
    digest = recording.core_digest.__wrapped__
    before = digest()
    (room / "notes.txt").write_text("no source")
    assert digest() == before
    rule.write_text("MARGIN = 0.8\n")
    changed = digest()
    rule.rename(tmp_path / "rule.py")
    assert len({before, changed, digest()}) == 3
