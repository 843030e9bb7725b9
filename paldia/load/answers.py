"""Whether what came back is an answer: its outputs are those of the model, and of their size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from paldia.load.inputs import TYPES


@dataclass(frozen=True, slots=True)
class Checker:
    """Looks into one of so many answers; the others must only not be empty.

    Attributes:
        every: 1 for each answer.
        outputs: names that the model's outputs may have; empty if they aren't known.
    """

    every: int
    outputs: frozenset[str] = frozenset()

    def problem(self, index: int, answer: bytes) -> str:
        """Say what is wrong with an answer, the `index`th; empty if nothing was found."""
        if not answer:
            return "the answer is empty"
        return self._problem_within(answer) if index % self.every == 0 else ""

    def _problem_within(self, answer: bytes) -> str:
        try:
            response = service_pb2.ModelInferResponse.FromString(answer)
        except DecodeError:
            return "the answer can't be decoded"
        if not response.outputs:
            return "the answer has no outputs"
        raws = response.raw_output_contents
        if raws and len(raws) != len(response.outputs):
            return f"the answer has {len(response.outputs)} outputs and contents for {len(raws)}"
        for place, output in enumerate(response.outputs):
            if self.outputs and output.name not in self.outputs:
                return f"the answer has an output {output.name}, which the model has not"
            width = _width_bytes(output.datatype)
            if raws and width and len(raws[place]) != width * math.prod(output.shape):
                return (
                    f"output {output.name} {output.datatype} {list(output.shape)} has "
                    f"{len(raws[place])} bytes"
                )
        return ""


def _width_bytes(datatype: str) -> int:
    """Bytes of one value; 0 where they differ."""
    if datatype == "BF16":
        return 2
    kind = TYPES.get(datatype, "")
    return 1 if kind == "?" else int(kind[1:] or 0)
