"""The stock clients against the frontend, for everything the protocol offers here."""

from __future__ import annotations

import numpy as np


def test_smoke(frontend, tensor):
    client = frontend.client()
    a, b = np.array([[1, 2]], np.float32), np.array([[10, 20]], np.float32)
    answer = client.infer("adder", [tensor("A", a), tensor("B", b)], request_id="x")
    assert answer.as_numpy("SUM").tolist() == [[11, 22]]
    print(answer.get_response(), client.get_server_metadata(), client.get_model_repository_index())
