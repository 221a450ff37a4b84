"""Changes are noticed soon, noise and new kinds of calls are no changes; all of it without any forgetting."""

import math

import msgspec
import numpy as np
import pytest

from policies.bandit import Bandit, Context
from policies.bandit_state import BanditState
from policies.learning import LearningPolicy

POLICY = LearningPolicy(half_life_h=math.inf)


def bandit(policy: LearningPolicy = POLICY) -> Bandit:
    return Bandit(policy, "f1", 3)


def call(rng: np.random.Generator, cluster: str = "") -> Context:
    rest = rng.normal(size=2)
    return Context(np.concatenate(((1.0,), rest / np.linalg.norm(rest))), cluster)


def play(learner: Bandit, p: float, count: int, seed: int, cluster: str = "") -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        learner.learn("a", call(rng, cluster), float(rng.random() < p), 0.0)


def mean(learner: Bandit, cluster: str = "", now_h: float = 0.0) -> float:
    rng = np.random.default_rng(99)
    return float(np.mean([learner.beliefs(["a"], call(rng, cluster), [None], now_h)[0].mean for _ in range(20)]))


def spend(learner: Bandit, usd: float, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        learner.learn_usage("a", call(rng), usd * float(rng.lognormal(0.0, 0.6)), 0.0)


def expected_usd(learner: Bandit) -> float:
    [amount] = learner.usage(["a"], Context(np.array([1.0, 0.0, 0.0]), ""), 0.0)
    assert amount is not None
    return amount


@pytest.mark.parametrize("cluster", ["", "mail"])
@pytest.mark.parametrize(("before", "after"), [(0.9, 0.3), (0.3, 0.9)])
def test_a_great_change_is_mostly_believed_after_some_dozens_of_outcomes_however_many_came_before(
    cluster: str, before: float, after: float
) -> None:
    found = []
    for seed in range(4):
        learner = bandit()
        play(learner, before, 1_000, seed, cluster)
        play(learner, after, 80, seed + 50, cluster)
        found.append(mean(learner, cluster))
    assert abs(np.mean(found) - after) < 0.3


@pytest.mark.parametrize("seed", range(5))
def test_a_price_that_falls_to_a_tenth_is_believed_after_a_handful_of_bills(seed: int) -> None:
    learner = bandit()
    spend(learner, 0.01, 500, seed)
    dear = expected_usd(learner)
    spend(learner, 0.001, 8, seed + 100)
    assert expected_usd(learner) < 0.35 * dear


def test_one_odd_bill_changes_next_to_nothing() -> None:
    learner = bandit()
    spend(learner, 0.01, 500, 0)
    before = expected_usd(learner)
    learner.learn_usage("a", Context(np.array([1.0, 0.0, 1.0]), ""), 0.001, 0.0)
    assert expected_usd(learner) == pytest.approx(before, rel=0.1)


def test_noise_is_no_change() -> None:
    """The memory of late alone would be off by 0.05 typically."""
    off = []
    for seed in range(20):
        learner = bandit()
        play(learner, 0.7, 1_000, seed)
        off.append(mean(learner) - 0.7)
    assert np.sqrt(np.mean(np.square(off))) < 0.03


def test_calls_of_another_kind_are_no_change() -> None:
    learner = bandit()
    play(learner, 0.9, 400, 0, "mail")
    for cluster in range(20):
        play(learner, 0.6, 30, cluster + 1, f"c{cluster}")
    assert mean(learner, "mail") == pytest.approx(0.9, abs=0.06)


def test_an_arm_that_is_not_tried_keeps_its_level_and_loses_its_certainty() -> None:
    learner = bandit(LearningPolicy(half_life_h=10.0))
    play(learner, 0.95, 200, 0, "mail")
    context = call(np.random.default_rng(0), "mail")
    [fresh], [stale] = (learner.beliefs(["a"], context, [None], now_h) for now_h in (0.0, 80.0))
    assert stale.mean == pytest.approx(0.95, abs=0.1)
    assert stale.sd > 3 * fresh.sd


def test_a_change_outlives_a_restart_and_is_told_to_other_routers() -> None:
    learner, again, other = bandit(), bandit(), bandit()
    play(learner, 0.9, 500, 0)
    play(learner, 0.2, 60, 1)
    state = BanditState.from_bytes(learner.state(0.0).to_bytes())
    again.restore(state)
    other.absorb([state], 0.0)
    assert mean(again) == pytest.approx(mean(learner), abs=0.02)
    assert mean(other) == pytest.approx(mean(learner), abs=0.02)


def test_a_state_of_before_there_was_a_memory_is_read() -> None:
    learner, again = bandit(), bandit()
    play(learner, 0.9, 200, 0)
    content = learner.state(0.0).to_bytes()
    wire = msgspec.msgpack.decode(content[5:])
    del wire["late"]
    again.restore(BanditState.from_bytes(content[:5] + msgspec.msgpack.encode(wire)))
    assert mean(again) == pytest.approx(mean(learner), abs=0.02)


def test_two_complaints_do_not_outweigh_a_thousand_right_answers_and_a_dozen_in_a_row_do():
    rng = np.random.default_rng(0)
    learner = Bandit(LearningPolicy(), "f", 9)

    def call(cluster):
        return Context(np.concatenate(([1.0], rng.normal(size=8) * 0.2)), cluster)

    for _ in range(1_000):
        learner.learn("a", call("mail"), 1.0, 0.0)

    def quality():
        return learner.beliefs(["a"], call("mail"), [0.9], 0.0)[0].mean

    for _ in range(2):
        learner.learn("a", call("mail"), 0.0, 0.0)
    assert quality() > 0.97
    for _ in range(12):
        learner.learn("a", call("mail"), 0.0, 0.0)
    assert quality() < 0.7
