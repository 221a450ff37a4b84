"""Trials under a ceiling: dear ones wait until they can be paid, cheap ones never; the first price holds at once."""

import math

import numpy as np
import pytest

from policies.chains import Link
from policies.learning import SpendPolicy
from policies.purse import Purse
from policies.selection import Chance, alternative, select
from router_service.pace import Menu, Pace


def choices(dear_usd: float):
    links = [
        Link(name, cost, cost, 1.0, 1.0, 0.8, quality_sd=0.2) for name, cost in (("cheap", 0.001), ("dear", dear_usd))
    ]
    return [alternative((link,), 1.0, 0.0) for link in links]


def test_a_trial_that_the_purse_cannot_pay_has_no_chance_and_another_keeps_its_own():
    chance = Chance(np.random.default_rng(0), trial_usd=0.01)
    assert select(choices(0.02), 1.0, 0.1, chance).propensities == (1.0, 0.0)
    within = select(choices(0.005), 1.0, 0.1, chance).propensities
    assert within[1] == pytest.approx(0.1)


def test_what_trials_cost_is_a_share_of_what_is_spent():
    purse, trials_usd = Purse(0.001), 0.0
    for _ in range(10_000):
        if purse.usd >= 0.015:
            purse.pay(0.015)
            trials_usd += 0.015
        purse.fill(0.001)
    assert 0.04 < trials_usd / 10.0 < 0.06


def test_a_cheaper_trial_fills_no_purse_and_a_long_calm_saves_up_no_fortune():
    purse = Purse(0.001)
    before = purse.usd
    purse.pay(-0.5)
    assert purse.usd == before
    for _ in range(100_000):
        purse.fill(0.001)
    assert purse.usd <= 0.05


def test_the_price_of_a_ceiling_a_call_holds_before_the_first_bill():
    capped, free = Pace(SpendPolicy(usd_per_call=0.001)), Pace(SpendPolicy())
    assert capped.lam * 0.01 > 0.9
    assert capped.trial_usd < 0.05
    assert (free.lam, free.trial_usd) == (0.0, math.inf)


def test_trials_are_paid_from_the_purse_and_calls_fill_it():
    pace = Pace(SpendPolicy(usd_per_call=0.001))
    full = pace.trial_usd
    pace.tried(0.01)
    paid = pace.trial_usd
    assert paid == pytest.approx(full - 0.01)
    pace.paid(Menu(np.array([0.8, 0.9]), np.array([0.001, 0.01])), 0.001)
    assert pace.trial_usd > paid
