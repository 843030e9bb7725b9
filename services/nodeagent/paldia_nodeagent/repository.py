"""The model repository of one Triton process, made from a cached artifact.

Folders are real and files are links, so nothing that Triton or a model creates lands in
the cache. The configuration is adapted on the way: the model is called as it is
deployed, has as many instances as the node is to have lanes, and batches nothing by itself:
frontends do, and what Triton merged would run as one batch where the plan counts on two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from paldia.core.errors import InvalidArgumentError

# tritonclient is published without types.
ModelConfig: TypeAlias = Any

CONFIG = "config.pbtxt"
_NAME_LIMIT = 200


def check_model_name(name: str) -> str:
    """Give a model's name back if it can name a folder.

    Raises:
        InvalidArgumentError: it can't.
    """
    if not 0 < len(name.encode()) <= _NAME_LIMIT or "/" in name or "\0" in name or name[0] == ".":
        raise InvalidArgumentError(
            f"{name[:_NAME_LIMIT]!r} can't name a model: give 1 to {_NAME_LIMIT} bytes without "
            "slashes, not beginning with a dot"
        )
    return name


def build_repository(artifact: Path, repository: Path, name: str, lanes: int) -> None:
    """Make a repository folder that holds the artifact under the name `name`."""
    target = repository / name
    target.mkdir(parents=True)
    for source in sorted(artifact.rglob("*")):
        path = target / source.relative_to(artifact)
        if source.is_dir():
            path.mkdir()
        elif source.relative_to(artifact) == Path(CONFIG):
            _adapt_config(source, path, name, lanes)
        else:
            path.symlink_to(source)
    for folder in [path for path in target.rglob("*") if path.is_dir()]:
        if any(folder.glob("*.py")):
            # Written bytecode would make Triton see a changed model and reload it whole;
            # a file in its place keeps Python from writing any.
            (folder / "__pycache__").touch()


def _adapt_config(source: Path, path: Path, name: str, lanes: int) -> None:
    try:
        config = text_format.Parse(source.read_text(), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError):
        # Triton says best what is wrong with it.
        path.symlink_to(source)
        return
    config.name = name
    path.write_text(text_format.MessageToString(with_lanes(config, lanes)))


def with_lanes(config: ModelConfig, lanes: int) -> ModelConfig:
    """Give a copy of a configuration with `lanes` instances in all, and no dynamic batching.

    Its first instance group is the pattern; on several GPUs they are spread evenly.
    """
    copy = model_config_pb2.ModelConfig()
    copy.CopyFrom(config)
    copy.ClearField("dynamic_batching")
    pattern = model_config_pb2.ModelInstanceGroup()
    if config.instance_group:
        pattern.CopyFrom(config.instance_group[0])
    pattern.name = ""
    gpus = [*pattern.gpus] or [None]
    del copy.instance_group[:]
    for index, gpu in enumerate(gpus):
        count = lanes // len(gpus) + (index < lanes % len(gpus))
        if count > 0:
            group = copy.instance_group.add()
            group.CopyFrom(pattern)
            group.count = count
            if gpu is not None:
                group.gpus[:] = [gpu]
    return copy


def lanes_of(config: ModelConfig) -> int:
    """Count the instances of a completed configuration."""
    return sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)


def override_json(config: ModelConfig) -> str:
    """Give a configuration in the form that a load call takes."""
    return json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True))
