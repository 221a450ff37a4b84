"""What a planner is told and what it answers: its contract, as values.

Inputs: task features, cluster, latency budget, cost limit, safety level, user tier.
Outputs: primary model, escalation chain, justification, expected cost range, expected latency p95.
Knows nothing of HTTP, of the registry file, or of how the plan is carried out.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from registry.catalog import AUTO
from registry.entries import Prices, SafetyGrade
from registry.stages import Stage

RejectionCode = Literal[
    "cost",
    "latency",
    "safety",
    "context",
    "tools",
    "response_format",
    "stage",
    "health",
    "formatting",
    "confidence",
    "cluster",
    "quality",
    "template",
    "share",
    "not_asked_for",
]


class Hints(Struct, frozen=True):
    """What the caller wished for, as given in `routing` or the headers. None: nothing was said."""

    task_type: str | None = None
    latency_budget_ms: float | None = None
    max_cost_usd: float | None = None
    safety_level: str | None = None
    user_tier: str | None = None


class TaskFeatures(Struct, frozen=True):
    """What a planner may know of the call itself."""

    signature: str
    prompt_tokens: int
    """Estimated when the tokenizer is not at hand (about four characters a token)."""
    max_tokens: int
    """The call's own limit or the registry's default: the upper bound of what may be generated."""
    variable_tokens: int = 0
    """Tokens of what varies: all that a specialist's template sends."""
    needs_tools: bool = False
    needs_json: bool = False
    turns: int = 1
    expected_output_tokens: int = 64


class Terms(Struct, frozen=True):
    """The hard limits in force for this call: hints, tier and policy file together."""

    user_tier: str
    latency_budget_ms: float
    max_cost_usd: float
    safety_grade: SafetyGrade
    quality_sla: float


class Candidate(Struct, frozen=True):
    """A model or specialist that could answer, with what is known of it now."""

    name: str
    kind: Literal["model", "specialist"]
    backend: str
    stage: Stage
    safety_grade: SafetyGrade
    context_len: int
    prices: Prices
    clusters: tuple[str, ...]
    tools: bool
    response_formats: bool
    first_token_ms: float
    tokens_per_s: float
    quality: float
    """Predicted P(right) for this call's cluster, 0 to 1."""
    p_believed: float = 1.0
    """Predicted P(its answer passes verification)."""
    quality_if_believed: float | None = None
    """Predicted P(right | its answer passed): what a caller gets. None: taken as `quality`, which is cautious."""
    quality_sd: float = 0.0
    """Standard deviation of that belief: what exploration is guided by."""
    evidence: float = 0.0
    """Judged outcomes behind the belief, faded ones counting less."""
    trials: float = 0.0
    """Answers of it that were checked in this cluster, judged or not, old ones counting less."""
    expected_cost_usd: float | None = None
    """Learned from its own bills; None: prices times expected tokens."""
    template_signature: str | None = None
    """The signature its template needs; None when it takes calls as they come."""
    uses_template: bool = False
    share: float = 1.0
    """While it is a canary: the share of calls that it may answer."""
    load_ms: float = 0.0
    """How long a call would wait for its adapter; 0 when that is loaded."""
    is_frontier: bool = False
    healthy: bool = True
    health_reason: str = ""
    formatting_error_rate: float = 0.0
    """Share of malformed answers in the last hour."""
    formatting_calls: int = 0


class Rejection(Struct, frozen=True, gc=False):
    """Why a candidate was not picked: a code for machines, a sentence with the numbers for people."""

    candidate: str
    code: RejectionCode
    reason: str


class Estimate(Struct, frozen=True, gc=False):
    """What picking a candidate is expected to bring, by itself."""

    candidate: str
    quality: float
    p_believed: float
    cost_usd: float
    max_cost_usd: float
    """When it uses up its `max_tokens`."""
    latency_p50_ms: float
    latency_p95_ms: float
    propensity: float = 0.0
    """P(it goes first): 1 or 0 unless something is being explored."""
    quality_sd: float = 0.0
    evidence: float = 0.0
    """Judged outcomes behind the quality."""
    chain: tuple[str, ...] = ()
    """The chain that it would head; empty when it heads none within the limits."""
    chain_cost_usd: float = 0.0
    """What that chain costs on average."""
    value: float = 0.0
    """What the planner maximises: the chain's quality as far as the SLA asks for it, less lam times its cost."""
    trials: float = 0.0
    """Answers that were checked in this cluster, judged or not."""
    load_ms: float = 0.0
    """The part of the latency in which its adapter is loaded."""


class PlanRequest(Struct, frozen=True):
    """What the planner is asked."""

    features: TaskFeatures
    cluster_id: str
    terms: Terms
    cluster_matched: bool = True
    """False when the classifier answered `unknown`."""
    asked_for: str = AUTO
    """`auto`, or the resolved name of a model or specialist."""
    call_id: str = ""
    """Decides which calls a canary may answer; empty: it may answer this one."""


class Plan(Struct, frozen=True):
    """The decision."""

    primary_model: str
    escalation_chain: tuple[str, ...]
    justification: str
    expected_cost_range: tuple[float, float]
    """US dollars: if the primary is believed, and if the whole chain is used to its limit."""
    expected_cost_usd: float
    """The chain's expectation: primary + P(escalate) x the rest."""
    expected_latency_p95_ms: float
    estimates: tuple[Estimate, ...]
    rejections: tuple[Rejection, ...]
    terms: Terms
    cluster_id: str
    features: TaskFeatures
    lam: float = 0.0
    """The spend ceiling's shadow price, quality per US dollar; 0 when no ceiling binds."""
    explored: bool = False
    """True when the primary is not the one of the best value: it was drawn in order to learn about it."""

    @property
    def chain(self) -> tuple[str, ...]:
        """Primary first, then the escalations."""
        return (self.primary_model, *self.escalation_chain)
