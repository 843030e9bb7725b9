"""What `paldia simulate` is told by names and files: models, machines, policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from paldia import catalog
from paldia.core.baselines import POLICIES, Policy, policy_named
from paldia.core.errors import InvalidArgumentError, NotServableError
from paldia.core.types import Hardware, Model, Slo
from paldia.sim.scenario import SimModel
from paldia.sim.trace import Trace

NODES_MOST = 1000
HISTORY_S = 3 * 3600.0
"""What came before `--start` is known to the planner, so far back."""
ALL = "all"


def policies(text: str) -> list[Policy]:
    """Read names of policies with commas between them; `all` for each there is.

    Raises:
        NotFoundError: there is none of such a name.
    """
    if text == ALL:
        return list(POLICIES)
    # One that is named twice would overwrite its own files.
    return [policy_named(name) for name in dict.fromkeys(map(str.strip, text.split(",")))]


def fleet(text: str | None) -> tuple[Mapping[str, catalog.Machine], dict[str, Hardware]]:
    """Read machines: names of kinds, `2*KIND` for two, or a YAML file for each kind in it.

    Returns:
        the kinds by name, and hardware by node id.

    Raises:
        InvalidArgumentError: a number of machines makes no sense, or the file is wrong.
        NotFoundError: there is no such kind.
    """
    text = ",".join(catalog.PAPER_NODES) if text is None else text
    numbers: Counter[str] = Counter()
    for word in text.split(","):
        number, kind = _counted(word.strip())
        numbers[kind] += number
    named = ",".join(numbers)
    kinds = catalog.machines_from(named)
    # What a file is named by stands for each kind in it.
    wanted = {name: numbers[name] or numbers[named] for name in kinds}
    if sum(wanted.values()) > NODES_MOST:
        raise InvalidArgumentError(
            f"--hardware asks for {sum(wanted.values())} machines; at most {NODES_MOST} can be had"
        )
    nodes = {
        f"{name}-{index}": kinds[name].hardware
        for name, number in wanted.items()
        for index in range(1, number + 1)
    }
    return kinds, nodes


def _counted(word: str) -> tuple[int, str]:
    number, times, kind = word.partition("*")
    if not times:
        return 1, word
    if not number.strip().isdecimal() or int(number) == 0:
        raise InvalidArgumentError(
            f"--hardware takes KIND or NUMBER*KIND, as 2*g4dn.xlarge, not {word!r}"
        )
    return int(number), kind.strip()


def models(
    text: str, kinds: Mapping[str, catalog.Machine], trace: Trace, slo_s: float
) -> tuple[SimModel, ...]:
    """Read models: a YAML file for all in it, or names; each gets an equal share of the trace.

    Raises:
        InvalidArgumentError: the file is wrong.
        NotFoundError: there is no such workload.
        NotServableError: one can't run on any of the machines.
    """
    found = catalog.workloads_from(text, kinds)
    for name, workload in found.items():
        if not workload.profiles:
            raise NotServableError(
                f"nothing is known of how {name} runs on {', '.join(kinds)}; choose other "
                "hardware, or describe the model in a YAML file"
            )
    shares = [trace.share(index, len(found)) for index in range(len(found))]
    return tuple(
        SimModel(
            Model(name, artifact_digest="", slo=Slo(slo_s)),
            workload.profiles,
            share,
            share.before(HISTORY_S),
        )
        for (name, workload), share in zip(found.items(), shares, strict=True)
    )
