"""Which worker has which model's queue. Pure.

A model stays where it is for as long as that worker lives, for moving it leaves requests behind in
the old queue; and the workers have as many models each, one more or less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def settle(homes: Mapping[str, int], models: Iterable[str], slots: Sequence[int]) -> dict[str, int]:
    """Give each model a home.

    Args:
        homes: where models have been so far.
        models: those that there are.
        slots: the workers that there are, by number; none where no model has a home.
    """
    if not slots:
        return {}
    names = sorted(set(models))
    settled = {name: homes[name] for name in names if homes.get(name) in slots}
    count = Counter(dict.fromkeys(sorted(slots), 0))
    count.update(settled.values())
    for name in names:
        if name not in settled:
            settled[name] = _least(count)
            count[settled[name]] += 1
    for name in names:
        least = _least(count)
        if count[settled[name]] - count[least] > 1:
            count[settled[name]] -= 1
            count[least] += 1
            settled[name] = least
    return settled


def _least(count: Counter[int]) -> int:
    return min(count, key=lambda slot: (count[slot], slot))
