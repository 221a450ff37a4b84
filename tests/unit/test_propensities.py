"""The propensities that a plan tells are the frequencies with which it is made, and exploring breaks no limit."""

import math
import random
from collections import Counter

import pytest
from msgspec import structs

from policies.learning import LearningPolicy
from policies.planner import plan
from policies.selection import chance_for
from policies.terms import PlannerPolicy
from registry.errors import NoCandidateError
from router_service.candidate_view import of_plan
from tests.unit.planning import candidate, request

FIELD = [
    candidate("frontier", 5.0, 0.95, is_frontier=True, quality_sd=0.02),
    candidate("m1", 0.5, 0.85, quality_sd=0.1),
    candidate("m2", 0.1, 0.75, quality_sd=0.15),
    candidate("s1", 0.05, 0.3, kind="specialist", quality_sd=0.05),
    candidate("s2", 0.05, 0.9, kind="specialist", evidence=3, quality_sd=0.05, p_believed=0.6),
    candidate("s3", 0.05, 0.1, kind="specialist", evidence=500, quality_sd=0.01),
]


def policy(share, **fields):
    return PlannerPolicy(learning=LearningPolicy(exploration_share=share), **fields)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("lam", [0.0, 50.0, 1e12])
def test_propensities_are_frequencies(share, lam):
    """With two specialists unproven, with and without a ceiling that binds; 5 deviations of the count at the most."""
    calls, drawn, told, explored = 1500, Counter(), Counter(), 0
    variance = Counter()
    for number in range(calls):
        known = policy(share)
        made = plan(request(), FIELD, known, chance_for(f"{share} {lam} {number}", known.learning, lam))
        drawn[made.primary_model] += 1
        explored += made.explored
        chances = {one.candidate: one.propensity for one in made.estimates}
        assert all(0.0 <= chance <= 1.0 for chance in chances.values())
        assert sum(chances.values()) == pytest.approx(1.0, abs=1e-12)
        assert chances[made.primary_model] > 0.0
        assert min(1.0 - chance for chance in chances.values()) <= share + 1e-12
        told.update(chances)
        variance.update({name: chance * (1.0 - chance) for name, chance in chances.items()})
    for name, expected in told.items():
        assert abs(drawn[name] - expected) <= 5.0 * math.sqrt(variance[name]) + 3.0, name
    assert explored <= share * calls + 5.0 * math.sqrt(calls * share * (1.0 - share))


def test_with_all_calls_exploring_no_propensity_is_negative():
    """Parts of 1 add up to a little more than 1 in floating point."""
    known = policy(1.0)
    some = [candidate(f"s{n}", 0.1, 0.1 * n, kind="specialist", quality_sd=0.3) for n in range(1, 8)]
    for number in range(500):
        made = plan(request(), [FIELD[0], *some], known, chance_for(str(number), known.learning, 0.0))
        assert all(one.propensity >= 0.0 for one in made.estimates)


def field_of(rng):
    """A few candidates, each as odd as it may be."""
    some = [
        candidate(
            f"c{n}",
            price=rng.choice([0.0, 1e-6, 1.0, 10.0]),
            quality=rng.choice([0.0, 0.5, 0.7999, 0.8, 1.0, rng.random()]),
            quality_sd=rng.choice([0.0, 0.01, 0.5]),
            evidence=rng.choice([0.0, 0.4, 1e3]),
            p_believed=rng.choice([0.0, 0.5, 1.0]),
            kind=rng.choice(["model", "specialist"]),
            safety_grade=rng.choice("AABCD"),
            tokens_per_s=rng.choice([1.0, 50.0]),
            healthy=rng.random() > 0.1,
        )
        for n in range(rng.choice([0, 1, 2, 6, 6, 6]))
    ]
    frontier = [structs.replace(some[0], is_frontier=True, kind="model")] if some and rng.random() < 0.8 else some[:1]
    return frontier + some[1:]


