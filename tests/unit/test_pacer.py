"""Spending: the ceiling holds on skewed bills and is used, prices may change, the plan is the best one."""

import itertools

import numpy as np
import pytest

from policies.pacer import HIGHEST_LAM, Pacer, PacerOptions, hull
from registry.errors import BadInputError

CALLS = 2_000


def spend(pacer: Pacer, calls: int, seed: int, price: tuple[float, float, float] = (3e-5, 5e-4, 1.5e-2)) -> np.ndarray:
    """Bills of calls over three models whose bills scatter tenfold; dearer answers are better by differing amounts."""
    rng = np.random.default_rng(seed)
    bills = np.zeros(calls)
    for call in range(calls):
        values = np.array([0.8, 0.8 + 0.25 * rng.random(), 0.85 + 0.2 * rng.random()])
        costs = np.array(price) * rng.lognormal(0.0, 0.5, size=3)
        choice = int(np.argmax(values - max(pacer.lam, 1e-3) * costs))
        bills[call] = costs[choice] * rng.lognormal(-0.32, 0.8)
        pacer.observe(values, costs, bills[call])
    return bills


@pytest.mark.parametrize("ceiling_usd", [1e-4, 2.3e-4, 6.6e-4, 1.9e-3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ceiling_holds_on_skewed_bills_and_is_used(ceiling_usd: float, seed: int) -> None:
    bills = spend(Pacer(ceiling_usd), CALLS, seed)
    assert 0.97 < bills.mean() / ceiling_usd < 1.004


def test_expectations_that_are_off_by_half_do_not_break_the_ceiling() -> None:
    rng = np.random.default_rng(3)
    pacer = Pacer(4e-4)
    total = 0.0
    for _ in range(CALLS):
        values, costs = np.array([0.8, 0.8 + 0.3 * rng.random()]), np.array([3e-5, 1e-3])
        choice = int(np.argmax(values - max(pacer.lam, 1e-3) * costs))
        bill = 1.5 * costs[choice]
        total += bill
        pacer.observe(values, costs, bill)
    assert 0.97 < total / CALLS / 4e-4 < 1.004


def test_a_price_that_falls_is_used_and_one_that_rises_is_stood() -> None:
    for before, after in (((3e-5, 5e-4, 1.5e-2), (3e-5, 5e-4, 1.5e-3)), ((3e-5, 2e-4, 1e-3), (3e-5, 2e-4, 1e-2))):
        pacer = Pacer(6.6e-4)
        first = spend(pacer, CALLS, 4, before)
        second = spend(pacer, CALLS, 5, after)
        assert (first.sum() + second.sum()) / (2 * CALLS) < 6.6e-4 * 1.004
        assert second.mean() > 0.9 * 6.6e-4


def test_a_ceiling_above_all_prices_costs_nothing() -> None:
    pacer = Pacer(1.0)
    spend(pacer, 300, 6)
    assert pacer.lam == 0.0


def test_a_ceiling_below_all_prices_leaves_the_cheapest() -> None:
    pacer = Pacer(1e-6)
    spend(pacer, 300, 7)
    assert pacer.lam > 0.9 * HIGHEST_LAM


def test_menus_of_earlier_calls_give_the_price_before_the_first() -> None:
    rng = np.random.default_rng(8)
    values = np.stack([np.full(400, 0.8), 0.8 + 0.2 * rng.random(400)], axis=1)
    costs = np.tile([1e-5, 1e-3], (400, 1))
    pacer = Pacer(3e-4)
    pacer.prime(values, costs)
    taken = values[:, 1] - pacer.lam * 1e-3 > values[:, 0] - pacer.lam * 1e-5
    assert costs[np.arange(400), taken.astype(int)].mean() == pytest.approx(3e-4, rel=0.1)


def test_a_new_ceiling_holds_from_there_on() -> None:
    pacer = Pacer(1.9e-3)
    spend(pacer, CALLS, 9)
    pacer.retarget(3e-4)
    assert spend(pacer, CALLS, 10).mean() < 1.2 * 3e-4


def test_calls_whose_callers_chose_count_by_their_bills() -> None:
    pacer = Pacer(1e-3)
    for _ in range(10):
        pacer.observe((), (), 5e-3)
    assert pacer.balance_usd == pytest.approx(-0.04)
    spend(pacer, 200, 11)
    assert pacer.balance_usd > -0.04


def test_savings_are_bounded() -> None:
    pacer = Pacer(1e-3, PacerOptions(most_saved=100.0))
    for _ in range(1_000):
        pacer.observe([0.9], [1e-6], 1e-6)
    assert pacer.balance_usd <= 0.1


def test_the_hull_holds_every_best_choice_and_no_other() -> None:
    rng = np.random.default_rng(12)
    for _ in range(200):
        values, costs = rng.random(6).round(1), rng.random(6).round(1)
        base, gains, extra = hull(values, costs)
        assert all(low > high for low, high in itertools.pairwise(gains))
        for lam in rng.random(10) * 3:
            cost = base + sum(dollars for gain, dollars in zip(gains, extra, strict=True) if gain > lam)
            worth = values - lam * costs
            assert worth[np.isclose(costs, cost)].max() == pytest.approx(worth.max())


@pytest.mark.parametrize("ceiling_usd", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ceiling_that_is_none_is_refused(ceiling_usd: float) -> None:
    with pytest.raises(BadInputError, match="above 0"):
        Pacer(ceiling_usd)
