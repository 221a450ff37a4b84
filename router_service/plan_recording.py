"""Turns a decision into its record. Holds figures and the registry's own words, never a caller's content."""

from __future__ import annotations

from typing import Any

import msgspec

from observations.records import CandidateRecord, PlanRecord
from policies.constraints import POLICY_DEPENDENT
from policies.plan import Candidate, Estimate, Rejection

from .decision import Decision
from .job import Job


def plan_record(job: Job, decision: Decision, catalog_digest: str, policy_digest: str) -> PlanRecord:
    """The decision as it is stored: enough to explain it, and to make it again under another policy."""
    plan = decision.plan
    seen = {candidate.name: candidate for candidate in decision.candidates}
    considered = tuple(_considered(seen[e.candidate], e) for e in plan.estimates)
    rejected = tuple(_rejected(seen.get(r.candidate), r) for r in plan.rejections)
    return PlanRecord(
        id=job.plan_id,
        primary=plan.primary_model,
        escalation_chain=plan.escalation_chain,
        justification=plan.justification,
        candidates=considered + rejected,
        expected_cost_usd=plan.expected_cost_range,
        expected_latency_p95_ms=plan.expected_latency_p95_ms,
        inputs=plan_inputs(job, decision),
        catalog_digest=catalog_digest,
        policy_digest=policy_digest,
        lam=plan.lam,
        explored=plan.explored,
    )


def _considered(candidate: Candidate, expected: Estimate) -> CandidateRecord:
    return CandidateRecord(
        **_believed_of(candidate),
        cost_usd=expected.cost_usd,
        max_cost_usd=expected.max_cost_usd,
        latency_p50_ms=expected.latency_p50_ms,
        latency_p95_ms=expected.latency_p95_ms,
        propensity=expected.propensity,
        value=expected.value,
        chain=expected.chain,
        chain_cost_usd=expected.chain_cost_usd,
    )


def _rejected(candidate: Candidate | None, rejection: Rejection) -> CandidateRecord:
    """With figures only where another policy might have let it answer."""
    said: dict[str, Any] = {"rejection": rejection.reason, "rejection_code": rejection.code}
    if candidate is None or rejection.code not in POLICY_DEPENDENT:
        return CandidateRecord(name=rejection.candidate, **said)
    return CandidateRecord(**_believed_of(candidate), cost_usd=candidate.expected_cost_usd, **said)


def _believed_of(candidate: Candidate) -> dict[str, Any]:
    """What was known of a candidate at the time."""
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "quality": candidate.quality,
        "quality_sd": candidate.quality_sd,
        "evidence": candidate.evidence,
        "trials": candidate.trials,
        "p_believed": candidate.p_believed,
        "quality_if_believed": candidate.quality_if_believed,
        "first_token_ms": candidate.first_token_ms,
        "tokens_per_s": candidate.tokens_per_s,
        "load_ms": candidate.load_ms,
        "formatting_error_rate": candidate.formatting_error_rate,
        "formatting_calls": candidate.formatting_calls,
    }


def plan_inputs(job: Job, decision: Decision) -> dict[str, Any]:
    """The six inputs of the planner's contract, and what the terms were made of. The hints' words were validated."""
    plan, hints = decision.plan, job.hints
    said = {
        "latency_budget_ms": hints.latency_budget_ms,
        "max_cost_usd": hints.max_cost_usd,
        "safety_level": hints.safety_level,
        "user_tier": hints.user_tier,
    }
    return {
        "task_features": msgspec.to_builtins(plan.features),
        "cluster_id": plan.cluster_id,
        "latency_budget_ms": plan.terms.latency_budget_ms,
        "max_cost_usd": plan.terms.max_cost_usd,
        "safety_level": plan.terms.safety_grade,
        "user_tier": plan.terms.user_tier,
        "quality_sla": plan.terms.quality_sla,
        "hints": {name: value for name, value in said.items() if value is not None},
        "key_tier": decision.key_tier,
        "asked_for": job.model,
    }
