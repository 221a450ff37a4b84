import math
from pathlib import Path

import pytest

import policies
from policies.plan import Hints
from policies.terms import PlannerPolicy, TierPolicy, terms_of
from registry.errors import ConfigError, InvalidRequestError
from registry.strict_yaml import load_strict

POLICY = PlannerPolicy(
    default_tier="plain",
    tiers={
        "plain": TierPolicy(
            latency_budget_ms=1000, max_cost_usd=0.1, quality_sla=0.8, latency_ceiling_ms=5000, cost_ceiling_usd=0.5
        ),
        "open": TierPolicy(latency_budget_ms=10, max_cost_usd=1, quality_sla=0.9, safety_level="high"),
    },
)


def test_the_shipped_file_says_what_is_built_in():
    path = Path(policies.__file__).parent / "planner.yaml"
    assert load_strict(path.read_text("utf-8"), PlannerPolicy, str(path)) == PlannerPolicy()


def test_without_hints_the_default_tier_holds():
    terms = terms_of(Hints(), POLICY)
    assert (terms.user_tier, terms.latency_budget_ms, terms.max_cost_usd) == ("plain", 1000, 0.1)
    assert (terms.safety_grade, terms.quality_sla) == ("C", 0.8)


def test_a_caller_may_tighten_and_loosens_only_to_the_ceiling():
    tight = terms_of(Hints(latency_budget_ms=50, max_cost_usd=0.0), POLICY)
    assert (tight.latency_budget_ms, tight.max_cost_usd) == (50, 0.0)
    loose = terms_of(Hints(latency_budget_ms=9e9, max_cost_usd=99), POLICY)
    assert (loose.latency_budget_ms, loose.max_cost_usd) == (5000, 0.5)
    free = terms_of(Hints(user_tier="open", latency_budget_ms=9e9), POLICY)
    assert free.latency_budget_ms == 9e9


@pytest.mark.parametrize(("asked", "grade"), [("low", "B"), ("D", "B"), ("standard", "B"), ("strict", "A"), ("a", "A")])
def test_safety_is_never_below_the_tiers(asked, grade):
    assert terms_of(Hints(user_tier="open", safety_level=asked), POLICY).safety_grade == grade


def test_the_keys_tier_holds_when_the_call_names_none():
    assert terms_of(Hints(), POLICY, "open").user_tier == "open"
    assert terms_of(Hints(user_tier="plain"), POLICY, "open").user_tier == "plain"
    with pytest.raises(ConfigError, match="`gold` is none"):
        terms_of(Hints(), POLICY, "gold")


@pytest.mark.parametrize(
    ("hints", "param", "said"),
    [
        (Hints(user_tier="gold"), "routing.user_tier", "`plain`, `open`"),
        (Hints(safety_level="max"), "routing.safety_level", "`low`, `standard`, `high`, `strict`, `A`"),
        (Hints(latency_budget_ms=0), "routing.latency_budget_ms", "above 0"),
        (Hints(latency_budget_ms=math.nan), "routing.latency_budget_ms", "finite"),
        (Hints(max_cost_usd=-1), "routing.max_cost_usd", "negative"),
        (Hints(max_cost_usd=math.inf), "routing.max_cost_usd", "finite"),
    ],
)
def test_a_wrong_hint_is_named_with_what_is_allowed(hints, param, said):
    with pytest.raises(InvalidRequestError) as caught:
        terms_of(hints, POLICY)
    assert caught.value.param == param
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "default_tier: gold",
        "tiers: {standard: {latency_budget_ms: 1, max_cost_usd: 1, quality_sla: 1, safety_level: x}}",
    ],
)
def test_a_policy_file_whose_words_do_not_fit_is_refused(text):
    with pytest.raises(ConfigError, match="none of"):
        load_strict(text, PlannerPolicy, "planner.yaml")
