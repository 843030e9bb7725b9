"""The benchmark's models in MLServer."""

from compute import computing
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Served(MLModel):
    """A model that `computing` describes."""

    async def load(self):
        """Take what model-settings.json says."""
        told = self.settings.parameters.extra
        self._output = told["output"]
        self._compute = computing(told["weights"], told["input"], told["tensor"])
        return True

    async def predict(self, payload):
        """Answer one request."""
        array = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        answer = NumpyCodec.encode_output(self._output, self._compute(array))
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[answer])
