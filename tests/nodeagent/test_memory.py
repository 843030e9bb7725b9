"""What a Triton may hold: replaced before its limit, ended at it, refused beyond it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from paldia_nodeagent.devices.cpu import Cpu
from paldia_nodeagent.memory import Memory

from paldia.api.v1 import types_pb2 as pb
from paldia.core.errors import UnavailableError

READY = pb.PLACEMENT_STATE_READY
FAILED = pb.PLACEMENT_STATE_FAILED


def judge(held: int, *, loaded: int = 20, limit: int = 100, free: int = 1000) -> Any:
    return Memory(limit << 20, lambda: free << 20).judge(held << 20, loaded << 20)


def test_replaced_before_the_limit_and_ended_at_it() -> None:
    assert not judge(89).replace
    assert judge(90).replace
    assert judge(99).replace
    with pytest.raises(UnavailableError, match=r"100 MiB is the limit.*memory-limit-share"):
        judge(100)


@pytest.mark.parametrize(
    ("about", "obstacle"),
    [
        ({"loaded": 95}, "nearly as much when it has just loaded"),
        ({"loaded": 50, "free": 49}, "another takes 50 MiB and 49 MiB are free"),
    ],
)
def test_says_why_it_can_not_be_replaced(about: dict[str, int], obstacle: str) -> None:
    verdict = judge(95, **about)
    assert not verdict.replace
    assert obstacle in verdict.obstacle
    assert not judge(80, **about).obstacle, "nothing is wrong with it yet"


def share_of(size_bytes: int) -> str:
    return repr(size_bytes / Cpu().memory_bytes)


def test_a_model_that_leaks_is_replaced_without_a_failed_request(
    lone_controller: Any, launch_agent: Any, make_model: Any, wait_until: Any
) -> None:
    controller = lone_controller
    limit_bytes = 400 << 20
    agent = launch_agent(controller, "node", "--memory-limit-share", share_of(limit_bytes))
    # Fast at first, then slowly enough for another to be there in time.
    leak = (
        "self.kept = getattr(self, 'kept', []); "
        "self.kept.append(np.ones((512 if len(self.kept) < 56 else 24) << 10))"
    )
    code = make_model("x", body=leak).joinpath("1/model.py").read_text()
    digest = controller.publish(make_model("leaks", code=f"import numpy as np\n{code}"))
    controller.want("leaks", digest)
    before = controller.wait_status("leaks", READY)
    server = agent.triton_of("leaks")
    family = [server, *server.children()]
    done, errors, answers = threading.Event(), [], []
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.full((1, 4), 1, np.float32))

    def keep_asking() -> None:
        # As a frontend does: where the model is, by the newest report.
        while not done.wait(0.02):
            try:
                with triton.InferenceServerClient(controller.status("leaks").endpoint) as client:
                    answers.append(client.infer("leaks", [tensor], client_timeout=20))
            except Exception as error:
                errors.append(error)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        wait_until("another serves", lambda: controller.status("leaks").endpoint != before.endpoint)
        wait_until("the old one is gone", lambda: not any(p.is_running() for p in family))
    finally:
        done.set()
        asking.join()
    assert not errors
    assert len(answers) > 30
    assert "deployment.outgrown" in agent.log.read_text()
    assert "deployment.failed" not in agent.log.read_text()
    assert controller.status("leaks").state == READY


def test_a_model_larger_than_it_may_be_is_refused_and_the_node_goes_on(
    lone_controller: Any, launch_agent: Any, make_model: Any, wait_until: Any
) -> None:
    controller = lone_controller
    agent = launch_agent(controller, "node", "--memory-limit-share", share_of(400 << 20))
    fine = controller.publish(make_model("fine"))
    controller.want("fine", fine)
    endpoint = controller.wait_status("fine", READY).endpoint
    # Its weights come in pieces; were nobody to look, it would load.
    hungry = (
        "import time\nimport numpy as np\nkept = []\n"
        "for _ in range(40):\n    kept.append(np.ones(4 << 20))\n    time.sleep(0.05)\n"
    )
    code = make_model("x").joinpath("1/model.py").read_text()
    controller.want("huge", controller.publish(make_model("huge", code=hungry + code)))
    reason = controller.wait_status("huge", FAILED).reason
    assert "needs more memory than a model may take" in reason
    assert "--memory-limit-share" in reason
    assert controller.status("fine").state == READY
    # Killed in the middle of it and started again, it refuses the one and keeps the other.
    agent.kill()
    controller.reasons.clear()
    launch_agent(controller, "node", "--memory-limit-share", share_of(400 << 20))
    wait_until("refused again", lambda: "needs more memory" in controller.reasons["huge"])
    assert controller.wait_status("fine", READY).endpoint == endpoint
