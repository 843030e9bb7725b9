"""What is served: the model as a user would deploy it, requests, what answers must be."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from paldia.cli import samples
from paldia.load.inputs import encoded_arrays

SERVED = Path(__file__).with_name("served")
AUTO = "auto"
CARD = "emulated:p3.2xlarge"
_IDENTITY = """# Answers what it is asked, so that what is measured is the way there and back.
name: "{name}"
backend: "python"
max_batch_size: {batch}
dynamic_batching {{ }}
input [{{ name: "x" data_type: TYPE_FP32 dims: [{items}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{items}] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""
_EMULATED = """# On an emulated card: its times are a known workload's, its answers are zeros.
name: "{name}"
backend: "onnxruntime"
max_batch_size: {batch}
dynamic_batching {{ }}
input [{{ name: "x" data_type: TYPE_FP32 dims: [{items}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [10] }}]
parameters {{ key: "paldia_workload" value {{ string_value: "{emulates}" }} }}
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model and the requests it gets.

    Attributes:
        model: its name, and its folder's.
        device: what it runs on, as node agents take it.
        slo_s: what PALDIA is told to keep.
        lanes: instances in a Triton without PALDIA.
        callers: how many at once are tried for the peak.
        max_batch: largest batch.
        datatype: of the input, as the protocol names it.
        shape: of one input.
        out_shape: of one output.
        input, output: names of the tensors.
        emulates: whose times it takes on an emulated card; empty on a real machine.
    """

    name: str
    model: str
    device: str
    slo_s: float
    lanes: int
    callers: tuple[int, ...]
    max_batch: int
    datatype: str
    shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    input: str = "x"
    output: str = "y"
    emulates: str = ""

    @property
    def emulated(self) -> bool:
        """Whether no server but Triton can serve it."""
        return bool(self.emulates)

    @property
    def weights(self) -> str:
        """The path of its ONNX weights; empty if it has none."""
        return str(samples.FOLDER / "magika/1/model.onnx") if self.model == "magika" else ""

    @property
    def tensor(self) -> str:
        """The network's output that the answer is; empty for the identity."""
        return "target_label" if self.weights else ""

    def write(self, parent: Path) -> Path:
        """Give the model's folder, made in `parent` if it is none of the samples."""
        if self.weights:
            samples.prepare()
            return samples.FOLDER / self.model
        folder = parent / self.model
        (folder / "1").mkdir(parents=True, exist_ok=True)
        text = _EMULATED if self.emulated else _IDENTITY
        told = text.format(
            name=self.model, batch=self.max_batch, items=self.shape[0], emulates=self.emulates
        )
        (folder / "config.pbtxt").write_text(told)
        if self.emulated:
            (folder / "1" / "README.txt").write_text("The weights would be here.\n")
        else:
            shutil.copyfile(SERVED / "identity.py", folder / "1" / "model.py")
        return folder

    def requests(self, count: int, seed: int = 0) -> list[NDArray[Any]]:
        """Make inputs that differ, each of shape [1, *shape]."""
        dice = np.random.default_rng(seed)
        shape = (1, *self.shape)
        if self.datatype == "INT32":
            return [dice.integers(0, 256, shape, dtype=np.int32) for _ in range(count)]
        # Whole numbers keep the file of requests short and are the same in any float.
        return [dice.integers(-999, 999, shape).astype(np.float32) for _ in range(count)]

    def write_requests(self, path: Path, count: int) -> Path:
        """Write a file of requests as `paldia load --input` reads it."""
        told = [
            {
                "inputs": [
                    {
                        "name": self.input,
                        "datatype": self.datatype,
                        "shape": [1, *self.shape],
                        "data": sent.ravel().astype(int).tolist(),
                    }
                ]
            }
            for sent in self.requests(count)
        ]
        path.write_text(json.dumps(told))
        return path

    def encoded(self, count: int) -> list[bytes]:
        """Give requests as they are sent."""
        return [encoded_arrays(self.model, {self.input: it}) for it in self.requests(count)]

    def is_right(self, sent: NDArray[Any], answer: NDArray[Any]) -> bool:
        """Whether an answer is that to what was sent."""
        if self.emulated:
            return answer.shape == (len(sent), *self.out_shape) and not answer.any()
        if not self.weights:
            return bool(np.array_equal(answer, sent))
        (expected,) = _session(self.weights).run([self.tensor], {self.input: sent})
        # In batches an ONNX runtime may add up in another order.
        return answer.shape == expected.shape and np.allclose(answer, expected, atol=1e-4)


@cache
def _session(weights: str) -> Any:
    return onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])


def workloads() -> Sequence[Workload]:
    """Give all of them."""
    cores = len(os.sched_getaffinity(0))
    small, large, pixels = (256,), (150_000,), (256,)
    return (
        Workload("1KB", "identity", AUTO, 0.1, 1, (32, 128, 512), 64, "FP32", small, small),
        Workload("600KB", "large", AUTO, 0.5, 1, (4, 16, 48), 8, "FP32", large, large),
        Workload(
            "magika",
            *("magika", AUTO, 0.5, cores, (2 * cores, 8 * cores), 16, "INT32", (2048,), (214,)),
            input="bytes",
            output="scores",
        ),
        Workload(
            "resnet50",
            *("resnet50", CARD, 0.2, 2, (64, 192), 32, "FP32", pixels, (10,)),
            emulates="resnet50",
        ),
    )
