import re
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from policies.chains import (
    ChainLimits,
    Link,
    affordable,
    chain_p95_ms,
    chain_quality,
    cheapest_chain,
    expected_cost,
)
from policies.learning import LearningPolicy
from policies.plan import PlanRequest, TaskFeatures, Terms
from policies.planner import plan
from policies.selection import Chance
from policies.terms import PlannerPolicy
from registry.entries import Prices
from registry.errors import NoCandidateError
from tests.unit.planning import candidate

POLICY = PlannerPolicy()
TERMS = Terms("standard", latency_budget_ms=20_000, max_cost_usd=0.1, safety_grade="C", quality_sla=0.8)
REQUEST = PlanRequest(TaskFeatures("f" * 64, 500, 100, expected_output_tokens=50), "bank", TERMS)


FRONTIER = candidate("frontier", 10.0, quality=0.97, p_believed=1.0, is_frontier=True)
SMALL = candidate("small", 0.1, p_believed=0.88)


def test_the_cheap_one_goes_first_and_the_frontier_last():
    made = plan(REQUEST, [FRONTIER, SMALL], POLICY)
    assert made.chain == ("small", "frontier")
    small, frontier = made.estimates[1], made.estimates[0]
    assert made.expected_cost_usd == pytest.approx(small.cost_usd + 0.12 * frontier.cost_usd)
    assert made.expected_cost_range == pytest.approx((small.cost_usd, small.max_cost_usd + frontier.max_cost_usd))
    assert (small.propensity, frontier.propensity) == (1.0, 0.0)
    assert made.expected_latency_p95_ms == pytest.approx(2 * (200 + 1000) * 2)


def test_the_justification_has_the_numbers():
    said = plan(REQUEST, [FRONTIER, SMALL, candidate("slow", 0.1, tokens_per_s=1)], POLICY).justification
    assert re.search(r"small: expected \$0\.\d+ a call .* against \$0\.\d+ for frontier alone", said)
    assert "escalates to frontier if its answer is not believed (expected in 12% of calls)" in said
    assert "1 for latency" in said


def test_one_that_is_rarely_believed_is_not_worth_its_cost():
    rare = candidate("rare", 2.0, p_believed=0.1)
    made = plan(REQUEST, [rare, FRONTIER], POLICY)
    assert made.chain == ("frontier",)
    assert "no one else before it would make the call cheaper" in made.justification


def test_one_below_the_sla_is_left_out_with_its_quality():
    made = plan(REQUEST, [FRONTIER, structs.replace(SMALL, quality=0.5)], POLICY)
    assert made.chain == ("frontier",)
    assert [(r.candidate, r.code) for r in made.rejections] == [("small", "quality")]
    assert "0.50, and 0.80" in made.rejections[0].reason


def test_what_its_checks_let_through_counts_as_quality():
    checked = structs.replace(SMALL, quality=0.7, p_believed=0.4, quality_if_believed=0.98)
    assert plan(REQUEST, [FRONTIER, checked], POLICY).chain == ("small", "frontier")


def test_when_nobody_meets_the_sla_the_best_goes_first_and_it_says_so():
    weak = [structs.replace(FRONTIER, quality=0.6), structs.replace(SMALL, quality=0.7)]
    made = plan(REQUEST, weak, POLICY)
    assert made.chain == ("small", "frontier")
    assert "no chain meets the quality of 0.80" in made.justification
    unmeasured = [structs.replace(SMALL, quality=0.5), structs.replace(FRONTIER, quality=0.5)]
    assert plan(REQUEST, unmeasured, POLICY).chain == ("small", "frontier")  # equally good, and cheaper


def test_without_a_frontier_the_best_is_the_last_resort():
    made = plan(REQUEST, [SMALL, candidate("middle", 1.0, quality=0.95)], POLICY)
    assert made.chain == ("small", "middle")


def test_a_tight_purse_shortens_the_chain():
    alone = plan(REQUEST, [FRONTIER], POLICY).estimates[0].max_cost_usd
    tight = structs.replace(REQUEST, terms=structs.replace(TERMS, max_cost_usd=alone))
    assert plan(tight, [FRONTIER, SMALL], POLICY).chain == ("frontier",)


def test_a_tight_deadline_leaves_no_time_for_a_likely_escalation():
    hurried = structs.replace(REQUEST, terms=structs.replace(TERMS, latency_budget_ms=2_500))
    assert plan(hurried, [FRONTIER, SMALL], POLICY).chain == ("frontier",)
    sure = structs.replace(SMALL, p_believed=0.96)
    assert plan(hurried, [FRONTIER, sure], POLICY).chain == ("small", "frontier")


def test_equal_costs_are_settled_by_speed():
    free = [candidate("slow", 0.0, tokens_per_s=20), candidate("quick", 0.0, p_believed=1.0, tokens_per_s=100)]
    made = plan(REQUEST, [*free, structs.replace(FRONTIER, prices=Prices())], POLICY)
    assert made.primary_model == "quick"


