"""A shadow's recorded answer beside what was served: which of the two is right, and what the chain would have done.

Pure but for the query, whose columns it names. Knows nothing of trials.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from policies.agreement import agree
from policies.answers import Answer, AnsweredToolCall
from policies.promotion_trial import ShadowOutcome
from specialists.templates import parse_tool_calls

LEAST_SCORE: Final = 0.5
"""Feedback that gives a score alone confirms an answer from it on, and contradicts one below it."""

SHADOWS: Final = """
    SELECT shadow.call_id, shadow.outcome, shadow.agrees, shadow.cost_usd, shadow.latency_ms,
           shadow.reference_verified, shadow.reference_cost_usd, shadow.reference_latency_ms,
           shadow."right", shadow.reference_right, said.outcome, said.score, said.correction,
           CASE WHEN said.correction IS NOT NULL THEN shadow.answer_text END,
           CASE WHEN said.correction IS NOT NULL THEN shadow.answer_tool_calls END
    FROM slm_shadow AS shadow
    LEFT JOIN slm_feedback_latest AS said ON said.call_id = shadow.call_id AND said.tenant = shadow.tenant
    WHERE shadow.specialist = ? AND shadow.at_ms >= ? ORDER BY shadow.at_ms, shadow.id
"""
"""Values: the specialist, and the time from which on."""
_CALLS: Final = msgspec.json.Decoder(tuple[AnsweredToolCall, ...])
_NO_ANSWER: Final = ("malformed", "failed", "timed_out")


class ShadowRow(Struct, frozen=True):
    """A row of slm_shadow with what feedback says of its call. The order is the query's."""

    call_id: str
    outcome: str
    agrees: bool | None
    cost_usd: float
    latency_ms: float | None
    reference_verified: bool | None
    reference_cost_usd: float
    reference_latency_ms: float
    right: bool | None = None
    reference_right: bool | None = None
    said_outcome: str | None = None
    said_score: float | None = None
    said_correction: str | None = None
    answer_text: str | None = None
    answer_tool_calls: str | None = None

    @property
    def served_right(self) -> bool | None:
        """Whether what was served is right by a person's word."""
        if self.reference_right is not None:
            return self.reference_right
        if self.said_correction and self.said_correction.strip():
            return False
        if self.said_outcome is not None:
            return self.said_outcome == "success"
        return None if self.said_score is None else self.said_score >= LEAST_SCORE

    @property
    def shadow_right(self) -> bool | None:
        """Whether the shadow's own answer is, believed or not; None: unknown.

        Where what was served is right, so is who says the same, and other words count as wrong, as they do in the
        evaluation. Where it was wrong, so is who says the same; who says otherwise is right by the correction alone.
        """
        served = self.served_right
        if self.right is not None or served is None:
            return self.right
        if served or self.outcome in _NO_ANSWER:
            return self.outcome not in _NO_ANSWER and self.agrees is True
        if self.agrees:
            return False
        return self._is_correction() if self.said_correction else None

    @property
    def is_judged(self) -> bool:
        """Whether a person's word says of both answers if they are right.

        It must not depend on whether the shadow's answer was believed: else the share of believed and wrong is skewed.
        """
        return self.served_right is not None and self.shadow_right is not None

    def _is_correction(self) -> bool | None:
        calls = _CALLS.decode(self.answer_tool_calls) if self.answer_tool_calls else ()
        if self.answer_text is None and not calls:
            return None  # the text was not kept
        text = self.said_correction or ""
        meant = (parse_tool_calls(text) or ()) if calls else ()
        wanted = Answer(None if meant else text, tuple(AnsweredToolCall(one.name, one.arguments) for one in meant))
        return agree(Answer(self.answer_text, calls), wanted) is True

    def outcome_of_chain(self, *, judged_alone: bool) -> ShadowOutcome:
        """Return what the chain would have done: the shadow's answer where it is believed, else what was served.

        With `judged_alone`, nothing is said of right and wrong where no person's word is known.
        """
        believed = self.outcome == "verified"
        own, served = self._rights(judged_alone=judged_alone)
        latency_ms = (
            None if self.latency_ms is None else self.latency_ms + (0.0 if believed else self.reference_latency_ms)
        )
        unknown = judged_alone and not self.is_judged
        return ShadowOutcome(
            call_id=self.call_id,
            well_formed=self.outcome in ("verified", "unsure"),
            success=own if believed else served,
            reference_success=served,
            latency_ms=latency_ms,
            reference_latency_ms=self.reference_latency_ms,
            cost_usd=self.cost_usd + (0.0 if believed else self.reference_cost_usd),
            reference_cost_usd=self.reference_cost_usd,
            escalated=not believed,
            accepted_wrong=(None if own is None else not own) if believed else (None if unknown else False),
        )

    def _rights(self, *, judged_alone: bool) -> tuple[bool | None, bool | None]:
        """Whether the shadow's answer is right, and what was served."""
        if judged_alone and not self.is_judged:
            return None, None
        if self.served_right is not None:
            return self.shadow_right, self.served_right
        return self.agrees, True if self.reference_verified else None