def plans_of(rng, count):
    """Plans of odd fields under odd policies, with what they were made for."""
    for number in range(count):
        known = policy(
            rng.choice([0.0, 0.05, 1.0]),
            max_escalations=rng.choice([0, 1, 3]),
            wait_usd_per_s=rng.choice([0.0, 1e-9, 1e-3]),
        )
        asked = request(
            asked_for=rng.choice(["auto", "auto", "c0"]),
            quality_sla=rng.choice([0.0, 0.8, 1.0]),
            max_cost_usd=rng.choice([0.0, 1e-3, 0.02, 0.1]),
            latency_budget_ms=rng.choice([500.0, 20_000.0, 300_000.0]),
        )
        field = field_of(rng)
        lam = rng.choice([0.0, 1e-12, 3.0, 1e12])
        try:
            yield (
                asked,
                {one.name: one for one in field},
                plan(asked, field, known, chance_for(str(number), known.learning, lam)),
            )
        except NoCandidateError:
            continue


def test_exploring_breaks_no_limit():
    explored = 0
    for asked, field, made in plans_of(random.Random(5), 4000):
        explored += made.explored
        terms = asked.terms
        estimates = {one.candidate: one for one in made.estimates}
        assert sum(estimates[name].max_cost_usd for name in made.chain) <= terms.max_cost_usd + 1e-12
        for name in made.chain:
            assert field[name].healthy and field[name].safety_grade <= terms.safety_grade
            assert field[name].kind == "model" or field[name].p_believed > 0.0
        if asked.asked_for == "auto":
            assert made.expected_latency_p95_ms <= terms.latency_budget_ms + 1e-9
    assert explored > 50


def test_whatever_the_field_figures_are_numbers_and_words_are_sense():
    odd = ("inf", "nan", "-0.0", "e-", "e+", "$-", "None", "0.000000000000")
    for _, _, made in plans_of(random.Random(6), 4000):
        for one in made.estimates:
            figures = (one.propensity, one.value, one.chain_cost_usd, one.cost_usd, one.quality)
            assert all(math.isfinite(figure) for figure in figures)
        shown = of_plan(made)
        said = [made.justification, *(one.get("verdict") or one["rejection"]["reason"] for one in shown)]
        for words in said:
            assert not any(word in words.split() or f"${word}" in words for word in odd), words
            assert "0.80, and 0.80" not in words and "0.80 ± 0.50, and 0.80" not in words


def test_costs_that_are_told_are_money_and_not_time():
    """A free model that is slow costs nothing, whatever a second is worth."""
    known = policy(0.0, wait_usd_per_s=0.001)
    made = plan(request(), [candidate("free", 0.0, is_frontier=True)], known)
    assert made.estimates[0].chain_cost_usd == 0.0 and made.estimates[0].value < 0.8


def test_without_the_frontier_the_last_is_one_whose_answer_will_be_given():
    """A specialist that is mostly not believed would leave the caller without an answer."""
    sure = candidate("sure", 1.0, 0.9, p_believed=0.95)
    shy = candidate("shy", 0.1, 0.95, kind="specialist", p_believed=0.3, evidence=1e3)
    assert plan(request(), [shy, sure], policy(0.0)).chain == ("shy", "sure")


@pytest.mark.parametrize(("evidence", "trials", "explored"), [(0, 0, True), (150, 0, False), (0, 150, False)])
def test_tried_or_judged_often_enough_a_specialist_need_not_be_explored_for_ever(evidence, trials, explored):
    known = policy(0.2)
    poor = candidate("poor", 0.05, 0.1, kind="specialist", evidence=evidence, trials=trials, quality_sd=0.01)
    made = plan(request(), [FIELD[0], poor], known, chance_for("x", known.learning, 0.0))
    chances = {one.candidate: one.propensity for one in made.estimates}
    assert (chances.get("poor", 0.0) > 0.0) == explored


def test_only_judged_outcomes_are_called_outcomes():
    known = policy(0.0)
    tried = candidate("tried", 0.05, 0.9, kind="specialist", evidence=12, trials=150, quality_sd=0.01)
    shown = {one["name"]: one for one in of_plan(plan(request(), [FIELD[0], tried], known, None))}
    assert "(12 outcomes)" in shown["tried"]["verdict"]
    assert (shown["tried"]["evidence"], shown["tried"]["trials"]) == (12, 150)
