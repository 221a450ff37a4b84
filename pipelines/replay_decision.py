"""Makes one recorded decision again, under another planner.yaml, with the code that decides live.

Whoever could answer is rebuilt from the registry's snapshot and the figures in the record; what no policy could lift
(stage, health, cluster, tools, ...) stays as it was. The draws are those of the call's id, so the same policy makes the
same decision. Beliefs and the spend ceiling's price are the recorded ones: what another policy would have taught the
planner meanwhile is not replayed, and neither is whether an answer is believed and served (`confidence`,
`check_truncated_text`, `serve_unverified`). Knows nothing of stores or estimators.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, structs

from observations.records import AttemptRecord, CallRecord, CandidateRecord, PlanRecord
from policies.constraints import POLICY_DEPENDENT, latency_ms, prompt_tokens
from policies.contenders import Contender
from policies.plan import Candidate, Hints, Plan, PlanRequest, TaskFeatures
from policies.planner import plan
from policies.selection import chance_for
from policies.terms import PlannerPolicy, terms_of
from registry.catalog import AUTO
from registry.errors import ConfigError, InvalidRequestError, NoCandidateError

Skip = Literal["named", "cached", "no_plan", "cancelled", "never_asked", "old_record", "no_catalog", "no_propensity"]
Refusal = Literal["no_candidate", "hint_not_allowed", "unknown_tier"]

WHY_SKIPPED: Final[dict[str, str]] = {
    "named": "the caller named a model, so no policy decided",
    "cached": "answered from the cache",
    "no_plan": "refused before a plan was made",
    "cancelled": "the caller went away",
    "never_asked": "nobody was asked after the plan was made (a budget, say)",
    "old_record": "recorded without the figures that a decision is made of",
    "no_catalog": "the registry of its time is not in the store or cannot be read",
    "no_propensity": "the record does not say how likely the choice was",
}


class Course(Struct, frozen=True):
    """What a chain is expected to bring, or did bring: reward (0 to 1), US dollars, P(escalated), milliseconds."""

    reward: float = 0.0
    cost_usd: float = 0.0
    escalated: float = 0.0
    latency_ms: float = 0.0


class Choices(Struct, frozen=True):
    """How likely each candidate was to go first, and what its chain is expected to bring."""

    propensities: tuple[float, ...]
    forecasts: tuple[Course, ...]


class Replanned(Struct, frozen=True):
    """One decision as it was made, and as the new policy makes it. Columns are `names`."""

    names: tuple[str, ...]
    taken: int
    logged: Choices
    target: Choices
    refused: Refusal | None
    same: bool
    """The new policy makes the same choice, down to the chains and to how likely each is."""
    followed: bool
    """What came after the start that was made would have come under the new policy, too."""
    spent: Course
    """Where it would not: what it had taken when the ways part, ..."""
    rest: Course
    """... and what is expected from there on."""


def replan(call: CallRecord, contenders: Sequence[Contender] | None, policy: PlannerPolicy) -> Replanned | Skip:
    """Decide again, or say why that cannot be."""
    skipped = _unfit(call)
    if skipped is not None:
        return skipped
    if contenders is None:
        return "no_catalog"
    situation = _situation(call, contenders)
    if isinstance(situation, str):
        return situation
    assert call.plan is not None
    made = _decide(call, situation, policy)
    seen = {one.name: one for one in call.plan.candidates}
    outlook = _Outlook(situation)
    logged = {name: (one.propensity, one.chain) for name, one in seen.items()}
    target = {} if isinstance(made, str) else {e.candidate: (e.propensity, e.chain) for e in made.estimates}
    chain = target.get(call.plan.primary, (0.0, ()))[1]
    spent, rest = outlook.parted(call, chain)
    return Replanned(
        names=outlook.names,
        taken=outlook.names.index(call.plan.primary),
        logged=outlook.choices(logged),
        target=outlook.choices(target),
        refused=made if isinstance(made, str) else None,
        same=_likely(logged) == _likely(target),
        followed=not chain or _follows(call, chain),
        spent=spent,
        rest=rest,
    )


def _likely(choices: dict[str, tuple[float, tuple[str, ...]]]) -> dict[str, tuple[float, tuple[str, ...]]]:
    """Those with a chance; rounded, since chances are sums of fractions."""
    return {name: (round(propensity, 9), chain) for name, (propensity, chain) in choices.items() if propensity > 0.0}


class _Situation(Struct, frozen=True):
    """What a decision is made of, but for the policy."""

    features: TaskFeatures
    hints: Hints
    candidates: list[Candidate]
    """Everybody whom some policy could have chosen."""


def _situation(call: CallRecord, contenders: Sequence[Contender]) -> _Situation | Skip:
    """The decision's inputs as recorded."""
    assert call.plan is not None
    try:
        features = msgspec.convert(call.plan.inputs.get("task_features"), TaskFeatures)
        hints = msgspec.convert(call.plan.inputs.get("hints", {}), Hints)
    except msgspec.ValidationError:
        return "old_record"
    candidates = _candidates(call.plan, contenders)
    if not candidates:
        return "old_record"
    seen = {one.name: one for one in call.plan.candidates}
    primary = seen.get(call.plan.primary)
    if primary is None or primary.propensity <= 0.0 or not primary.chain:
        return "no_propensity"
    known = {candidate.name for candidate in candidates}
    if not known.issuperset(name for one in seen.values() for name in one.chain):
        return "no_catalog"
    return _Situation(features, hints, candidates)


def _unfit(call: CallRecord) -> Skip | None:
    if call.cache_hit:
        return "cached"
    if call.plan is None:
        return "no_plan"
    if _was_named(call, call.plan):
        return "named"
    if call.outcome == "cancelled":
        return "cancelled"
    return None if call.attempts else "never_asked"


