"""What is stored: one event a line in the spool, one row in the store. Already redacted when it gets here.

Stored formats only grow: a field may be added with a default, never renamed or removed. Times are Unix
milliseconds, costs US dollars. Content fields are None where the tenant's content mode says so.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from registry.identifiers import UNKNOWN_CLUSTER

ContentMode = Literal["redacted", "hash", "none"]
AttemptOutcome = Literal["verified", "malformed", "unsure", "failed", "timed_out"]
CallOutcome = Literal["verified", "unverified", "failed", "cancelled"]
ShadowSource = Literal["live", "replay"]
"""A call that was mirrored when it was served, or a recorded one that was asked later."""
ClusterSource = Literal["signature", "pattern", "keyword", "learned", "none"]


class AttemptRecord(Struct, frozen=True, omit_defaults=True):
    """One call of one candidate, and what came of it."""

    candidate: str
    backend: str
    outcome: AttemptOutcome
    reason: str = ""
    """Why it was not believed, in words; empty when verified."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    usage_estimated: bool = False
    cost_usd: float = 0.0
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    confidence: float | None = None
    """Sum of the answer's token log-probabilities."""
    threshold: float | None = None
    """Least confidence that was believed at that time; None: not checked, or nothing was believed."""
    finish_reason: str = ""


class CandidateRecord(Struct, frozen=True, omit_defaults=True):
    """A candidate as the planner saw it; with a rejection when it could not be picked.

    What a rejection that another policy could lift was made of is kept as well, so that the decision can be made again.
    """

    name: str
    kind: str = "model"
    quality: float | None = None
    quality_sd: float = 0.0
    evidence: float = 0.0
    """Judged outcomes behind the quality; in records without `trials`, checked answers counted as well."""
    trials: float = 0.0
    """Answers that were checked, judged or not."""
    p_believed: float = 1.0
    quality_if_believed: float | None = None
    cost_usd: float | None = None
    max_cost_usd: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float | None = None
    first_token_ms: float | None = None
    tokens_per_s: float | None = None
    load_ms: float = 0.0
    """How long it would have waited for its adapter: part of the latencies."""
    formatting_error_rate: float = 0.0
    formatting_calls: int = 0
    propensity: float = 0.0
    """P(it goes first)."""
    value: float = 0.0
    """What the planner maximised over `chain`."""
    chain: tuple[str, ...] = ()
    """The chain that it would have headed."""
    chain_cost_usd: float = 0.0
    rejection: str = ""
    rejection_code: str = ""


class PlanRecord(Struct, frozen=True, omit_defaults=True):
    """The decision, complete enough to be explained and replayed."""

    id: str
    primary: str
    escalation_chain: tuple[str, ...] = ()
    justification: str = ""
    candidates: tuple[CandidateRecord, ...] = ()
    expected_cost_usd: tuple[float, float] = (0.0, 0.0)
    expected_latency_p95_ms: float = 0.0
    inputs: dict[str, Any] = field(default_factory=dict)
    """task_features, cluster_id, latency_budget_ms, max_cost_usd, safety_level, user_tier, and what those were made of:
    hints, key_tier, asked_for."""
    catalog_digest: str = ""
    policy_digest: str = ""
    lam: float = 0.0
    """The spend ceiling's shadow price, quality per US dollar."""
    explored: bool = False


