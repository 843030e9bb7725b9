"""What is written down of a decision, so that it can be explained, and checked later."""

from __future__ import annotations

import hashlib

from paldia.core.config import PolicyConfig
from paldia.core.observation import Candidate, Decision, ModelPlan
from paldia.core.placement.choice import Choice
from paldia.core.placement.occupancy import Fleet
from paldia.core.placement.questions import Question
from paldia.core.profiles import Profile
from paldia.core.sharing.costs import costs_of


def recorded(
    question: Question,
    options: tuple[Candidate, ...],
    choice: Choice,
    before: ModelPlan,
    after: ModelPlan,
    *,
    digest: str,
) -> Decision:
    """Write a decision down with the numbers that decided it."""
    return Decision(
        decided_s=question.now_s,
        model=question.view.model.name,
        generation=question.view.model.generation,
        action=choice.action,
        reason=choice.reason,
        rate=question.memory.rate,
        backlog=question.view.demand.backlog,
        candidates=options,
        chosen=choice.candidate,
        slo_unreachable=after.slo_unreachable,
        inputs_digest=digest,
        before=before.target,
        after=after.target,
    )


def inputs_digest(
    question: Question, options: tuple[Candidate, ...], fleet: Fleet, config: PolicyConfig
) -> str:
    """Fingerprint of the question, and of what the nodes hold that are a candidate's."""
    spots = sorted({a.node_id for option in options for a in option.assignments})
    nodes = [
        (node.node_id, node.hardware.name, node.state.value, node.problem, fleet.loads(index))
        for index in (fleet.index[spot] for spot in spots)
        for node in (fleet.at(index),)
    ]
    view = question.view
    digest = hashlib.sha256()
    for kind in sorted(view.profiles):
        digest.update(kind.encode())
        _take_in(digest, view.profiles[kind])
    asked = (view.model, view.demand, question.memory, question.current, question.hint)
    terms = (question.now_s, question.policy, question.waiting, config)
    digest.update(repr((asked, terms, nodes)).encode())
    return digest.hexdigest()


def _take_in(digest: hashlib._Hash, profile: Profile | None) -> None:
    """Add a profile: what it says of every batch, as numbers, for that is quickly done."""
    if profile is not None:
        costs = costs_of(profile, 100)
        digest.update(costs.latency_s.tobytes() + costs.demand.tobytes())
        rest = (
            profile.load_s,
            profile.memory_bytes,
            profile.sm_share,
            profile.colocation_penalty,
            profile.interference,
        )
        digest.update(repr(rest).encode())