def _was_named(call: CallRecord, made: PlanRecord) -> bool:
    asked_for = made.inputs.get("asked_for")
    if asked_for is not None:
        return bool(asked_for != AUTO)
    return call.requested_model != AUTO or any(one.rejection_code == "not_asked_for" for one in made.candidates)


def _candidates(made: PlanRecord, contenders: Iterable[Contender]) -> list[Candidate]:
    """Everybody whom some policy could have chosen, as known then, in the registry's order; none: not recorded."""
    seen = {one.name: one for one in made.candidates}
    candidates = []
    for contender in contenders:
        known = seen.get(contender.name)
        if known is None or (known.rejection_code and known.rejection_code not in POLICY_DEPENDENT):
            continue
        if known.first_token_ms is None or known.tokens_per_s is None or known.quality is None:
            return []
        candidates.append(_as_known(contender, known))
    return candidates


def _as_known(contender: Contender, known: CandidateRecord) -> Candidate:
    figures: dict[str, Any] = {
        "quality": known.quality,
        "quality_sd": known.quality_sd,
        "evidence": known.evidence,
        "trials": known.trials,
        "p_believed": known.p_believed,
        "quality_if_believed": known.quality_if_believed,
        "expected_cost_usd": known.cost_usd,
        "first_token_ms": known.first_token_ms,
        "tokens_per_s": known.tokens_per_s,
        "load_ms": known.load_ms,
        "formatting_error_rate": known.formatting_error_rate,
        "formatting_calls": known.formatting_calls,
    }
    return structs.replace(contender.candidate, **figures)


def _decide(call: CallRecord, situation: _Situation, policy: PlannerPolicy) -> Plan | Refusal:
    """The new policy's plan, or why it would turn the call away."""
    assert call.plan is not None
    inputs = call.plan.inputs
    try:
        terms = terms_of(situation.hints, policy, inputs.get("key_tier"))
    except InvalidRequestError:
        return "hint_not_allowed"
    except ConfigError:
        return "unknown_tier"
    cluster = str(inputs.get("cluster_id", call.cluster))
    request = PlanRequest(situation.features, cluster, terms, call.cluster_source != "none", call_id=call.id)
    has_ceiling = policy.spend.usd_per_call is not None or policy.spend.usd_per_hour is not None
    chance = chance_for(call.id, policy.learning, call.plan.lam if has_ceiling else 0.0)
    try:
        return plan(request, situation.candidates, policy, chance)
    except NoCandidateError:
        return "no_candidate"


def _follows(call: CallRecord, chain: tuple[str, ...]) -> bool:
    """Whether the attempts that were made are those that the chain would have made: up to the one that was believed."""
    assert call.plan is not None
    logged = (call.plan.primary, *call.plan.escalation_chain)
    if chain == logged:
        return True
    last = call.attempts[-1]
    if last.outcome != "verified" or last.candidate not in logged:
        return False
    reached = logged.index(last.candidate) + 1
    return chain[:reached] == logged[:reached]


class _Outlook:
    """What each candidate is expected to bring to this call, and so what chains of them are."""

    def __init__(self, situation: _Situation) -> None:
        self.names = tuple(candidate.name for candidate in situation.candidates)
        self._steps = {candidate.name: _step(candidate, situation.features) for candidate in situation.candidates}

    def choices(self, made: dict[str, tuple[float, tuple[str, ...]]]) -> Choices:
        """Propensities and forecasts in the columns' order; those who head no chain get none."""
        return Choices(
            propensities=tuple(made[name][0] if name in made else 0.0 for name in self.names),
            forecasts=tuple(self.forecast(made[name][1]) if name in made else Course() for name in self.names),
        )

    def forecast(self, chain: Sequence[str]) -> Course:
        """What the chain brings on average: each step's share of it is P(nobody before it was believed)."""
        reward = cost_usd = spent_ms = 0.0
        reached = 1.0
        for position, name in enumerate(chain):
            p_believed, step = self._steps[name]
            cost_usd += reached * step.cost_usd
            spent_ms += reached * step.latency_ms
            served = reached if position == len(chain) - 1 else reached * p_believed
            reward += served * step.reward
            reached -= served
        escalated = 1.0 - self._steps[chain[0]][0] if len(chain) > 1 else 0.0
        return Course(reward, cost_usd, escalated, spent_ms)

    def parted(self, call: CallRecord, chain: tuple[str, ...]) -> tuple[Course, Course]:
        """What the chain's beginning took in this call, and what to expect of the rest of it."""
        assert call.plan is not None
        common = _common(chain, (call.plan.primary, *call.plan.escalation_chain))
        before = [attempt for attempt in call.attempts if attempt.candidate in chain[:common]]
        rest = self.forecast(chain[common:])
        around_ms = max(0.0, call.latency_ms - _total_ms(call.attempts))
        spent = Course(
            cost_usd=sum(attempt.cost_usd for attempt in before),
            escalated=float(len(before) + len(chain) - common > 1),
            latency_ms=around_ms + _total_ms(before),
        )
        return spent, structs.replace(rest, escalated=0.0)


def _step(candidate: Candidate, features: TaskFeatures) -> tuple[float, Course]:
    """(P(believed), what it brings by itself)."""
    cost_usd, believed = candidate.expected_cost_usd, candidate.quality_if_believed
    if cost_usd is None:
        cost_usd = candidate.prices.cost_usd(prompt_tokens(candidate, features), features.expected_output_tokens)
    quality = candidate.quality if believed is None else believed
    return candidate.p_believed, Course(quality, cost_usd, 0.0, latency_ms(candidate, features))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names two chains begin with alike."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _total_ms(attempts: Iterable[AttemptRecord]) -> float:
    return sum(attempt.latency_ms for attempt in attempts)
