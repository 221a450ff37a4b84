"""How the candidates of a decision are shown: figures and the reason why each won or lost. Never content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from observations.records import CandidateRecord, PlanRecord
from policies.explain import Weighing, verdict
from policies.plan import Estimate, Plan, Rejection


def of_plan(plan: Plan) -> list[dict[str, Any]]:
    """The candidates of a plan that was just made."""
    by_name = {one.candidate: one for one in plan.estimates}
    named = _was_named(plan.rejections)
    weighed = Weighing(by_name, plan.chain, plan.terms.quality_sla, plan.lam, plan.explored, named)
    return _shown(weighed, plan.rejections)


def of_record(plan: PlanRecord) -> list[dict[str, Any]]:
    """The candidates of a plan that was stored."""
    by_name = {one.name: _estimate(one) for one in plan.candidates if not one.rejection}
    quality_sla = float(plan.inputs.get("quality_sla", 0.0))
    chain = (plan.primary, *plan.escalation_chain)
    rejected = [Rejection(c.name, c.rejection_code, c.rejection) for c in plan.candidates if c.rejection]  # type: ignore[arg-type]
    named = _was_named(rejected)
    return _shown(Weighing(by_name, chain, quality_sla, plan.lam, plan.explored, named), rejected)


def _was_named(rejections: Sequence[Rejection]) -> bool:
    return any(rejection.code == "not_asked_for" for rejection in rejections)


def _shown(weighed: Weighing, rejections: Sequence[Rejection]) -> list[dict[str, Any]]:
    considered = [_considered(one, verdict(name, weighed)) for name, one in weighed.estimates.items()]
    return considered + [{"name": r.candidate, "rejection": {"code": r.code, "reason": r.reason}} for r in rejections]


def _considered(one: Estimate, why: str) -> dict[str, Any]:
    return {
        "name": one.candidate,
        "expected_quality": one.quality,
        "quality_sd": one.quality_sd,
        "evidence": one.evidence,
        "trials": one.trials,
        "p_believed": one.p_believed,
        "expected_cost_usd": one.cost_usd,
        "expected_latency_p95_ms": one.latency_p95_ms,
        "load_ms": one.load_ms,
        "propensity": one.propensity,
        "chain": list(one.chain),
        "chain_cost_usd": one.chain_cost_usd,
        "value": one.value,
        "verdict": why,
    }


def _estimate(one: CandidateRecord) -> Estimate:
    return Estimate(
        candidate=one.name,
        quality=one.quality or 0.0,
        p_believed=one.p_believed,
        cost_usd=one.cost_usd or 0.0,
        max_cost_usd=one.max_cost_usd,
        latency_p50_ms=one.latency_p50_ms,
        latency_p95_ms=one.latency_p95_ms or 0.0,
        propensity=one.propensity,
        quality_sd=one.quality_sd,
        evidence=one.evidence,
        trials=one.trials,
        chain=one.chain,
        chain_cost_usd=one.chain_cost_usd,
        value=one.value,
        load_ms=one.load_ms,
    )
