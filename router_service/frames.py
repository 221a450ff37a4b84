"""What the gateway streams while it works on a call. Routes turn frames into OpenAI chunks or `/v1/ask` events.

Order: one PlanFrame, then AttemptFrames and TokenFrames, then one AnswerFrame once the call is recorded.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, structs

from policies.plan import Plan
from specialists.calls import Completion, Delta

from .candidate_view import of_plan
from .wire.answers import delta_fields


class PlanFrame(Struct, frozen=True):
    """The decision, before anything is asked."""

    id: str
    plan: Plan


class AttemptFrame(Struct, frozen=True):
    """An attempt begins or has ended; `reason` says why it is made, or why its answer was not believed."""

    index: int
    candidate: str
    state: Literal["started", "finished"]
    outcome: str = ""
    reason: str = ""
    cost_usd: float = 0.0
    latency_ms: float = 0.0


class TokenFrame(Struct, frozen=True):
    """A piece of the answer that the caller may see."""

    delta: Delta
    served_by: str


class AnswerFrame(Struct, frozen=True):
    """The whole answer with its figures. The call's record is written when this comes."""

    completion: Completion
    served_by: str
    verified: bool
    escalated: bool
    cost_usd: float
    saved_usd: float
    latency_ms: float
    first_token_ms: float | None
    attempts: int
    outcome: str


Frame = PlanFrame | AttemptFrame | TokenFrame | AnswerFrame


def plan_event(frame: PlanFrame) -> dict[str, Any]:
    """The `plan` event: candidates with figures or the reason of rejection, and what was decided."""
    plan = frame.plan
    return {
        "type": "plan",
        "id": frame.id,
        "cluster_id": plan.cluster_id,
        "candidates": of_plan(plan),
        "primary": plan.primary_model,
        "escalation_chain": list(plan.escalation_chain),
        "justification": plan.justification,
        "explored": plan.explored,
        "lam_quality_per_usd": plan.lam,
        "expected_cost_range": list(plan.expected_cost_range),
        "expected_latency_p95_ms": plan.expected_latency_p95_ms,
        "terms": structs.asdict(plan.terms),
    }


def attempt_event(frame: AttemptFrame) -> dict[str, Any]:
    """The `attempt` event."""
    event: dict[str, Any] = {
        "type": "attempt",
        "index": frame.index,
        "candidate": frame.candidate,
        "state": frame.state,
    }
    if frame.reason:
        event["reason"] = frame.reason
    if frame.state == "finished":
        event |= {"outcome": frame.outcome, "cost_usd": frame.cost_usd, "latency_ms": round(frame.latency_ms, 3)}
    return event


def token_event(frame: TokenFrame) -> dict[str, Any]:
    """The `token` event: text, or pieces of tool calls."""
    fields = delta_fields(frame.delta)
    event: dict[str, Any] = {"type": "token", "text": fields.get("content", "")}
    for name in ("tool_calls", "refusal"):
        if name in fields:
            event[name] = fields[name]
    return event


def metrics_event(frame: AnswerFrame) -> dict[str, Any]:
    """The `metrics` event."""
    usage = frame.completion.usage
    return {
        "type": "metrics",
        "model": frame.served_by,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "tokens": usage.prompt_tokens + usage.completion_tokens,
        "cost_usd": frame.cost_usd,
        "saved_usd": frame.saved_usd,
        "latency_ms": round(frame.latency_ms, 3),
        "first_token_ms": frame.first_token_ms,
        "attempts": frame.attempts,
        "escalated": frame.escalated,
        "verified": frame.verified,
    }


def done_event(frame: AnswerFrame) -> dict[str, Any]:
    """The last event of a call that was answered."""
    return {"type": "done", "finish_reason": frame.completion.finish_reason, "outcome": frame.outcome}
