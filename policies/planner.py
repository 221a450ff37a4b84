"""Who answers: the least expected cost of the whole chain among those who may, and why, in words and numbers.

The contract is `plan.PlanRequest` in, `plan.Plan` out; the hard limits are `constraints`, the arithmetic of chains is
`chains`, the choice among them `selection`. Knows nothing of backends, clocks or the registry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from registry.catalog import AUTO
from registry.errors import NoCandidateError

from .chains import (
    ChainLimits,
    Link,
    affordable,
    chain_p95_ms,
    chain_quality,
    cheapest_chain,
    p_escalate,
)
from .constraints import Question, dollars, estimate, just_below, reject
from .plan import Candidate, Estimate, Plan, PlanRequest, Rejection
from .selection import Alternative, Chance, alternative, select
from .terms import PlannerPolicy


class _Field(Struct):
    """The candidates of one decision, sorted out."""

    feasible: dict[str, tuple[Candidate, Estimate, Link]]
    rejections: list[Rejection]


class _Weighed(Struct, frozen=True):
    """By what the chains were weighed."""

    policy: PlannerPolicy
    lam: float


class _Choice(Struct, frozen=True):
    """The chain, and what must be said about it."""

    chain: tuple[Link, ...]
    remark: str = ""
    explored: bool = False


def plan(
    request: PlanRequest, candidates: Sequence[Candidate], policy: PlannerPolicy, chance: Chance | None = None
) -> Plan:
    """Return the plan: the least expected cost of the whole chain whose predicted quality meets the tier's SLA.

    The frontier, when it may answer at all, is always the last of the chain. When no chain meets the SLA the candidate
    of the best quality goes first, and the justification says so. A caller that names a model gets it, and no chain.
    With a `chance` the choice is drawn within the policy's exploration share, and obeys the spend ceiling's price.

    Raises NoCandidateError, with every candidate's reason in the message, when nobody may answer.
    """
    field = _sorted_out(request, candidates, policy)
    if not field.feasible:
        raise NoCandidateError(_nobody(request, field.rejections))
    named = request.asked_for != AUTO
    choice = _named(field, request.asked_for) if named else _choose(request, field, policy, chance)
    return _plan_of(request, field, choice, _Weighed(policy, 0.0 if chance is None else chance.lam))


def _sorted_out(request: PlanRequest, candidates: Sequence[Candidate], policy: PlannerPolicy) -> _Field:
    """Put every candidate to the hard constraints."""
    question = Question(request.features, request.cluster_id, request.terms, policy, request.call_id)
    field = _Field({}, [])
    named = request.asked_for != AUTO
    for candidate in candidates:
        if named and candidate.name != request.asked_for:
            reason = f"the caller asked for {request.asked_for}"
            field.rejections.append(Rejection(candidate.name, "not_asked_for", reason))
            continue
        rejection = reject(candidate, question, named=named)
        if rejection is not None:
            field.rejections.append(rejection)
        else:
            expected = estimate(candidate, request.features, policy)
            field.feasible[candidate.name] = (candidate, expected, _link(candidate, expected, policy))
    return field


def _link(candidate: Candidate, expected: Estimate, policy: PlannerPolicy) -> Link:
    believed = candidate.quality_if_believed
    return Link(
        name=candidate.name,
        cost=expected.cost_usd + policy.wait_usd_per_s * expected.latency_p50_ms / 1000.0,
        max_cost_usd=expected.max_cost_usd,
        latency_p95_ms=expected.latency_p95_ms,
        p_believed=candidate.p_believed,
        quality=candidate.quality if believed is None else believed,
        quality_sd=candidate.quality_sd,
    )


def _named(field: _Field, name: str) -> _Choice:
    candidate, expected, link = field.feasible[name]
    field.feasible[name] = (candidate, msgspec.structs.replace(expected, propensity=1.0, chain=(name,)), link)
    return _Choice((link,))


def _choose(request: PlanRequest, field: _Field, policy: PlannerPolicy, chance: Chance | None) -> _Choice:
    """Weigh one chain for each candidate that could go first; reject those below the SLA that had no chance."""
    sla = request.terms.quality_sla
    alternatives = _alternatives(request, field, policy, 0.0 if chance is None else chance.lam)
    share = policy.learning.exploration_share if policy.learning.enabled else 0.0
    selection = select(alternatives, sla, share, chance)
    chosen = alternatives[selection.index]
    for one, propensity in zip(alternatives, selection.propensities, strict=True):
        candidate, expected, link = field.feasible[one.first.name]
        weighed = msgspec.structs.replace(
            expected,
            propensity=propensity,
            chain=tuple(link.name for link in one.chain),
            chain_cost_usd=_money(one.chain, field),
            value=one.value,
        )
        field.feasible[candidate.name] = (candidate, weighed, link)
    _reject_poor(field, chosen, sla)
    remark = "" if selection.explored else _remark(chosen, alternatives, sla)
    return _Choice(chosen.chain, remark, selection.explored)


def _alternatives(request: PlanRequest, field: _Field, policy: PlannerPolicy, lam: float) -> list[Alternative]:
    """The cheapest chain of all that meets the SLA, and for everybody else the chain that it would head."""
    limits = _limits(request, policy)
    sla = limits.quality_sla
    last = _last_resort(field)
    others = [link for _, _, link in field.feasible.values() if link is not last]
    cheapest = cheapest_chain([link for link in others if link.quality >= sla], last, limits) or (last,)
    chains = {cheapest[0].name: cheapest, last.name: (last,)}
    for link in others:
        chain = _headed_by(link, last, limits)
        if chain is not None:
            chains.setdefault(link.name, chain)
    needed = policy.learning.under_evaluated_calls
    return [
        alternative(chain, sla, lam, unproven=_unproven(field.feasible[name][0], needed))
        for name, chain in chains.items()
    ]


def _headed_by(link: Link, last: Link, limits: ChainLimits) -> tuple[Link, ...] | None:
    """The chain with the last resort behind it; alone only where the last resort would not do better anyhow."""
    if limits.max_escalations > 0 and affordable((link, last), limits):
        return (link, last)
    return (link,) if last.quality < min(link.quality, limits.quality_sla) else None


def _unproven(candidate: Candidate, needed: float) -> bool:
    """One tried often enough need not be explored for ever, even where nobody says how right it was."""
    return candidate.kind == "specialist" and max(candidate.evidence, candidate.trials) < needed


def _money(chain: Sequence[Link], field: _Field) -> float:
    """US dollars that the chain costs on average, without what its time is worth."""
    mean_usd = 0.0
    for link in reversed(chain):
        mean_usd = field.feasible[link.name][1].cost_usd + (1.0 - link.p_believed) * mean_usd
    return mean_usd


def _remark(chosen: Alternative, alternatives: Sequence[Alternative], quality_sla: float) -> str:
    if chain_quality(chosen.chain) >= quality_sla:
        return ""
    if any(chain_quality(one.chain) >= quality_sla for one in alternatives):
        return f"the spend ceiling does not afford the {quality_sla:.2f} that the tier asks for on this call"
    return f"no chain meets the quality of {quality_sla:.2f} that the tier asks for, so the best goes first"


def _limits(request: PlanRequest, policy: PlannerPolicy) -> ChainLimits:
    return ChainLimits(
        max_cost_usd=request.terms.max_cost_usd,
        latency_budget_ms=request.terms.latency_budget_ms,
        quality_sla=request.terms.quality_sla,
        max_escalations=policy.max_escalations,
        unlikely=policy.unlikely_escalation,
    )


def _last_resort(field: _Field) -> Link:
    """The frontier; where it may not answer, whoever is likeliest to be right and believed: nobody comes behind."""
    for candidate, _, link in field.feasible.values():
        if candidate.is_frontier:
            return link
    return max(
        (link for _, _, link in field.feasible.values()), key=lambda link: (link.p_believed * link.quality, -link.cost)
    )


def _reject_poor(field: _Field, chosen: Alternative, quality_sla: float) -> None:
    """Move candidates below the SLA that have neither a chance nor a place in the chain to the rejections."""
    kept = {link.name for link in chosen.chain}
    for name, (_, expected, link) in list(field.feasible.items()):
        if link.quality < quality_sla and expected.propensity == 0.0 and name not in kept:
            reason = (
                f"its predicted quality is {just_below(link.quality, quality_sla)}, and {quality_sla:.2f} is asked for"
            )
            field.rejections.append(Rejection(name, "quality", reason))
            del field.feasible[name]


def _plan_of(request: PlanRequest, field: _Field, choice: _Choice, weighed: _Weighed) -> Plan:
    chain = choice.chain
    expected = {name: entry[1] for name, entry in field.feasible.items()}
    primary = expected[chain[0].name]
    mean_usd = _money(chain, field)
    return Plan(
        primary_model=chain[0].name,
        escalation_chain=tuple(link.name for link in chain[1:]),
        justification=_justify(request, field, choice, mean_usd),
        expected_cost_range=(primary.cost_usd, sum(link.max_cost_usd for link in chain)),
        expected_cost_usd=mean_usd,
        expected_latency_p95_ms=chain_p95_ms(chain, weighed.policy.unlikely_escalation),
        estimates=tuple(expected.values()),
        rejections=tuple(field.rejections),
        terms=request.terms,
        cluster_id=request.cluster_id,
        features=request.features,
        lam=weighed.lam,
        explored=choice.explored,
    )


def _justify(request: PlanRequest, field: _Field, choice: _Choice, mean_usd: float) -> str:
    """Two or three plain sentences: what it costs against what else, when it escalates, who was left out."""
    first, last = choice.chain[0], choice.chain[-1]
    alone = field.feasible[last.name][1].cost_usd
    if request.asked_for != AUTO:
        said = f"{first.name} was asked for by name: expected {dollars(mean_usd)} a call, no escalation."
    elif len(choice.chain) == 1:
        why = "" if choice.explored else f"; {_why_alone(request, field)}"
        said = f"{first.name} answers alone: expected {dollars(mean_usd)} a call{why}."
    else:
        said = (
            f"{first.name}: expected {dollars(mean_usd)} a call with its escalations, against {dollars(alone)} for "
            f"{last.name} alone; escalates to {' then '.join(link.name for link in choice.chain[1:])} if its answer is "
            f"not believed (expected in {p_escalate(choice.chain):.0%} of calls)."
        )
    if choice.explored:
        said += " Not the best on present beliefs: it was drawn to learn how good it is."
    if choice.remark:
        said += f" Predicted quality {chain_quality(choice.chain):.2f}: {choice.remark}."
    return said + _left_out(field.rejections)


def _why_alone(request: PlanRequest, field: _Field) -> str:
    if not request.cluster_matched:
        return "the call's cluster is unknown"
    if len(field.feasible) == 1:
        return "nobody else may answer or is good enough"
    return "no one else before it would make the call cheaper within its limits"


def _left_out(rejections: Sequence[Rejection]) -> str:
    if not rejections:
        return ""
    counts = Counter(rejection.code for rejection in rejections)
    return f" Left out: {', '.join(f'{count} for {code}' for code, count in counts.most_common())}."


def _nobody(request: PlanRequest, rejections: Sequence[Rejection]) -> str:
    reasons = [r for r in rejections if r.code != "not_asked_for"] or list(rejections)
    listed = "; ".join(f"{r.candidate}: {r.reason} ({r.code})" for r in reasons)
    if request.asked_for != AUTO:
        return f"{request.asked_for} may not answer this call. {listed or 'It is not among the candidates'}."
    return f"No candidate may answer this call. {listed or 'There are none'}."