class CallRecord(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="call"):
    """One call of a caller, from admission to answer."""

    id: str
    at_ms: int
    v: int = 1
    route: Literal["chat", "ask"] = "chat"
    tenant: str = "default"
    key_id: str = ""
    end_user: str = ""
    """A keyed hash of the caller's `user`; never the value."""
    streamed: bool = False
    requested_model: str = "auto"
    signature: str = ""
    prompt_hash: str = ""
    """A keyed hash of the messages, equal for equal prompts."""
    cluster: str = UNKNOWN_CLUSTER
    cluster_source: ClusterSource = "none"
    task_type: str = ""
    """The caller's hint, as given."""
    hint_agrees: bool | None = None
    content_mode: ContentMode = "redacted"
    messages: list[dict[str, Any]] | None = None
    """What varies: every message but the leading system prompt, which is in the SignatureRecord."""
    answer_text: str | None = None
    answer_tool_calls: list[dict[str, Any]] | None = None
    redactions: dict[str, int] = field(default_factory=dict)
    withheld: str = ""
    """Why the content is missing although the mode would keep it (redaction failed closed)."""
    metadata: dict[str, str] = field(default_factory=dict)
    plan: PlanRecord | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    served_by: str = ""
    frontier: str = ""
    outcome: CallOutcome = "failed"
    error_code: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    """All attempts together."""
    frontier_cost_usd: float = 0.0
    """What the frontier alone would have cost for the same call."""
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    decision_ms: float = 0.0
    """Signature, classification, constraints and plan."""
    escalated: bool = False
    cache_hit: bool = False
    erased_at_ms: int | None = None
    """When somebody had its content erased; the figures stay."""


class SignatureRecord(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="signature"):
    """The fixed part of calls, stored once for a tenant and not with every call."""

    id: str
    """`{tenant}:{signature}`: loading it twice changes nothing."""
    at_ms: int
    signature: str
    tenant: str = "default"
    v: int = 1
    content_mode: ContentMode = "redacted"
    system: str | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    tool_names: tuple[str, ...] = ()


class FeedbackRecord(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="feedback"):
    """What somebody learned later about a call; joins by `call_id`."""

    id: str
    call_id: str
    at_ms: int
    v: int = 1
    tenant: str = "default"
    outcome: Literal["success", "failure"] | None = None
    score: float | None = None
    """0 to 1."""
    comment: str | None = None
    correction: str | None = None
    """What the answer should have been."""
    source: str = "caller"


class CatalogRecord(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="catalog"):
    """What could answer from this moment on: one snapshot for each catalog digest."""

    id: str
    """The digest: the same catalog seen twice is stored once."""
    at_ms: int
    digest: str
    v: int = 1
    models: list[dict[str, Any]] = field(default_factory=list)
    """The registry's entries, models and specialists alike."""


class StageMoveRecord(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="stage_move"):
    """A specialist's move from one stage to another, with the evidence for it."""

    id: str
    at_ms: int
    specialist: str
    before: str
    after: str
    v: int = 1
    actor: str = ""
    reason: str = ""
    receipt: dict[str, Any] = field(default_factory=dict)
    """The signed ledger entry, or what identifies it."""


class ShadowRecord(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="shadow"):
    """What a specialist in shadow would have answered to a call, beside what was served. Nobody saw it."""

    id: str
    """`{call id}:{specialist}`: a call is mirrored to a specialist once, or replayed to it once in a trial."""
    at_ms: int
    """When the call was made; of a replay, when the specialist was asked."""
    call_id: str
    specialist: str
    v: int = 1
    tenant: str = "default"
    cluster: str = UNKNOWN_CLUSTER
    outcome: AttemptOutcome = "failed"
    reason: str = ""
    agrees: bool | None = None
    """Whether it says the same as what was served; None where only a reader could tell, or nothing was said."""
    confidence: float | None = None
    threshold: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    latency_ms: float | None = None
    """None where several were asked at once: such a time says nothing of one alone."""
    reference: str = ""
    """Who served the call."""
    reference_verified: bool = False
    reference_cost_usd: float = 0.0
    reference_latency_ms: float = 0.0
    content_mode: ContentMode = "redacted"
    answer_text: str | None = None
    answer_tool_calls: list[dict[str, Any]] | None = None
    source: ShadowSource = "live"
    right: bool | None = None
    """Whether the answer is right by a person's word that was known then; None: nobody had judged the call."""
    reference_right: bool | None = None
    """Likewise of the answer that was served."""


class ErasureRecord(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="erasure"):
    """A call whose content must go and may never come again, wherever its records still are."""

    id: str
    """The call's id: erasing it twice is one erasure."""
    at_ms: int
    call_id: str
    v: int = 1
    tenant: str = ""
    """Empty for a call that was not on record yet."""


Event = CallRecord | SignatureRecord | FeedbackRecord | CatalogRecord | StageMoveRecord | ShadowRecord | ErasureRecord
