"""Golden transcripts: scripts for the planner with, under each command, what came of it.

A line that begins in the first column is a command or, after `#`, a remark; a line that is set
off by four blanks is output. Playing a script gives the same text with the output that there
is now.

    hardware KIND price=$/h memory_gib= [activation_s=] [sm_shares=yes]
    node KIND ID...                       parked machines
    model NAME slo_ms= [min_replicas=] [keep_alive_s=] [max_batch=]
    profile NAME KIND latency_ms=BATCH:MS,... load_s= memory_mib= [share=BATCH:PART,...]
            [sm_share=BATCH:PART,...]     or `profile NAME KIND none`: it can't run there
    demand NAME RATE                      requests a second, from now on
    arrive NAME COUNT                     requests in the next second, besides
    tick SECONDS                          a step of the planner each
    fail ID... | recover ID...            machines fall silent, or come back empty
    drain ID...                           an operator lets nothing new start there
    hang NAME ID | crash NAME ID | mend NAME ID
                                          from now on it loads forever there, or fails to, or not
    explain NAME                          its last decision, with all candidates
    fleet                                 what is planned where
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from paldia.core import engine
from paldia.core.config import PolicyConfig
from paldia.core.errors import InvalidArgumentError
from paldia.core.observation import Decision, DemandView, Memory, ModelView, Observation, Plan
from paldia.core.profiles import Profile
from paldia.core.types import Hardware, Model, Slo
from tests.core.machines import Machine, Machines
from tests.core.wording import Told, explained, fleet

FOLDER = Path(__file__).parents[1] / "transcripts"
OUTPUT = "    "
EPOCH_S = 7200.0
"""The planner's clock when the transcript's shows 0: well above 0, as any clock's."""
TICKS_LIMIT = 3600
DIGEST = "a" * 64

T = TypeVar("T")


class ScriptError(Exception):
    """A line of a script that can't be played: the file, the line, and what was expected."""


@dataclass
class Session:
    """The planner, its machines and its models in the course of a script; a method a command."""

    config: PolicyConfig = field(default_factory=PolicyConfig)
    now_s: int = 0
    kinds: dict[str, Hardware] = field(default_factory=dict)
    machines: Machines = field(default_factory=Machines)
    models: dict[str, Model] = field(default_factory=dict)
    profiles: dict[str, dict[str, Profile | None]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    plan: Plan = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)
    latest: dict[str, tuple[Decision, float]] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    log: hashlib._Hash = field(default_factory=hashlib.sha256)

    def hardware(
        self,
        kind: str,
        *,
        price: str,
        memory_gib: str,
        activation_s: str = "0",
        sm_shares: str = "",
    ) -> None:
        self.kinds[kind] = Hardware(
            kind,
            float(price),
            int(memory_gib) << 30,
            gpus=1,
            sm_shares=sm_shares == "yes",
            activation_s=float(activation_s),
        )

    def node(self, kind: str, *ids: str) -> None:
        hardware = _known(self.kinds, "hardware", kind)
        self.machines.by_id |= {node_id: Machine(node_id, hardware) for node_id in ids}

    def model(
        self,
        name: str,
        *,
        slo_ms: str,
        min_replicas: str = "1",
        keep_alive_s: str = "600",
        max_batch: str = "0",
    ) -> None:
        self.models[name] = Model(
            name,
            DIGEST,
            Slo(float(slo_ms) / 1e3),
            min_replicas=int(min_replicas),
            keep_alive_s=float(keep_alive_s),
            max_batch=int(max_batch),
            generation=self.models[name].generation + 1 if name in self.models else 1,
        )
        self.profiles.setdefault(name, {})

    def profile(
        self,
        name: str,
        kind: str,
        cannot: str = "",
        *,
        latency_ms: str = "",
        load_s: str = "",
        memory_mib: str = "",
        share: str = "1:1",
        sm_share: str = "",
    ) -> None:
        _known(self.models, "model", name)
        _known(self.kinds, "hardware", kind)
        if cannot == "none":
            self.profiles[name][kind] = None
            return
        self.profiles[name][kind] = Profile(
            tuple((size, ms / 1e3) for size, ms in _by_batch(latency_ms)),
            float(load_s),
            int(memory_mib) << 20,
            demand=_by_batch(share),
            sm_share=_by_batch(sm_share) if sm_share else (),
        )

    def demand(self, name: str, rate: str) -> None:
        self.rates[_known(self.models, "model", name).name] = float(rate)

    def arrive(self, name: str, count: str) -> None:
        self.extra[_known(self.models, "model", name).name] = float(count)

    def fail(self, *ids: str) -> None:
        for node_id in ids:
            self._machine(node_id).fail(self.now_s)

    def recover(self, *ids: str) -> None:
        for node_id in ids:
            self._machine(node_id).recover()

    def drain(self, *ids: str) -> None:
        for node_id in ids:
            self._machine(node_id).closed = True

    def hang(self, name: str, node_id: str) -> None:
        self._machine(node_id).hanging.add(_known(self.models, "model", name).name)

    def crash(self, name: str, node_id: str) -> None:
        self._machine(node_id).crashing.add(_known(self.models, "model", name).name)

    def mend(self, name: str, node_id: str) -> None:
        self._machine(node_id).hanging.discard(name)
        self._machine(node_id).crashing.discard(name)

    def tick(self, seconds: str) -> Iterator[str]:
        if not 1 <= int(seconds) <= TICKS_LIMIT:
            raise ScriptError(f"tick takes 1 to {TICKS_LIMIT} seconds, not {seconds}")
        for _ in range(int(seconds)):
            clock = f"{self.now_s + 1} s"
            for line in self._step():
                yield f"{clock:>5}  {line}"
                clock = ""

    def explain(self, name: str) -> Iterator[str]:
        decision, held_for = _known(self.latest, "decision about", name)
        yield from explained(decision, held_for)

    def fleet(self) -> Iterator[str]:
        yield from fleet(self.machines.views(self.now_s), self.plan)

    def _machine(self, node_id: str) -> Machine:
        return _known(self.machines.by_id, "node", node_id)

    def _step(self) -> Iterator[str]:
        self.now_s += 1
        arrivals = {
            name: self.rates.get(name, 0.0) + self.extra.get(name, 0.0) for name in self.models
        }
        self.extra.clear()
        self.machines.advance(arrivals, self.now_s)
        observation = Observation(
            EPOCH_S + self.now_s,
            tuple(
                ModelView(
                    model,
                    DemandView(arrivals[name], 1.0, int(self.machines.waiting[name])),
                    self.profiles[name],
                )
                for name, model in self.models.items()
            ),
            self.machines.views(self.now_s),
            self.plan,
        )
        step = engine.step(observation, self.memory, self.config)
        self.log.update(repr(step).encode())
        self.plan, self.memory = step.plan, step.memory
        for decision in step.decisions:
            held_for = step.memory[decision.model].judged_rate
            self.latest[decision.model] = decision, held_for
        self.machines.obey(self.plan, self.profiles, self.now_s)
        return self.told.news(observation, step)