def test_a_named_model_comes_alone():
    made = plan(structs.replace(REQUEST, asked_for="small"), [FRONTIER, SMALL], POLICY)
    assert made.chain == ("small",)
    assert [(r.candidate, r.code) for r in made.rejections] == [("frontier", "not_asked_for")]
    assert "asked for by name" in made.justification


def test_a_named_model_is_served_below_the_sla_but_not_when_down():
    asked = structs.replace(REQUEST, asked_for="small")
    assert plan(asked, [structs.replace(SMALL, quality=0.1)], POLICY).chain == ("small",)
    with pytest.raises(NoCandidateError, match=r"small may not answer.*its breaker is open \(health\)"):
        plan(asked, [FRONTIER, structs.replace(SMALL, healthy=False, health_reason="its breaker is open")], POLICY)


def test_when_nobody_may_answer_every_reason_is_given():
    with pytest.raises(NoCandidateError) as caught:
        plan(REQUEST, [structs.replace(FRONTIER, healthy=False), structs.replace(SMALL, safety_grade="D")], POLICY)
    assert "(health)" in str(caught.value) and "(safety)" in str(caught.value)
    with pytest.raises(NoCandidateError, match="There are none"):
        plan(REQUEST, [], POLICY)


def test_the_depth_of_the_chain_is_the_policys():
    many = [candidate(f"c{n}", 0.01 * (n + 1), p_believed=0.3, tokens_per_s=500, first_token_ms=1) for n in range(8)]
    for depth in (0, 1, 3):
        made = plan(REQUEST, [*many, FRONTIER], PlannerPolicy(max_escalations=depth))
        assert len(made.escalation_chain) == depth
        assert made.chain[-1] == "frontier"


LINKS = st.builds(
    Link,
    name=st.uuids().map(str),
    cost=st.floats(1e-6, 1),
    max_cost_usd=st.floats(0.01, 2),
    latency_p95_ms=st.floats(1, 1000),
    p_believed=st.floats(0, 1),
    quality=st.floats(0.5, 1),
)
LIMITS = st.builds(
    ChainLimits,
    max_cost_usd=st.floats(0.5, 10),
    latency_budget_ms=st.floats(200, 4000),
    quality_sla=st.floats(0.4, 0.95),
    max_escalations=st.integers(0, 3),
)


def by_cost_for_a_belief(link):
    return link.cost / link.p_believed


@settings(max_examples=150, deadline=None)
@given(st.lists(LINKS, max_size=6), LINKS)
def test_no_order_of_any_set_is_cheaper_than_the_chain_found(links, last):
    every = [(*order, last) for size in range(4) for order in permutations(links, size)]
    found = cheapest_chain(links, last, ChainLimits(1e9, 1e9, 0.0, 3))
    assert expected_cost(found) == pytest.approx(min(map(expected_cost, every)))


@settings(max_examples=150, deadline=None)
@given(st.lists(LINKS.filter(lambda link: link.p_believed > 0), max_size=6), LINKS, LIMITS)
def test_within_limits_the_cheapest_set_that_holds_them_is_found(links, last, limits):
    ordered = sorted(links, key=by_cost_for_a_belief)
    assume(len(set(map(by_cost_for_a_belief, links))) == len(links))  # else two orders are equally right
    every = [(*chosen, last) for size in range(limits.max_escalations + 1) for chosen in combinations(ordered, size)]
    holding = [c for c in every if chain_quality(c) >= limits.quality_sla and affordable(c, limits)]
    found = cheapest_chain(links, last, limits)
    if not holding:
        assert found is None
    else:
        assert found in holding
        assert expected_cost(found) == pytest.approx(min(map(expected_cost, holding)))


def test_the_p95_counts_only_steps_that_a_noticeable_share_reaches():
    first, second, third = (Link(n, 1, 1, 100.0, p, 1) for n, p in (("a", 0.8), ("b", 0.8), ("c", 1.0)))
    assert chain_p95_ms((first, second, third), unlikely=0.05) == 200.0
    assert chain_p95_ms((first, second, third), unlikely=0.01) == 300.0


def test_a_ceiling_that_does_not_afford_the_sla_says_so():
    poor = structs.replace(SMALL, quality=0.6)
    sure = structs.replace(POLICY, learning=LearningPolicy(exploration_share=0.0))
    made = plan(REQUEST, [FRONTIER, poor], sure, Chance(np.random.default_rng(0), lam=1e9))
    assert made.primary_model == "small"
    assert "the spend ceiling does not afford the 0.80" in made.justification
    assert "no chain meets" in plan(REQUEST, [structs.replace(FRONTIER, quality=0.5), poor], sure).justification
