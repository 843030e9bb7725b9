"""What `paldia load` is told, made into a plan: when to send, and what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from paldia.core.errors import InvalidArgumentError, NotServableError, UnsupportedError
from paldia.load import arrivals, inputs
from paldia.load.answers import Checker
from paldia.load.plan import Questions, Schedule
from paldia.load.sender import Metadata
from paldia.load.target import target
from paldia.sim.trace import Trace
from paldia.sim.trace_files import open_trace

RANDOM = "random"
_DURATION_S = 10.0
_IN_FLIGHT_MOST = 4096
_IN_FLIGHT_FEWEST = 16
_IN_FLIGHT_BYTES = 1 << 30


def schedule(
    *,
    rate: float | None,
    is_uniform: bool,
    trace: str | None,
    scale: float,
    function: str,
    closed: int | None,
    duration_s: float | None,
    warmup_s: float,
    seed: int,
) -> Schedule:
    """Read when to send, just one way of which was given.

    Raises:
        InvalidArgumentError: none or several were given, or one makes no sense.
    """
    if sum(way is not None for way in (rate, trace, closed)) != 1:
        raise InvalidArgumentError(
            "say when to send: one of --rate R, --trace FILE and --closed N, and only one"
        )
    if trace is not None:
        bent = open_trace(trace, function=function, seed=seed).scaled(scale)
        return _traced(bent, duration_s, warmup_s)
    counted_s = _DURATION_S if duration_s is None else duration_s
    if not 0 < counted_s < math.inf:
        raise InvalidArgumentError(f"--duration must be above 0, not {counted_s:g}")
    if rate is None:
        return Schedule("closed", counted_s, warmup_s, callers=closed or 0)
    length_s = warmup_s + counted_s
    offsets_s = (
        arrivals.uniform(rate, length_s) if is_uniform else arrivals.poisson(rate, length_s, seed)
    )
    if len(offsets_s) == 0 or offsets_s[-1] < warmup_s:
        raise InvalidArgumentError(
            f"at {rate:g} requests a second none comes in {counted_s:g} s; take longer"
        )
    return Schedule("rate", counted_s, warmup_s, offsets_s)


def _traced(trace: Trace, duration_s: float | None, warmup_s: float) -> Schedule:
    length_s = math.inf if duration_s is None else warmup_s + duration_s
    part = trace.part(0.0, length_s)
    offsets_s = arrivals.recorded(part)
    if offsets_s[-1] < warmup_s:
        raise InvalidArgumentError(
            f"no request of {trace.name} comes after the warm-up of {warmup_s:g} s"
        )
    return Schedule("trace", part.duration_s - warmup_s, warmup_s, offsets_s)


def questions(
    url: str,
    model: str,
    given: str,
    *,
    shapes: Sequence[str],
    bytes_length: int,
    metadata: Metadata,
    seed: int,
) -> Questions:
    """Read or make up what to ask, and ask it once.

    Raises:
        InvalidArgumentError: it can't be read, or isn't what the model wants.
        NotFoundError: there is no such model.
        NotServableError: what comes is no answer.
        UnavailableError: there is no server.
        UnsupportedError: the server doesn't tell what the model wants.
    """
    with target(url, model, metadata) as server:
        described = server.describe()
        if given != RANDOM:
            payloads = inputs.read_requests(Path(given), model)
        elif described is None or not described.inputs:
            raise UnsupportedError(
                f"{url} doesn't tell what {model} wants, so nothing can be made up; give --input "
                "FILE"
            )
        else:
            payloads = inputs.random_requests(
                model, described.inputs, _shapes(shapes), bytes_length, seed
            )
        answer = server.first_answer(payloads[0], described)
    outputs = frozenset(it.name for it in described.outputs) if described else frozenset()
    if problem := Checker(every=1, outputs=outputs).problem(0, answer):
        raise NotServableError(f"what {model} at {url} gives is no answer: {problem}")
    return Questions(tuple(payloads), answer, outputs)


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    found = {}
    for text in texts:
        name, _, lengths = text.partition("=")
        try:
            found[name] = tuple(int(length) for length in lengths.split(","))
        except ValueError:
            found[name] = ()
        if not name or min(found[name], default=0) < 1:
            raise InvalidArgumentError(f"--shape takes NAME=1,16 and the like, not {text!r}")
    return found


def metadata_of(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read what goes with each call.

    Raises:
        InvalidArgumentError: one isn't KEY=VALUE.
    """
    pairs = [text.partition("=") for text in texts]
    for (key, equals, _), text in zip(pairs, texts, strict=True):
        if not key or not equals:
            raise InvalidArgumentError(f"--metadata takes KEY=VALUE, not {text!r}")
    return tuple((key.lower(), value) for key, _, value in pairs)


def in_flight_limit(asked: int | None, what: Questions) -> int:
    """Give the most requests under way; unless it was asked for, what fits into a GiB."""
    if asked is not None:
        return asked
    fit = _IN_FLIGHT_BYTES // max(1, len(what.answer) + max(map(len, what.payloads)))
    return max(_IN_FLIGHT_FEWEST, min(_IN_FLIGHT_MOST, fit))
