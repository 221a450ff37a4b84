"""Which chain is taken, how likely each was, and that the likelihoods told are true."""

from collections import Counter

import numpy as np
import pytest

from policies.chains import Link
from policies.learning import LearningPolicy
from policies.selection import DRAWS, Chance, alternative, chance_for, select


def link(name, quality, cost, sd=0.0, p_believed=1.0):
    return Link(name, cost, cost, 100.0, p_believed, quality, sd)


def alone(*links, sla=0.8, lam=0.0, unproven=()):
    return [alternative((one,), sla, lam, unproven=one.name in unproven) for one in links]


def chance(seed=0, lam=0.0):
    return Chance(np.random.default_rng(seed), lam)


def test_without_a_ceiling_it_is_the_least_cost_that_meets_the_sla():
    some = alone(link("big", 0.99, 0.01), link("small", 0.81, 0.001), link("poor", 0.79, 0.0001))
    assert select(some, 0.8, 0.0, chance()).index == 1


def test_without_a_ceiling_and_below_the_sla_it_is_the_best_quality():
    some = alone(link("big", 0.75, 0.01), link("small", 0.74, 0.0))
    assert select(some, 0.8, 0.0, chance()).index == 0


def test_a_binding_ceiling_buys_quality_only_where_a_dollar_brings_enough_of_it():
    def chosen(lam):
        some = alone(link("cheap", 0.6, 0.0001), link("dear", 0.9, 0.0101), sla=1.0, lam=lam)
        return select(some, 1.0, 0.0, chance(lam=lam)).index

    assert chosen(29.0) == 1  # 0.3 more quality for a cent: 30 a dollar
    assert chosen(31.0) == 0


def test_a_chain_is_worth_what_each_step_answers():
    first, last = link("small", 0.9, 1.0, p_believed=0.75), link("big", 0.6, 4.0)
    made = alternative((first, last), 0.8, lam=0.1)
    assert made.cost == pytest.approx(1.0 + 0.25 * 4.0)
    assert made.value == pytest.approx(0.75 * 0.8 + 0.25 * 0.6 - 0.1 * 2.0)


def test_nothing_is_explored_when_nothing_is_in_doubt():
    some = alone(link("a", 0.9, 1e-3), link("b", 0.9, 2e-3))
    assert select(some, 0.8, 0.5, chance()).propensities == (1.0, 0.0)


def test_exploration_never_exceeds_its_share_and_follows_doubt():
    some = alone(link("sure", 0.9, 1e-3), link("cheap", 0.7, 1e-4, sd=0.2), link("cheap too", 0.5, 1e-4, sd=0.05))
    made = select(some, 0.8, 0.1, chance())
    assert sum(made.propensities) == pytest.approx(1.0)
    assert made.propensities[0] == pytest.approx(0.9)
    assert made.propensities[1] > 10 * made.propensities[2]


def test_a_doubt_smaller_than_the_share_is_not_blown_up():
    some = alone(link("sure", 0.9, 1e-3), link("cheap", 0.7, 1e-4, sd=0.05))
    others = [select(some, 0.8, 0.5, chance(seed)).propensities[1] for seed in range(200)]
    assert np.mean(others) == pytest.approx(0.0228, abs=0.005)  # P(a normal is two deviations up)
    assert all((share * DRAWS).is_integer() for share in others)


def test_an_unproven_specialist_gets_its_part_even_if_nothing_speaks_for_it():
    some = alone(link("sure", 0.9, 1e-3), link("new", 0.2, 1e-4), unproven={"new"})
    assert select(some, 0.8, 0.05, chance()).propensities == (0.95, 0.05)


def test_the_propensities_told_are_the_frequencies_drawn():
    some = alone(link("sure", 0.85, 1e-3), link("a", 0.75, 1e-4, sd=0.1), link("b", 0.7, 1e-4, sd=0.1))
    told, drawn = np.zeros(3), Counter()
    runs = 4_000
    for seed in range(runs):
        made = select(some, 0.8, 0.4, chance(seed))
        told += made.propensities
        drawn[made.index] += 1
        assert made.explored == (made.index != 0)
    for index in range(3):
        assert drawn[index] / runs == pytest.approx(told[index] / runs, abs=0.03)


def test_the_same_call_draws_the_same():
    policy = LearningPolicy()
    one, again, other = (chance_for(name, policy, 2.0) for name in ("call_1", "call_1", "call_2"))
    assert one.lam == 2.0
    first, second, third = (which.rng.random() for which in (one, again, other))
    assert first == second != third


def test_nothing_is_drawn_when_learning_is_off():
    assert chance_for("call_1", LearningPolicy(enabled=False), 0.0) is None


def test_a_decision_that_no_draw_could_change_draws_nothing():
    class NoDraws:
        def standard_normal(self, shape):
            raise AssertionError("drawn")

    some = alone(link("sure", 0.95, 1e-4, sd=0.01), link("dear", 0.99, 1e-2, sd=0.3), link("poor", 0.5, 1e-5, sd=0.01))
    assert select(some, 0.8, 0.1, Chance(NoDraws())).propensities == (1.0, 0.0, 0.0)
