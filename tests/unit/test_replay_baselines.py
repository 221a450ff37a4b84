"""Baselines are exact: against brute force, against linear programming, and by their own certificates."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from pipelines.outcomes import Outcomes
from pipelines.replay_baselines import best_single, oracle, random_mix, shuffled, static_mix, tilted


def matrix(rows: int, arms: int, seed: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    costs = rng.uniform(0.5, 1.5, (rows, arms)) * 10.0 ** np.arange(-5, arms - 5)
    return Outcomes(tuple("abcdef"[:arms]), ("p",) * rows, rng.uniform(size=(rows, arms)).round(1), costs)


def named(rewards: list[list[float]], costs: list[list[float]]) -> Outcomes:
    reward = np.array(rewards, dtype=float)
    return Outcomes(tuple("abc"[: reward.shape[1]]), ("p",) * len(reward), reward, np.array(costs, dtype=float))


def best_by_hand(one: Outcomes, budget: float) -> float:
    rows, arms = one.rewards.shape
    found = [
        one.rewards[range(rows), choice].mean()
        for choice in product(range(arms), repeat=rows)
        if one.costs_usd[range(rows), choice].mean() <= budget
    ]
    return max(found)


def test_the_best_single_model_is_the_best_that_the_budget_allows() -> None:
    one = named([[0.2, 0.9, 1.0]] * 3, [[1, 2, 3]] * 3)
    assert best_single(one).shares == {"a": 0, "b": 0, "c": 1}
    assert best_single(one, 2.0).shares == {"a": 0, "b": 1, "c": 0}
    assert best_single(one, 2.999).mean_reward == pytest.approx(0.9)
    below = best_single(one, 0.5)
    assert (below.shares["a"], below.meets_budget) == (1, False)


def test_a_dearer_model_that_is_worse_is_never_picked() -> None:
    one = named([[0.5, 0.4]] * 2, [[1, 2]] * 2)
    for baseline in (best_single, static_mix, oracle):
        assert baseline(one, 10.0).shares == {"a": 1, "b": 0}


def test_a_static_mix_meets_the_budget_exactly_and_lies_on_the_chord() -> None:
    one = named([[0.0, 1.0]] * 4, [[1, 3]] * 4)
    mixed = static_mix(one, 2.5)
    assert mixed.mean_cost_usd == pytest.approx(2.5)
    assert mixed.mean_reward == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(8))
def test_a_static_mix_is_the_linear_programs_optimum(seed: int) -> None:
    one = matrix(20, 4, seed)
    cost, reward = one.costs_usd.mean(axis=0), one.rewards.mean(axis=0)
    for budget in np.geomspace(cost.min() * 1.01, cost.max(), 6):
        mixed = static_mix(one, budget)
        assert mixed.mean_cost_usd <= budget * (1 + 1e-8)
        # Weak duality: any price of a dollar bounds what a mixture can earn; the best price shows that it is reached.
        prices = [0.0, *((reward[i] - reward[j]) / (cost[i] - cost[j]) for i in range(4) for j in range(i))]
        bound = min((reward - price * cost).max() + price * budget for price in prices if price >= 0)
        assert mixed.mean_reward == pytest.approx(bound, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_oracle_is_at_least_every_choice_by_hand_and_at_most_one_prompt_better(seed: int) -> None:
    one = matrix(7, 3, seed)
    lowest, highest = one.costs_usd.min(axis=1).mean(), one.costs_usd.max(axis=1).mean()
    for budget in np.geomspace(lowest * 1.001, highest, 5):
        best, found = best_by_hand(one, budget), oracle(one, budget)
        assert best - 1e-12 <= found.mean_reward <= best + 1 / 7
        assert found.mean_cost_usd <= budget * (1 + 1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_oracle_has_a_certificate(seed: int) -> None:
    one = matrix(500, 3, seed)
    for budget in np.geomspace(one.costs_usd.min(axis=1).mean() * 1.1, one.costs_usd.max(axis=1).mean(), 5):
        found = oracle(one, budget)
        prices = np.concatenate([[0.0], np.geomspace(1e-3, 1e9, 4_000)])
        duals = [(one.rewards - price * one.costs_usd).max(axis=1).mean() + price * budget for price in prices]
        assert found.mean_reward <= min(duals) + 1e-9
        assert found.mean_reward == pytest.approx(min(duals), abs=2e-3)


def test_the_oracle_mixes_within_ties() -> None:
    """Every prompt has the same slope, so bisection cannot part them; the budget still is met exactly."""
    one = named([[0.0, 1.0]] * 10, [[0.0, 1.0]] * 10)
    found = oracle(one, 0.35)
    assert found.mean_cost_usd == pytest.approx(0.35)
    assert found.mean_reward == pytest.approx(0.35)


def test_the_oracle_spends_on_the_prompts_where_it_pays() -> None:
    one = named([[1, 1], [0, 1], [1, 0], [0, 1]], [[0, 1]] * 4)
    assert oracle(one, 0.5).mean_reward == pytest.approx(1.0)
    assert oracle(one, 0.25).mean_reward == pytest.approx(0.75)
    assert oracle(one, 5.0).mean_cost_usd == pytest.approx(0.5)


def test_below_the_cheapest_choice_every_baseline_says_so() -> None:
    one = matrix(30, 3, 1)
    for baseline in (best_single, static_mix, oracle, random_mix):
        assert not baseline(one, 1e-9).meets_budget


def test_tilting_keeps_the_relative_entropy_least() -> None:
    shares, cost = np.array([0.2, 0.5, 0.3]), np.array([1.0, 2.0, 6.0])
    for target in (1.3, 2.0, 3.0, 5.9):
        mixed = tilted(shares, cost, target)
        assert mixed @ cost == pytest.approx(target)
        assert mixed.sum() == pytest.approx(1)
        # Any other mixture with this mean cost is farther away: step along the one direction that keeps it.
        step = np.cross(np.ones(3), cost)
        for size in (-1e-3, 1e-3):
            other = mixed + size * step * mixed.min()
            assert (other * np.log(other / shares)).sum() > (mixed * np.log(mixed / shares)).sum()


def test_tilting_gives_no_share_to_an_arm_without_one() -> None:
    mixed = tilted(np.array([0.5, 0.0, 0.5]), np.array([1.0, 2.0, 3.0]), 1.5)
    assert mixed[1] == 0
    assert mixed[0] == pytest.approx(0.75)


@pytest.mark.parametrize("target", [0.1, 9.0])
def test_a_cost_that_the_used_arms_cannot_have_gives_the_nearest_arm(target: float) -> None:
    mixed = tilted(np.array([0.5, 0.5, 0.0]), np.array([1.0, 2.0, 30.0]), target)
    assert mixed.tolist() == ([1, 0, 0] if target < 1 else [0, 1, 0])


def test_shuffling_costs_what_the_router_cost() -> None:
    one = matrix(50, 3, 3)
    target = float(one.costs_usd.mean(axis=0) @ [0.4, 0.4, 0.2]) * 0.7
    control = shuffled(one, np.array([0.4, 0.4, 0.2]), target)
    assert control.mean_cost_usd == pytest.approx(target)


def test_plain_shuffling_is_the_mean_over_permutations() -> None:
    """At the shares' own cost nothing is tilted, and drawing real permutations agrees."""
    one = matrix(40, 2, 5)
    picks = np.array([0] * 25 + [1] * 15)
    rng = np.random.default_rng(0)
    drawn = [one.rewards[range(40), rng.permutation(picks)].mean() for _ in range(4_000)]
    shares = np.array([25, 15]) / 40
    control = shuffled(one, shares, float(shares @ one.costs_usd.mean(axis=0)))
    assert control.shares == pytest.approx({"a": 0.625, "b": 0.375})
    assert control.mean_reward == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(4_000))


def test_random_is_even_when_that_is_affordable() -> None:
    one = named([[0.0, 1.0]] * 2, [[1, 3]] * 2)
    assert random_mix(one, 2.5).shares == {"a": 0.5, "b": 0.5}
    assert random_mix(one, 1.5).mean_cost_usd == pytest.approx(1.5)