COMMANDS: dict[str, Callable[..., Iterator[str] | None]] = {
    name: command
    for name, command in vars(Session).items()
    if inspect.isfunction(command) and not name.startswith("_")
}


def played(text: str, name: str) -> tuple[str, str]:
    """Play a script; give it with its output, and a digest of every step in full.

    Raises:
        ScriptError: a line makes no sense; the message begins with `name` and its number.
    """
    session = Session()
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(OUTPUT):
            continue
        lines.append(line)
        if not line or line.startswith("#"):
            continue
        if line[0].isspace():
            raise ScriptError(f"{name}:{number}: a command begins in the first column")
        try:
            lines += [f"{OUTPUT}{said}" for said in _carried_out(session, line)]
        except (ScriptError, InvalidArgumentError, ValueError) as error:
            raise ScriptError(f"{name}:{number}: {error}") from None
    return "".join(f"{line.rstrip()}\n" for line in lines), session.log.hexdigest()


def _carried_out(session: Session, line: str) -> list[str]:
    verb, *words = line.split()
    command = COMMANDS.get(verb)
    if command is None:
        raise ScriptError(f"no command {verb!r}; there are {', '.join(COMMANDS)}")
    options = dict(word.split("=", 1) for word in words if "=" in word)
    arguments = [word for word in words if "=" not in word]
    try:
        bound = inspect.signature(command).bind(session, *arguments, **options)
    except TypeError as error:
        raise ScriptError(f"{verb}: {error}; expected {_usage(verb)}") from None
    return list(command(*bound.args, **bound.kwargs) or ())


def _usage(verb: str) -> str:
    words = [verb]
    for name, each in list(inspect.signature(COMMANDS[verb]).parameters.items())[1:]:
        word = f"{name}=" if each.kind is each.KEYWORD_ONLY else name.upper()
        if each.kind is each.VAR_POSITIONAL:
            word += "..."
        words.append(word if each.default is each.empty else f"[{word}]")
    return " ".join(words)


def _known(there: Mapping[str, T], what: str, name: str) -> T:
    if name not in there:
        raise ScriptError(f"no {what} {name!r}; there are {', '.join(there) or 'none'}")
    return there[name]


def _by_batch(pairs: str) -> tuple[tuple[int, float], ...]:
    """Read `BATCH:NUMBER,...`."""
    split = [pair.partition(":") for pair in pairs.split(",")]
    if not all(size.isdigit() and value for size, _, value in split):
        raise ScriptError(f"{pairs!r} is not of the form BATCH:NUMBER,...")
    return tuple((int(size), float(value)) for size, _, value in split)


def main() -> None:
    """Print the digest of each transcript, for comparison with those of other processes."""
    for path in sorted(FOLDER.glob("*.txt")):
        print(path.name, *played(path.read_text(), path.name))


if __name__ == "__main__":
    main()
