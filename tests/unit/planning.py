"""Candidates and requests for tests of decisions."""

from msgspec import structs

from policies.plan import Candidate, PlanRequest, TaskFeatures, Terms
from registry.entries import Prices

FEATURES = TaskFeatures("f" * 64, 500, 100, expected_output_tokens=50)


def candidate(name, price=1.0, quality=0.9, **fields):
    """A healthy model that may answer everything; `price` is US dollars for a million prompt tokens."""
    made = Candidate(
        name=name,
        kind="model",
        backend="local",
        stage="active",
        safety_grade="B",
        context_len=8192,
        prices=Prices(input_usd_per_mtok=price, output_usd_per_mtok=4 * price),
        clusters=("*",),
        tools=True,
        response_formats=True,
        first_token_ms=200,
        tokens_per_s=50,
        quality=quality,
        p_believed=0.9,
    )
    return structs.replace(made, **fields)


def request(asked_for="auto", **terms):
    """A call of the standard tier."""
    base = Terms("standard", latency_budget_ms=20_000, max_cost_usd=0.1, safety_grade="C", quality_sla=0.8)
    return PlanRequest(FEATURES, "bank", structs.replace(base, **terms), asked_for=asked_for)
