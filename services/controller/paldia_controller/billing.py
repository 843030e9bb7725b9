"""How the nodes are used, for the bill: which models keep them busy, and what power they draw.

Which model takes how much of a device is predicted, from the rate that was last saved and the
profile: agents see how busy a device is, but not for whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from paldia.api import machines
from paldia.api.v1 import types_pb2
from paldia.core.ledger import Draw, estimated_draw
from paldia_controller.knowledge import Knowledge
from paldia_controller.observer import Observer
from paldia_controller.state import profile_key


def busy_shares(
    knowledge: Knowledge,
    serving: Mapping[str, Sequence[types_pb2.Placement]],
    rates: Mapping[str, float],
) -> dict[str, dict[str, float]]:
    """Give the share of each node's device that each model takes, by node and by model.

    u = (rate / b) L(b) f(b), as the planner foretells it: full batches, and the places share
    the requests evenly.

    Args:
        knowledge: what is known of the models.
        serving: by model, the places that take its requests.
        rates: by model, requests per second.
    """
    shares: dict[str, dict[str, float]] = {}
    for model, places in sorted(serving.items()):
        for place in places:
            profile = knowledge.profile(profile_key(place.artifact_digest, place.hardware))
            if profile is None:
                continue
            batch = max(1, place.batch_size)
            batches = rates.get(model, 0.0) / len(places) / batch * profile.latency_s(batch)
            on_node = shares.setdefault(place.node_id, {})
            # While a new artifact takes over from an old one, a node may hold both.
            on_node[model] = on_node.get(model, 0.0) + batches * profile.demand_fraction(batch)
    return shares


def draws(
    observer: Observer, paid: Iterable[str], busy: Mapping[str, Mapping[str, float]]
) -> dict[str, Draw]:
    """Give the power of each node that is paid for, where it is known.

    What NVML measures of a node's GPUs counts, if it tells it of all of them (the rest of the
    machine is not in it); otherwise the power is estimated from how busy the node is.
    """
    known = {}
    for node_id in sorted(paid):
        session = observer.present(node_id)
        cards = session.report.utilisation.gpus if session else ()
        if cards and all(card.HasField("power_watts") for card in cards):
            known[node_id] = Draw(sum(card.power_watts for card in cards))
            continue
        hardware = machines.hardware_from_proto(observer.hardware(node_id))
        estimate = estimated_draw(hardware, sum(busy.get(node_id, {}).values()))
        if estimate is not None:
            known[node_id] = estimate
    return known
