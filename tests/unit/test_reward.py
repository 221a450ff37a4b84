"""What an outcome says, and how much silence may say beside it."""

import math

import pytest

from policies.reward import CALIBRATED_WEIGHT, Silence, reward_of_confidence, reward_of_feedback

DAY_H = 24.0


def confident(silence, times, now_h=0.0, cluster="mail"):
    """So many confident answers that nobody judges; returns what they taught together."""
    taught = [silence.admitted("a", cluster, reward_of_confidence(0.99), now_h) for _ in range(times)]
    return sum(reward.weight for reward in taught if reward is not None)


def test_silence_teaches_no_more_than_the_prior_and_what_was_judged():
    silence = Silence(half_life_h=7 * DAY_H, allowance=20.0)
    assert confident(silence, 100) == pytest.approx(100 * CALIBRATED_WEIGHT)
    assert confident(silence, 10_000) == pytest.approx(10.0), "20 together"
    for _ in range(5):
        silence.judged("a", "mail", 1.0, 0.0)
    assert confident(silence, 10_000) == pytest.approx(5.0), "as much again as was judged since"
    assert silence.silent("a", "mail", 0.0) == pytest.approx(25.0)


def test_each_arm_and_cluster_has_its_own_allowance_and_the_arm_is_the_sum():
    silence = Silence(half_life_h=7 * DAY_H, allowance=20.0)
    assert confident(silence, 1_000) == confident(silence, 1_000, cluster="bank") == pytest.approx(20.0)
    assert silence.silent("a", "", 0.0) == pytest.approx(40.0)
    assert silence.silent("b", "mail", 0.0) == silence.silent("b", "", 0.0) == 0.0
    assert confident(silence, 1_000, cluster="") == 0.0, "an unknown task: all of the arm's counts, and that is enough"


def test_it_fades_as_outcomes_do_and_no_clock_makes_it_negative():
    silence = Silence(half_life_h=10.0, allowance=20.0)
    confident(silence, 1_000, now_h=100.0)
    assert silence.silent("a", "mail", 110.0) == pytest.approx(10.0)
    assert confident(silence, 1_000, now_h=110.0) == pytest.approx(10.0)
    assert silence.silent("a", "mail", 50.0) == pytest.approx(20.0), "a clock that goes back brings nothing back"
    assert confident(silence, 1_000, now_h=50.0) == 0.0
    assert confident(silence, 1_000, now_h=1e6) == pytest.approx(20.0)


def test_it_is_kept_and_damaged_rows_are_left_out():
    silence = Silence(half_life_h=10.0, allowance=20.0)
    confident(silence, 150, now_h=5.0)
    again = Silence(half_life_h=10.0, allowance=20.0)
    again.restore([*silence.state(), ("a", "x", math.nan, 1.0, 1.0), ("a", "y", 0.0, -5.0, 1.0)])
    assert again.state() == silence.state()
    assert confident(again, 1_000, now_h=5.0) == pytest.approx(5.0)
    again.keep_only({"b"})
    assert again.state() == ()


def test_what_other_routers_were_taught_by_silence_is_known_but_not_charged_here():
    other, here = (Silence(half_life_h=10.0, allowance=20.0) for _ in range(2))
    confident(other, 1_000)
    here.absorb([other.state()])
    here.absorb([other.state()])
    assert here.silent("a", "mail", 0.0) == pytest.approx(20.0), "heard again is not more"
    assert confident(here, 1_000) == pytest.approx(20.0)
    assert here.silent("a", "mail", 0.0) == pytest.approx(40.0)
    assert len(here.state()) == 2 and sum(row[3] for row in here.state()) == pytest.approx(40.0), "only its own is kept"


def test_no_opinion_teaches_nothing():
    silence = Silence(half_life_h=10.0, allowance=20.0)
    assert silence.admitted("a", "mail", reward_of_confidence(None), 0.0) is None
    assert reward_of_feedback(None, None) is None
    assert reward_of_feedback("failure", 0.7).value == 0.7
