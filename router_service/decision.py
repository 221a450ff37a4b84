"""What was decided about a call before anything was asked."""

from __future__ import annotations

from msgspec import Struct

from policies.classify import Classification
from policies.plan import Candidate, Plan


class Decision(Struct, frozen=True):
    """The cluster, the plan, and what they were made of."""

    classification: Classification
    plan: Plan
    candidates: tuple[Candidate, ...]
    """Everybody, as known at that moment."""
    key_tier: str | None
    """The tier of the caller's key, when its hints named none."""
    decision_ms: float
