"""Which models' requests may share a batch: all whose config allows it, until an answer tells."""

from __future__ import annotations

from paldia.kit.observability import logger
from paldia_frontend.routes import Route


class Mergeable:
    """Remembers revisions whose answers turned out not to have a row for each row asked."""

    def __init__(self) -> None:
        self._unlike: dict[str, int] = {}

    def allows(self, route: Route) -> bool:
        """Whether a model's requests may be merged, as far as is known."""
        return route.merges and self._unlike.get(route.model) != route.generation

    def no_more(self, route: Route, reason: str) -> None:
        """Merge none for this revision from now on."""
        if self.allows(route):
            self._unlike[route.model] = route.generation
            logger().warning("model.unmergeable", model=route.model, reason=reason)

    def drop(self, model: str) -> None:
        """Forget a model."""
        self._unlike.pop(model, None)
