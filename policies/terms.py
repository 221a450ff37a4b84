"""The terms of a call: what its caller asked for, within what the operator's tiers allow. Knows nothing of candidates.

A hint is a limit, and limits add up: what holds is the stricter of the caller's and the tier's ceiling. So a caller may
always tighten; it may loosen the tier's default only up to the tier's ceiling; and it never lowers the safety grade
below the tier's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta, Struct, field

from registry.entries import SafetyGrade
from registry.errors import ConfigError, InvalidRequestError

from .learning import ConfidencePolicy, LearningPolicy, SpendPolicy
from .plan import Hints, Terms

Millis = Annotated[float, Meta(gt=0)]
Dollars = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

GRADES: Final[dict[str, SafetyGrade]] = {"A": "A", "B": "B", "C": "C", "D": "D"}
"""Best first."""
GRADE_RANK: Final[dict[SafetyGrade, int]] = {"A": 0, "B": 1, "C": 2, "D": 3}


class TierPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a user tier is promised, and how far a caller's hints may go."""

    latency_budget_ms: Millis
    """For calls that name none."""
    max_cost_usd: Dollars
    """For calls that name none."""
    quality_sla: Share
    """Least predicted P(right) of what answers this tier."""
    safety_level: str = "standard"
    """Least grade for this tier: a word of `safety_levels` or a letter."""
    latency_ceiling_ms: Millis | None = None
    """Longest budget that a hint can get; None: any."""
    cost_ceiling_usd: Dollars | None = None
    """Most that a hint may allow one call to cost; None: any."""


def _tiers() -> dict[str, TierPolicy]:
    return {
        "free": TierPolicy(
            latency_budget_ms=120_000,
            max_cost_usd=0.02,
            cost_ceiling_usd=0.02,
            quality_sla=0.7,
            safety_level="standard",
        ),
        "standard": TierPolicy(
            latency_budget_ms=60_000, max_cost_usd=0.1, cost_ceiling_usd=1.0, quality_sla=0.8, safety_level="standard"
        ),
        "premium": TierPolicy(
            latency_budget_ms=30_000, max_cost_usd=0.5, cost_ceiling_usd=5.0, quality_sla=0.9, safety_level="standard"
        ),
    }


def _levels() -> dict[str, SafetyGrade]:
    return {"low": "D", "standard": "C", "high": "B", "strict": "A"}


class PlannerPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of planner.yaml; the defaults are that file's."""

    default_tier: str = "standard"
    tiers: dict[str, TierPolicy] = field(default_factory=_tiers)
    safety_levels: dict[str, SafetyGrade] = field(default_factory=_levels)
    formatting_error_rate_max: Share = 0.05
    """A specialist whose share of malformed answers in the last hour is above this is not picked."""
    formatting_min_calls: Annotated[int, Meta(ge=1)] = 50
    """Fewer calls than this in the last hour prove nothing."""
    max_escalations: Annotated[int, Meta(ge=0, le=8)] = 3
    """Most candidates after the primary."""
    cost_margin: Annotated[float, Meta(ge=1, le=10)] = 1.2
    """Prompt tokens are estimates: the most a call can cost assumes this many times as many."""
    latency_p95_factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    """p95 latency as a multiple of the expected one."""
    unlikely_escalation: Share = 0.05
    """A step that is reached less often than this does not count in the chain's p95 latency."""
    wait_usd_per_s: Dollars = 1e-9
    """What a second of waiting is worth. Tiny: it only settles ties between candidates that cost the same."""
    serve_unverified: bool = True
    """Give the answer of the last resort (the frontier, or the model a caller named) even if a check failed, marked
    `unverified`: the gateway is no stricter than that model alone. False: such a call fails."""
    check_truncated_text: bool = False
    """Whether free text cut by `max_tokens` is disbelieved too. JSON and tool calls that are cut always are."""
    learning: LearningPolicy = field(default_factory=LearningPolicy)
    spend: SpendPolicy = field(default_factory=SpendPolicy)
    confidence: ConfidencePolicy = field(default_factory=ConfidencePolicy)

    def __post_init__(self) -> None:
        """Raise ValueError, which strict loading turns into a finding, when words of the file do not fit together."""
        if self.default_tier not in self.tiers:
            raise ValueError(f"default_tier `{self.default_tier}` is none of the tiers: {_listed(self.tiers)}")
        for name, tier in self.tiers.items():
            if _grade(tier.safety_level, self) is None:
                allowed = _listed([*self.safety_levels, *GRADES])
                raise ValueError(f"tier `{name}`: safety_level `{tier.safety_level}` is none of {allowed}")


def terms_of(hints: Hints, policy: PlannerPolicy, key_tier: str | None = None) -> Terms:
    """Return the limits in force. `key_tier` is the caller's own tier, used when the hints name none.

    Raises InvalidRequestError with the hint's path, naming what is allowed; ConfigError for an unknown `key_tier`.
    """
    name = _tier_name(hints, policy, key_tier)
    tier = policy.tiers[name]
    latency_ms = _number(hints.latency_budget_ms, "latency_budget_ms", tier.latency_budget_ms)
    if latency_ms <= 0:
        raise InvalidRequestError("`latency_budget_ms` must be above 0.", param="routing.latency_budget_ms")
    cost_usd = _number(hints.max_cost_usd, "max_cost_usd", tier.max_cost_usd)
    if cost_usd < 0:
        raise InvalidRequestError("`max_cost_usd` must not be negative.", param="routing.max_cost_usd")
    return Terms(
        user_tier=name,
        latency_budget_ms=_at_most(latency_ms, tier.latency_ceiling_ms),
        max_cost_usd=_at_most(cost_usd, tier.cost_ceiling_usd),
        safety_grade=_safety(hints, policy, tier),
        quality_sla=tier.quality_sla,
    )


def _tier_name(hints: Hints, policy: PlannerPolicy, key_tier: str | None) -> str:
    if hints.user_tier is not None:
        if hints.user_tier not in policy.tiers:
            message = f"`{hints.user_tier}` is not a user tier; use one of {_listed(policy.tiers)}."
            raise InvalidRequestError(message, param="routing.user_tier")
        return hints.user_tier
    if key_tier is not None and key_tier not in policy.tiers:
        raise ConfigError(f"The key's user_tier `{key_tier}` is none of the planner's tiers: {_listed(policy.tiers)}.")
    return key_tier if key_tier is not None else policy.default_tier


def _safety(hints: Hints, policy: PlannerPolicy, tier: TierPolicy) -> SafetyGrade:
    """The stricter of the tier's grade and the caller's."""
    floor = _grade(tier.safety_level, policy) or "A"  # checked at loading; the strictest if that was bypassed
    if hints.safety_level is None:
        return floor
    asked = _grade(hints.safety_level, policy)
    if asked is None:
        allowed = _listed([*policy.safety_levels, *GRADES])
        message = f"`{hints.safety_level}` is not a safety level; use one of {allowed}."
        raise InvalidRequestError(message, param="routing.safety_level")
    return min(floor, asked, key=lambda grade: GRADE_RANK[grade])


def _grade(level: str, policy: PlannerPolicy) -> SafetyGrade | None:
    return policy.safety_levels.get(level.strip().lower()) or GRADES.get(level.strip().upper())


def _number(hinted: float | None, name: str, default: float) -> float:
    if hinted is None:
        return default
    if not math.isfinite(hinted):
        raise InvalidRequestError(f"`{name}` must be a finite number.", param=f"routing.{name}")
    return float(hinted)


def _at_most(value: float, ceiling: float | None) -> float:
    return value if ceiling is None else min(value, ceiling)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
