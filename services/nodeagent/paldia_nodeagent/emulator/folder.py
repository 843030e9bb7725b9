"""The model repository of a Triton on an emulated node: the model's face, and a stand-in within.

Of the artifact's config.pbtxt stay name, tensors, batching, lanes and parameters; the backend
becomes Python, and each version folder holds our model and what is known of the workload. The
Python backend of this Triton can't set response parameters, so the config says that the model is
emulated (parameter `paldia_emulated`), and frontends say it with each response.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from paldia.core.errors import NotServableError
from paldia_nodeagent.repository import CONFIG, ModelConfig

_MODEL = Path(__file__).with_name("model.py")
_WARM_UP = "warmup"
_EMULATED = "paldia_emulated"


def read_config(artifact: Path) -> ModelConfig:
    """Read a model folder's configuration, as far as it can be emulated.

    Raises:
        NotServableError: it can't; says why and what to do.
    """
    path = artifact / CONFIG
    if not path.is_file():
        raise NotServableError(
            f"an emulated node needs the model's {CONFIG}, which isn't in its folder: it knows "
            "inputs and outputs from there; write one with name, backend, max_batch_size, input "
            "and output"
        )
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise NotServableError(f"{CONFIG} can't be read: {error}") from error
    if not config.output:
        raise NotServableError(f"{CONFIG} names no output, so that nothing could be emulated")
    if config.HasField("ensemble_scheduling"):
        raise NotServableError("an ensemble can't be emulated; deploy one of its models")
    if config.model_transaction_policy.decoupled:
        raise NotServableError("a decoupled model can't be emulated: who knows how it answers")
    for tensor in [*config.input, *config.output]:
        if tensor.data_type == model_config_pb2.TYPE_BF16:
            raise NotServableError(
                f"{tensor.name} is BF16, which Triton's Python backend doesn't know; "
                "write FP16 there for the emulation"
            )
    return config


def build(
    artifact: Path, repository: Path, name: str, config: ModelConfig, told: dict[str, Any]
) -> None:
    """Make a repository folder that emulates the artifact under the name `name`.

    Args:
        config: the artifact's own, from `read_config`, with the lanes it is to have.
        told: what `model.py` needs to know.
    """
    target = repository / name
    target.mkdir(parents=True)
    (target / CONFIG).write_text(text_format.MessageToString(_emulated(config, name)))
    for version in _versions(artifact):
        folder = target / version
        folder.mkdir()
        # A copy: the agent's own files may be replaced while this serves.
        (folder / _MODEL.name).write_bytes(_MODEL.read_bytes())
        (folder / "emulated.json").write_text(json.dumps(told))
        # See repository.build_repository.
        (folder / "__pycache__").touch()
    if (artifact / _WARM_UP).is_dir():
        (target / _WARM_UP).symlink_to(artifact / _WARM_UP)


def is_emulated(config: ModelConfig) -> bool:
    """Whether a configuration is that of a stand-in."""
    return _EMULATED in config.parameters


def _versions(artifact: Path) -> list[str]:
    found = [path.name for path in artifact.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(found) or ["1"]


def _emulated(config: ModelConfig, name: str) -> ModelConfig:
    """Give the configuration of the stand-in: what has no place in it is left out."""
    made = model_config_pb2.ModelConfig()
    made.CopyFrom(config)
    for field in ("platform", "default_model_filename", "optimization", "cc_model_filenames"):
        made.ClearField(field)
    made.name, made.backend = name, "python"
    for group in made.instance_group:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
        del group.gpus[:]
    made.parameters[_EMULATED].string_value = "true"
    return made
