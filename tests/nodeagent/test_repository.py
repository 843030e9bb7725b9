from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from paldia_nodeagent.repository import (
    ModelConfig,
    build_repository,
    check_model_name,
    lanes_of,
    override_json,
    with_lanes,
)
from tritonclient.grpc import model_config_pb2

from paldia.core.errors import InvalidArgumentError


def parse(text: str) -> ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize(
    ("groups", "lanes", "counts"),
    [
        ("", 3, [3]),
        ("instance_group [{ count: 4 kind: KIND_CPU }, { count: 2 kind: KIND_CPU }]", 3, [3]),
        ("instance_group [{ count: 1 kind: KIND_GPU gpus: [0, 1] }]", 3, [2, 1]),
        ("instance_group [{ count: 1 kind: KIND_GPU gpus: [0, 1] }]", 1, [1]),
    ],
)
def test_lanes_are_instances(groups: str, lanes: int, counts: list[int]) -> None:
    config = with_lanes(parse(groups), lanes)
    assert [group.count for group in config.instance_group] == counts
    assert lanes_of(config) == lanes
    assert json.loads(override_json(config))["instance_group"][0]["count"] == counts[0]


def test_triton_merges_nothing_by_itself(tmp_path: Path) -> None:
    """Two batches that it made one of would take other times than the plan counts on."""
    text = 'backend: "python" max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 }'
    assert not with_lanes(parse(text), 2).HasField("dynamic_batching")
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "config.pbtxt").write_text(text)
    build_repository(tmp_path / "artifact", tmp_path / "repository", "mine", 2)
    written = parse((tmp_path / "repository" / "mine" / "config.pbtxt").read_text())
    assert not written.HasField("dynamic_batching")
    assert written.max_batch_size == 8


def test_a_repository_has_the_model_under_its_deployed_name(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    (artifact / "1" / "lib").mkdir(parents=True)
    (artifact / "config.pbtxt").write_text('name: "other" backend: "python" # a comment')
    (artifact / "1" / "model.py").write_text("x = 1")
    (artifact / "1" / "lib" / "part.py").write_text("y = 1")
    repository = tmp_path / "repository"
    build_repository(artifact, repository, "mine", 2)

    config = parse((repository / "mine" / "config.pbtxt").read_text())
    assert (config.name, config.backend, lanes_of(config)) == ("mine", "python", 2)
    assert (repository / "mine" / "1" / "model.py").read_text() == "x = 1"
    assert (repository / "mine" / "1" / "__pycache__").is_file()
    assert (repository / "mine" / "1" / "lib" / "__pycache__").is_file()
    assert not [*artifact.rglob("__pycache__")], "the artifact keeps its checksum"
    assert "other" in (artifact / "config.pbtxt").read_text()


def test_a_config_that_is_broken_is_left_to_triton(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    (artifact / "1").mkdir(parents=True)
    (artifact / "config.pbtxt").write_text("backend: {{{")
    build_repository(artifact, tmp_path / "repository", "m", 1)
    assert (tmp_path / "repository" / "m" / "config.pbtxt").read_text() == "backend: {{{"


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a\0b", "x" * 201])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_model_name(name)


def test_names_people_use_are_fine() -> None:
    for name in ("magika", "mini-lm_v2.1", "模型"):
        assert check_model_name(name) == name
