"""The product's router on an outcome matrix: it learns who is worth the money, and keeps to it."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.outcomes import OutcomeRow, read_outcomes
from pipelines.replay_learner import OutcomeRouter
from policies.learning import LearningPolicy
from registry.errors import BadInputError

ARMS = ("small", "large")
CEILING_USD = 4e-4


def made_up(count: int, seed: int) -> list[OutcomeRow]:
    """Sums, that both can do, and riddles, that only the large one can; the large one costs a hundred times as much."""
    rng = np.random.default_rng(seed)
    names = ("Ann", "Bob", "Eve", "Max", "Kim")
    rows = []
    for index in range(count):
        if index % 3:
            prompt = f"What is {rng.integers(100)} plus {rng.integers(100)}, said {rng.choice(names)}?"
            good = 0.93
        else:
            prompt = f"Riddle of {rng.choice(names)}:\n(A) a cat\n(B) a dog\n(C) neither\nWhich of them is it, and why?"
            good = 0.2
        rewards = {"small": float(rng.random() < good), "large": float(rng.random() < 0.95)}
        rows.append(OutcomeRow(prompt, rewards, {"small": 1e-5, "large": 1e-3 * float(rng.lognormal(-0.1, 0.4))}))
    return rows


def play(router: OutcomeRouter, rows: list[OutcomeRow]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and costs in the order of the stream."""
    rewards, costs = [], []
    for row in rows:
        decision = router.decide(row.prompt)
        assert sum(decision.propensities.values()) == pytest.approx(1.0)
        assert decision.propensities[decision.arm] > 0.0
        rewards.append(row.rewards[decision.arm])
        costs.append(row.costs_usd[decision.arm])
        router.learn(decision, rewards[-1], costs[-1])
    return np.array(rewards), np.array(costs)


def test_it_finds_out_by_itself_which_calls_are_worth_the_dear_model() -> None:
    rewards, costs = play(OutcomeRouter(ARMS, CEILING_USD, seed=0), made_up(1_500, seed=1))
    # A mix without looking at the prompt reaches 0.69 + 0.39 x 0.26 = 0.79 for this money.
    assert rewards[500:].mean() > 0.88
    assert costs.mean() < 1.004 * CEILING_USD


def test_warm_up_rows_spare_it_the_finding_out() -> None:
    rows = made_up(300, seed=2)
    rewards, costs = play(OutcomeRouter(ARMS, CEILING_USD, 0, warmup=made_up(400, seed=3)), rows)
    assert rewards.mean() > 0.88
    assert costs.mean() < 1.02 * CEILING_USD


def test_the_same_seed_makes_the_same_decisions() -> None:
    rows = made_up(250, seed=4)
    first, second = (play(OutcomeRouter(ARMS, CEILING_USD, seed=5), rows) for _ in range(2))
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize("half_life_calls", [100.0, math.inf])
def test_a_model_that_gets_worse_half_way_is_left_whether_outcomes_fade_or_not(half_life_calls: float) -> None:
    before = made_up(600, seed=6)
    after = [
        OutcomeRow(row.prompt, {**row.rewards, "large": 0.0}, row.costs_usd) for row in made_up(600, seed=7)
    ]  # fmt: skip
    policy = LearningPolicy(half_life_h=half_life_calls)
    _, costs = play(OutcomeRouter(ARMS, CEILING_USD, 0, policy), before + after)
    assert costs[900:].mean() < 0.4 * CEILING_USD


def test_a_warm_up_without_an_arms_outcome_is_refused_by_name() -> None:
    row = OutcomeRow("hello", {"small": 1.0}, {"small": 1e-5})
    with pytest.raises(BadInputError, match="'large'"):
        OutcomeRouter(ARMS, CEILING_USD, 0, warmup=[row])


def test_arms_of_one_name_are_refused() -> None:
    with pytest.raises(BadInputError, match="different names"):
        OutcomeRouter(("small", "small"), CEILING_USD, 0)


def test_a_free_model_can_be_had_for_nothing() -> None:
    rows = [OutcomeRow(f"call {index}", {"free": 1.0, "paid": 1.0}, {"free": 0.0, "paid": 0.1}) for index in range(80)]
    _, costs = play(OutcomeRouter(("free", "paid"), 1e-3, 0), rows)
    assert costs[20:].sum() == 0.0


def test_on_a_published_matrix_it_beats_the_best_mix_of_two_models_for_the_money() -> None:
    folder = os.environ.get("JOURNEYMAN_DATA", "")
    path = Path(folder) / "outcomes_three_models_val.jsonl"
    if not folder or not path.exists():
        pytest.skip("JOURNEYMAN_DATA names no folder with outcomes_three_models_val.jsonl")
    rows = read_outcomes(path)
    order = np.random.default_rng(0).permutation(len(rows))
    warmup, judged = [rows[i] for i in order[:900]], [rows[i] for i in order[900:1500]]
    ceiling_usd = 2.3e-4
    rewards, costs = play(OutcomeRouter(tuple(rows[0].rewards), ceiling_usd, 0, warmup=warmup), judged)
    assert rewards.mean() > _best_mix(judged, ceiling_usd) + 0.02, json.dumps(float(rewards.mean()))
    assert costs.mean() < 1.01 * ceiling_usd


def _best_mix(rows: list[OutcomeRow], ceiling_usd: float) -> float:
    """The best reward of two models in fixed shares, in hindsight."""
    arms = list(rows[0].rewards)
    points = [
        (np.mean([row.costs_usd[arm] for row in rows]), np.mean([row.rewards[arm] for row in rows])) for arm in arms
    ]
    best = max((reward for cost, reward in points if cost <= ceiling_usd), default=0.0)
    for low, low_reward in points:
        for high, high_reward in points:
            if low <= ceiling_usd < high:
                share = (ceiling_usd - low) / (high - low)
                best = max(best, (1 - share) * low_reward + share * high_reward)
    return float(best)
