"""Tells whoever wants to know what became of every single request."""

from __future__ import annotations

from collections.abc import Sequence

from paldia.core.dispatch.types import Expire, Fail, Refuse
from paldia.sim.scenario import Fate, RequestSink, Times


class Witness:
    """Keeps the requests that have no fate yet; as many as may wait and run at once."""

    def __init__(self, sink: RequestSink) -> None:
        self._sink = sink
        self._open: dict[int, tuple[str, float]] = {}

    def let_in(self, model: str, first_id: int, arrivals_s: Sequence[float]) -> None:
        """Note requests that have come."""
        for request_id, arrival_s in enumerate(arrivals_s, start=first_id):
            self._open[request_id] = model, arrival_s

    def turned_away(self, decision: Refuse | Expire | Fail, now_s: float) -> None:
        """Tell of a request that gets no answer."""
        model, arrival_s = self._open.pop(decision.request_id)
        fate = Fate.REFUSED if isinstance(decision, Refuse) else Fate.FAILED
        self._sink(model, fate, (arrival_s,), now_s)

    def close(self, now_s: float) -> None:
        """Tell of those that have had no answer by the end: they have failed."""
        for model, arrival_s in self._open.values():
            self._sink(model, Fate.FAILED, (arrival_s,), now_s)
        self._open.clear()

    def answered(
        self,
        request_ids: Sequence[int],
        arrivals_s: Sequence[float],
        done_s: float,
        *,
        node_id: str,
        start_s: float,
        work_s: float,
        cold_s: Times | None,
    ) -> None:
        """Tell of a batch that was answered."""
        models = [self._open.pop(request_id)[0] for request_id in request_ids]
        self._sink(
            models[0],
            Fate.ANSWERED,
            arrivals_s,
            done_s,
            node_id=node_id,
            start_s=start_s,
            work_s=work_s,
            cold_s=cold_s,
        )
