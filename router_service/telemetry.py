"""Feeds what happened to the metrics and to the planner's live beliefs. Knows nothing of records on disk."""

from __future__ import annotations

import time

from observations.records import AttemptRecord, CallRecord
from policies.conduct import ConductBook
from policies.plan import Plan

from .beliefs import Beliefs
from .metrics import Metrics
from .wire.chat import FeedbackRequest


class Telemetry:
    """One for each process."""

    def __init__(self, metrics: Metrics, conduct: ConductBook, beliefs: Beliefs) -> None:
        self._metrics = metrics
        self._conduct = conduct
        self._beliefs = beliefs

    def decided(self, plan: Plan, source: str, decision_ms: float) -> None:
        """A plan was made; `source` is what found its cluster."""
        metrics = self._metrics
        metrics.observe("journeyman_decision_seconds", value=decision_ms / 1000.0)
        metrics.add("journeyman_classified_total", source)
        metrics.add("journeyman_decisions_total", plan.primary_model, "explored" if plan.explored else "best")
        metrics.add("journeyman_regret_quality_total", plan.cluster_id, amount=_regret(plan))
        for rejection in plan.rejections:
            if rejection.code != "not_asked_for":
                self._metrics.add("journeyman_rejections_total", rejection.candidate, rejection.code)

    def attempted(self, attempt: AttemptRecord, cluster: str, call_id: str) -> None:
        """An attempt ended."""
        metrics = self._metrics
        metrics.add("journeyman_attempts_total", attempt.candidate, attempt.outcome)
        metrics.observe("journeyman_attempt_seconds", attempt.candidate, value=attempt.latency_ms / 1000.0)
        metrics.add("journeyman_tokens_total", attempt.candidate, "prompt", amount=attempt.prompt_tokens)
        metrics.add("journeyman_tokens_total", attempt.candidate, "completion", amount=attempt.completion_tokens)
        now_ms = int(time.time() * 1000)
        self._conduct.observe(attempt.candidate, cluster, attempt.outcome, now_ms, attempt.completion_tokens)
        if attempt.outcome not in ("failed", "timed_out"):
            self._conduct.observe_speed(
                attempt.candidate, attempt.first_token_ms, attempt.latency_ms, attempt.completion_tokens, now_ms
            )
        self._beliefs.attempted(call_id, attempt)

    def judged(self, call: CallRecord, feedback: FeedbackRequest, *, teaches: bool = True) -> None:
        """Somebody said how good an answer was; `teaches` says whether somebody is believed."""
        self._metrics.add("journeyman_feedback_total", feedback.outcome or "none")
        if teaches:
            self._beliefs.judged(call, feedback)

    def refused(self, route: str, code: str) -> None:
        """A request was turned away before it became a call; it leaves no record."""
        self._metrics.add("journeyman_errors_total", route, code)

    def ended(self, call: CallRecord) -> None:
        """A call ended, one way or another."""
        self._beliefs.ended(call)
        metrics = self._metrics
        served_by = call.served_by or "none"
        metrics.add("journeyman_calls_total", call.route, call.cluster, served_by, call.outcome)
        metrics.observe("journeyman_call_seconds", call.route, served_by, value=call.latency_ms / 1000.0)
        if call.first_token_ms is not None:
            metrics.observe("journeyman_first_token_seconds", served_by, value=call.first_token_ms / 1000.0)
        metrics.add("journeyman_cost_usd_total", call.cluster, served_by, amount=call.cost_usd)
        if call.frontier_cost_usd:
            metrics.add("journeyman_frontier_cost_usd_total", call.cluster, amount=call.frontier_cost_usd)
        if call.escalated:
            metrics.add("journeyman_escalations_total", call.cluster)
        if call.error_code:
            metrics.add("journeyman_errors_total", call.route, call.error_code)


def _regret(plan: Plan) -> float:
    """Predicted quality given up: for cost, for the ceiling or to learn. A call for a named model gives up nothing."""
    heads = {one.candidate: one.quality for one in plan.estimates if one.chain}
    return max(0.0, max(heads.values(), default=0.0) - heads.get(plan.primary_model, 0.0)) if heads else 0.0
