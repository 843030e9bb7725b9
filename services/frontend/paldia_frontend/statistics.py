"""Adds up what several Tritons count of one model. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tritonclient.grpc import service_pb2

ModelStatistics = Any
Message = Any


def add_up(parts: Iterable[ModelStatistics]) -> list[ModelStatistics]:
    """Give one entry for each model and version, in order of name."""
    sums: dict[tuple[str, str], ModelStatistics] = {}
    for part in parts:
        total = sums.get((part.name, part.version))
        if total is None:
            total = sums[part.name, part.version] = service_pb2.ModelStatistics()
            total.CopyFrom(part)
        else:
            _add(total, part)
    return [total for _, total in sorted(sums.items())]


def _add(total: ModelStatistics, part: ModelStatistics) -> None:
    total.last_inference = max(total.last_inference, part.last_inference)
    total.inference_count += part.inference_count
    total.execution_count += part.execution_count
    _add_durations(total.inference_stats, part.inference_stats)
    batches = {batch.batch_size: batch for batch in total.batch_stats}
    for batch in part.batch_stats:
        known = batches.get(batch.batch_size)
        _add_durations(known, batch) if known else total.batch_stats.add().CopyFrom(batch)
    total.batch_stats.sort(key=lambda batch: batch.batch_size)
    for name, response in part.response_stats.items():
        _add_durations(total.response_stats[name], response)
    memory = {(usage.type, usage.id): usage for usage in total.memory_usage}
    for usage in part.memory_usage:
        known = memory.get((usage.type, usage.id))
        if known:
            known.byte_size += usage.byte_size
        else:
            total.memory_usage.add().CopyFrom(usage)


def _add_durations(total: Message, part: Message) -> None:
    """Add each StatisticDuration of one message to the same of another."""
    for descriptor, duration in part.ListFields():
        if descriptor.message_type is not None:
            known = getattr(total, descriptor.name)
            known.count += duration.count
            known.ns += duration.ns
