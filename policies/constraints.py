"""The hard constraints: who may answer this call at all, as a table of checks, each with its reason in numbers.

Cheap checks that hold for whole groups of calls come first, so that a rejection's first reason is the most general one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from registry.stages import serves_callers

from .plan import Candidate, Estimate, Rejection, RejectionCode, TaskFeatures, Terms
from .terms import GRADE_RANK, PlannerPolicy


class Question(Struct, frozen=True):
    """What every check of one decision shares."""

    features: TaskFeatures
    cluster_id: str
    terms: Terms
    policy: PlannerPolicy
    call_id: str = ""


Check = Callable[[Candidate, Question], str | None]


def _stage(candidate: Candidate, _: Question) -> str | None:
    if candidate.kind == "model" or serves_callers(candidate.stage):
        return None
    return f"its stage is {candidate.stage}; only canary and active specialists answer callers"


def _health(candidate: Candidate, _: Question) -> str | None:
    if candidate.healthy:
        return None
    return candidate.health_reason or f"its backend {candidate.backend} is not healthy"


def _cluster(candidate: Candidate, question: Question) -> str | None:
    if question.cluster_id in candidate.clusters or "*" in candidate.clusters:
        return None
    return f"it serves {_few(candidate.clusters)}, and the call's cluster is {question.cluster_id}"


def _safety(candidate: Candidate, question: Question) -> str | None:
    needed = question.terms.safety_grade
    if GRADE_RANK[candidate.safety_grade] <= GRADE_RANK[needed]:
        return None
    return f"its safety grade is {candidate.safety_grade}, and {needed} or better is needed"


def _template(candidate: Candidate, question: Question) -> str | None:
    if not candidate.uses_template:
        return None
    if candidate.template_signature is not None and candidate.template_signature != question.features.signature:
        return (
            f"its template is for signature {candidate.template_signature[:12]}, "
            f"and the call's is {question.features.signature[:12]}"
        )
    if question.features.turns > 1:
        return f"its template takes one user message, and the call has {question.features.turns} messages"
    return None


def _share(candidate: Candidate, question: Question) -> str | None:
    """The same calls at every decision, and a larger share holds all those of a smaller one."""
    if candidate.stage != "canary" or candidate.share >= 1.0 or not question.call_id:
        return None
    luck = luck_of(candidate.name, question.call_id)
    if luck < candidate.share:
        return None
    return f"it is a canary for {100 * candidate.share:.3g} % of calls, and this one is not among them"


def luck_of(specialist: str, call_id: str) -> float:
    """Return a number in [0, 1), evenly spread and always the same for a specialist and a call."""
    digest = hashlib.blake2b(f"{specialist}\x1f{call_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def _tools(candidate: Candidate, question: Question) -> str | None:
    if candidate.tools or not question.features.needs_tools:
        return None
    return "the call offers tools, and it cannot call any"


def _response_format(candidate: Candidate, question: Question) -> str | None:
    if candidate.response_formats or not question.features.needs_json:
        return None
    return "the call sets a response format, and it accepts none"


def _context(candidate: Candidate, question: Question) -> str | None:
    prompt, most = prompt_tokens(candidate, question.features), question.features.max_tokens
    if prompt + most <= candidate.context_len:
        return None
    return f"its context is {candidate.context_len} tokens, and the call needs {prompt} + {most}"


def _confidence(candidate: Candidate, _: Question) -> str | None:
    if candidate.kind != "specialist" or candidate.p_believed > 0.0:
        return None
    return "none of its answers may be believed: no confidence threshold keeps its errors below the bound"


def _formatting(candidate: Candidate, question: Question) -> str | None:
    """Not for the frontier: there is nobody behind it."""
    policy = question.policy
    if candidate.is_frontier or candidate.formatting_calls < policy.formatting_min_calls:
        return None
    if candidate.formatting_error_rate <= policy.formatting_error_rate_max:
        return None
    return (
        f"{candidate.formatting_error_rate:.1%} of its last {candidate.formatting_calls} answers within the hour were "
        f"malformed, and {policy.formatting_error_rate_max:.1%} are allowed"
    )


def _cost(candidate: Candidate, question: Question) -> str | None:
    most = max_cost_usd(candidate, question.features, question.policy)
    if most <= question.terms.max_cost_usd:
        return None
    return f"it may cost up to {dollars(most)}, and {dollars(question.terms.max_cost_usd)} is allowed"


def _latency(candidate: Candidate, question: Question) -> str | None:
    p95 = latency_ms(candidate, question.features) * question.policy.latency_p95_factor
    if p95 <= question.terms.latency_budget_ms:
        return None
    return f"its p95 latency is {p95:,.0f} ms, and the budget is {question.terms.latency_budget_ms:,.0f} ms"


CHECKS: Final[tuple[tuple[RejectionCode, Check], ...]] = (
    ("stage", _stage),
    ("health", _health),
    ("cluster", _cluster),
    ("safety", _safety),
    ("template", _template),
    ("share", _share),
    ("tools", _tools),
    ("response_format", _response_format),
    ("context", _context),
    ("formatting", _formatting),
    ("confidence", _confidence),
    ("cost", _cost),
    ("latency", _latency),
)

POLICY_DEPENDENT: Final[frozenset[RejectionCode]] = frozenset({"safety", "formatting", "cost", "latency", "quality"})
"""Rejections that another planner.yaml could lift; the others are facts of the call, the registry or the moment."""

SOFT_WHEN_NAMED: Final[frozenset[RejectionCode]] = frozenset({"cluster", "latency", "share"})
"""A caller that names a model has judged for itself whether it suits the task and is fast enough (the deadline still
ends the call), and wants a canary for this call. Everything else holds for named models too."""


def reject(candidate: Candidate, question: Question, *, named: bool = False) -> Rejection | None:
    """Return the first reason why the candidate may not answer, or None when it may."""
    for code, check in CHECKS:
        reason = check(candidate, question)
        if reason is not None and not (named and code in SOFT_WHEN_NAMED):
            return Rejection(candidate.name, code, reason)
    return None


def prompt_tokens(candidate: Candidate, features: TaskFeatures) -> int:
    """Return what the candidate would be sent: through a template, only what varies."""
    return features.variable_tokens if candidate.uses_template else features.prompt_tokens


def max_cost_usd(candidate: Candidate, features: TaskFeatures, policy: PlannerPolicy) -> float:
    """Return the cost when all of `max_tokens` is used, with the margin on the estimated prompt."""
    prompt = prompt_tokens(candidate, features) * policy.cost_margin
    return candidate.prices.cost_usd(prompt, features.max_tokens)


def latency_ms(candidate: Candidate, features: TaskFeatures) -> float:
    """Return the expected time to the last token, a load of its adapter included."""
    decode_ms = features.expected_output_tokens * 1000.0 / candidate.tokens_per_s
    return candidate.load_ms + candidate.first_token_ms + decode_ms


def estimate(candidate: Candidate, features: TaskFeatures, policy: PlannerPolicy) -> Estimate:
    """Return what picking the candidate is expected to bring."""
    p50_ms = latency_ms(candidate, features)
    cost_usd = candidate.expected_cost_usd
    if cost_usd is None:
        cost_usd = candidate.prices.cost_usd(prompt_tokens(candidate, features), features.expected_output_tokens)
    return Estimate(
        candidate=candidate.name,
        quality=candidate.quality,
        p_believed=candidate.p_believed,
        cost_usd=cost_usd,
        max_cost_usd=max_cost_usd(candidate, features, policy),
        latency_p50_ms=p50_ms,
        latency_p95_ms=p50_ms * policy.latency_p95_factor,
        quality_sd=candidate.quality_sd,
        evidence=candidate.evidence,
        trials=candidate.trials,
        load_ms=candidate.load_ms,
    )


def dollars(amount_usd: float) -> str:
    """Return an amount with two significant digits and no exponent: `$0.0000021`, `$0.12`, `$3.40`."""
    if amount_usd >= 1 or amount_usd <= 0:
        return f"${amount_usd:.2f}"
    digits = f"{amount_usd:.1e}"
    decimals = min(12, int(digits[digits.index("e") + 2 :]) + 1)
    return f"${amount_usd:.{decimals}f}"


def just_below(share: float, bound: float) -> str:
    """Return a share that is below the bound with as many digits as show that it is: `0.79`, `0.7996`."""
    for digits in range(2, 7):
        shown = f"{share:.{digits}f}"
        if float(shown) < bound:
            return shown
    return f"a little less than {bound:g}"


def _few(names: tuple[str, ...]) -> str:
    if len(names) <= 3:
        return ", ".join(names) or "no cluster"
    return f"{', '.join(names[:3])} and {len(names) - 3} more"
