"""RouteLLM's measures on curves whose values are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.outcomes import Outcomes
from pipelines.replay_gap import RANDOM, ModelPair, gap_recovered, model_pair

PAIR = ModelPair("weak", "strong", 0.6, 0.8)


def two_models(rewards: list[list[float]], costs: list[float]) -> Outcomes:
    reward = np.array(rewards)
    return Outcomes(("x", "y"), ("p",) * len(reward), reward, np.tile(np.array(costs), (len(reward), 1)))


@pytest.mark.parametrize("points", [[], [(0.5, 0.7)], [(0.1, 0.62), (0.9, 0.78), (0.3, 0.66)]])
def test_a_coin_recovers_half(points: list[tuple[float, float]]) -> None:
    found = gap_recovered(PAIR, points)
    assert (found.apgr, found.cpt50, found.cpt80) == pytest.approx((RANDOM.apgr, RANDOM.cpt50, RANDOM.cpt80))


def test_a_curve_by_hand() -> None:
    """PGR 0 at 0, 0.8 at a quarter, 1 at 1: trapezoids of 0.1 and 0.675."""
    found = gap_recovered(PAIR, [(0.25, 0.76)])
    assert found.apgr == pytest.approx(0.775)
    assert found.cpt50 == pytest.approx(0.25 * 0.5 / 0.8)
    assert found.cpt80 == pytest.approx(0.25)


def test_the_share_is_the_first_that_reaches_the_level() -> None:
    found = gap_recovered(PAIR, [(0.2, 0.7), (0.4, 0.65), (0.6, 0.79)])
    assert found.cpt50 == pytest.approx(0.2)
    assert 0.4 < found.cpt80 < 0.6


def test_worse_than_a_coin_is_below_half() -> None:
    found = gap_recovered(PAIR, [(0.5, 0.62)])
    assert found.apgr < 0.5 < found.cpt50


def test_better_than_the_strong_model_is_above_one() -> None:
    assert gap_recovered(PAIR, [(0.5, 0.9)]).apgr == pytest.approx(0.5 * 0.75 + 0.5 * 1.25)


def test_points_at_one_share_are_averaged() -> None:
    assert gap_recovered(PAIR, [(0.5, 0.65), (0.5, 0.75)]).apgr == pytest.approx(0.5)


def test_points_at_the_ends_do_not_break_it() -> None:
    found = gap_recovered(PAIR, [(0.0, 0.6), (1.0, 0.8), (0.5, 0.75)])
    assert found.apgr == pytest.approx(0.5 * (0.75 / 2) + 0.5 * (1.75 / 2))


def test_the_strong_model_is_the_better_one_wherever_it_stands() -> None:
    found = model_pair(two_models([[1.0, 0.0], [1.0, 1.0]], [5.0, 1.0]))
    assert found == ModelPair("y", "x", 0.5, 1.0)


@pytest.mark.parametrize("costs", [[1.0, 5.0], [1.0, 1.0]])
def test_no_gap_where_the_better_model_is_not_the_dearer(costs: list[float]) -> None:
    assert model_pair(two_models([[1.0, 0.0], [1.0, 1.0]], costs)) is None


def test_no_gap_where_both_are_as_good() -> None:
    assert model_pair(two_models([[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0])) is None
