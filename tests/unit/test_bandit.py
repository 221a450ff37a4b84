"""Beliefs: near the truth with the doubt that fits, shared between routers, kept over restarts, faded with time."""

import math

import numpy as np
import pytest

from policies.bandit import Bandit, Belief, Context
from policies.learning import LearningPolicy
from registry.errors import BadInputError

DIMENSION = 5
FOREVER = LearningPolicy(half_life_h=math.inf)


def bandit(policy: LearningPolicy = FOREVER, features: str = "f1") -> Bandit:
    return Bandit(policy, features, DIMENSION)


def context(cluster: str = "", rng: np.random.Generator | None = None) -> Context:
    """A call; its vector has length 1 beside the constant, as an embedding has. Those of a cluster are much alike."""
    rest = np.random.default_rng(list(cluster.encode())).normal(size=DIMENSION - 1)
    if rng is not None:
        rest = rest * bool(cluster) + rng.normal(size=DIMENSION - 1) * (0.2 if cluster else 1.0)
    return Context(np.concatenate(((1.0,), rest / np.linalg.norm(rest))), cluster)


def belief(of: Bandit, arm: str, call: Context, prior: float | None = None, now_h: float = 0.0) -> Belief:
    return of.beliefs([arm], call, [prior], now_h)[0]


def teach(of: Bandit, arm: str, cluster: str, rewards: np.ndarray, now_h: float = 0.0) -> None:
    rng = np.random.default_rng(1)
    for reward in rewards:
        of.learn(arm, context(cluster, rng), float(reward), now_h)


def coins(p: float, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < p


def test_an_arm_nobody_measured_is_even_and_wide() -> None:
    unknown = belief(bandit(), "new", context("mail"))
    assert unknown.mean == pytest.approx(0.5)
    assert unknown.sd > 0.3
    assert unknown.evidence == 0.0


def test_an_eval_score_is_believed_and_leaves_the_doubt_of_prior_calls() -> None:
    measured = belief(bandit(), "new", context("mail"), prior=0.9)
    assert measured.mean == pytest.approx(0.9, abs=0.03)
    assert 0.03 < measured.sd < 0.1  # 20 outcomes of a 0.9 coin leave 0.067


def test_two_hundred_outcomes_in_a_cluster_outweigh_the_eval_score() -> None:
    learner = bandit()
    rewards = coins(0.6, 200)
    teach(learner, "a", "mail", rewards)
    known = belief(learner, "a", context("mail"), prior=0.95)
    assert known.mean == pytest.approx((rewards.sum() + 20 * 0.95) / 220, abs=0.02)
    assert known.evidence == pytest.approx(200)


@pytest.mark.parametrize("p", [0.3, 0.8, 0.98])
def test_a_well_known_cluster_is_believed_as_it_is(p: float) -> None:
    learner = bandit()
    teach(learner, "a", "elsewhere", coins(0.5, 400, seed=1))
    rewards = coins(p, 200, seed=2)
    teach(learner, "a", "mail", rewards)
    known = belief(learner, "a", context("mail"))
    assert known.mean == pytest.approx(rewards.mean(), abs=0.02)
    assert known.sd == pytest.approx(math.sqrt(p * (1 - p) / 200), rel=0.5)


def test_what_is_learned_in_one_cluster_leaves_another_in_doubt() -> None:
    learner = bandit()
    teach(learner, "a", "mail", coins(0.95, 200))
    here, there = belief(learner, "a", context("mail")), belief(learner, "a", context("code"))
    assert there.sd > 4 * here.sd


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    learner = bandit()
    truths = rng.beta(4, 2, size=300)
    for index, truth in enumerate(truths):
        for _ in range(int(rng.integers(5, 60))):
            learner.learn("a", context(f"c{index}", rng), float(rng.random() < truth), 0.0)
    beliefs = [belief(learner, "a", context(f"c{index}", rng)) for index in range(300)]
    inside = [abs(one.mean - truth) < 1.645 * one.sd for one, truth in zip(beliefs, truths, strict=True)]
    assert 0.84 < np.mean(inside) < 0.97  # said: 0.90


def test_kinds_of_calls_are_told_apart_without_clusters() -> None:
    rng = np.random.default_rng(4)
    learner = bandit()
    slope = np.array([0.5, 0.3, -0.3, 0.0, 0.0])
    for _ in range(600):
        call = context(rng=rng)
        learner.learn("a", call, float(rng.random() < slope @ call.vector), 0.0)
    calls = [context(rng=rng) for _ in range(50)]
    errors = [belief(learner, "a", call).mean - slope @ call.vector for call in calls]
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_many_arms_at_once_are_believed_as_one_by_one() -> None:
    learner = bandit()
    for index in range(7):
        teach(learner, f"a{index}", "mail", coins(0.1 * index + 0.2, 50, seed=index))
    arms, priors = [f"a{index}" for index in (3, 6, 0)] + ["new"], [None, 0.5, None, 0.8]
    together = learner.beliefs(arms, context("mail"), priors, 0.0)
    alone = [belief(learner, arm, context("mail"), prior) for arm, prior in zip(arms, priors, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert (one.mean, one.sd, one.evidence) == pytest.approx((other.mean, other.sd, other.evidence))


def test_an_outcome_of_less_weight_counts_less() -> None:
    sure, unsure = bandit(), bandit()
    for _ in range(20):
        sure.learn("a", context("mail"), 1.0, 0.0)
        unsure.learn("a", context("mail"), 1.0, 0.0, weight=0.1)
    assert belief(unsure, "a", context("mail")).mean < belief(sure, "a", context("mail")).mean
    assert belief(unsure, "a", context("mail")).evidence == pytest.approx(2.0)


def test_two_routers_that_hear_of_each_other_believe_what_one_would_have_seen() -> None:
    policy = LearningPolicy(half_life_h=50.0)
    both, here, there = bandit(policy), bandit(policy), bandit(policy)
    for hour, reward in enumerate(coins(0.7, 120)):
        call = context(f"c{hour % 3}", np.random.default_rng(hour))
        for learner in (both, here if hour % 2 else there):
            learner.learn(f"a{hour % 2}", call, float(reward), float(hour))
            learner.learn_usage(f"a{hour % 2}", call, 10.0 + hour, float(hour))
    here.absorb([there.state(120.0)], 120.0)
    both.restore(both.state(120.0))
    call = context("c1", np.random.default_rng(9))
    for one, other in zip(
        here.beliefs(["a0", "a1"], call, [None, 0.8], 120.0), both.beliefs(["a0", "a1"], call, [None, 0.8], 120.0),
        strict=True,
    ):  # fmt: skip
        # Two memories of late reach further back than one.
        assert (one.mean, one.sd) == pytest.approx((other.mean, other.sd), abs=0.001)
        assert one.evidence == pytest.approx(other.evidence)
    assert here.usage(["a0", "a1"], call, 120.0) == pytest.approx(both.usage(["a0", "a1"], call, 120.0), rel=0.01)


def test_what_was_heard_is_believed_but_not_told_on_and_the_newest_word_replaces_the_older() -> None:
    here, there = bandit(), bandit()
    teach(here, "a", "mail", coins(0.2, 30))
    teach(there, "a", "mail", coins(0.9, 300))
    alone = belief(here, "a", context("mail")).mean
    for _ in range(3):
        here.absorb([there.state(0.0)], 0.0)
    assert belief(here, "a", context("mail")).evidence == pytest.approx(330)
    teach(here, "a", "mail", coins(0.2, 10))
    assert belief(here, "a", context("mail")).evidence == pytest.approx(340)
    assert here.state(0.0).pairs[0, 0, 0] == pytest.approx(40)
    here.absorb([], 0.0)
    assert belief(here, "a", context("mail")).mean == pytest.approx(alone, abs=0.05)


def test_a_restart_changes_nothing() -> None:
    policy = LearningPolicy(half_life_h=24.0)
    before, after = bandit(policy), bandit(policy)
    teach(before, "a", "mail", coins(0.7, 100))
    before.learn_usage("a", context("mail"), 30.0, 3.0)
    after.restore(before.state(5.0))
    before.restore(before.state(5.0))
    for learner in (before, after):
        teach(learner, "b", "mail", coins(0.4, 20), now_h=6.0)
    call = context("mail")
    for one, other in zip(
        before.beliefs(["a", "b"], call, [None, None], 9.0), after.beliefs(["a", "b"], call, [None, None], 9.0),
        strict=True,
    ):  # fmt: skip
        assert (one.mean, one.sd, one.evidence) == pytest.approx((other.mean, other.sd, other.evidence))
    assert after.usage(["a", "b"], call, 9.0) == pytest.approx(before.usage(["a", "b"], call, 9.0))


def test_a_model_that_got_worse_is_noticed_with_and_without_forgetting() -> None:
    for learner in (bandit(LearningPolicy(half_life_h=50.0)), bandit()):
        for hour in range(400):
            learner.learn("a", context("mail"), 0.9, float(hour))
        for hour in range(400, 500):
            learner.learn("a", context("mail"), 0.3, float(hour))
        assert belief(learner, "a", context("mail"), now_h=500.0).mean < 0.6


def test_silence_brings_the_doubt_back() -> None:
    learner = bandit(LearningPolicy(half_life_h=10.0))
    teach(learner, "a", "mail", coins(0.9, 100))
    fresh, stale = (belief(learner, "a", context("mail"), now_h=now_h) for now_h in (0.0, 100.0))
    assert stale.sd > 2 * fresh.sd
    assert stale.evidence == pytest.approx(100 / 2**10)


def test_a_retired_arm_is_forgotten_and_the_others_stay() -> None:
    learner = bandit()
    for arm, p in (("a", 0.9), ("b", 0.2), ("c", 0.7)):
        teach(learner, arm, "mail", coins(p, 60))
    kept = belief(learner, "c", context("mail"))
    learner.keep_only({"a", "c", "never seen"})
    again = belief(learner, "c", context("mail"))
    assert (again.mean, again.sd) == pytest.approx((kept.mean, kept.sd))
    assert belief(learner, "b", context("mail")).evidence == 0.0
    assert learner.state(0.0).arms == ("a", "c")
    teach(learner, "b", "mail", coins(0.2, 5))
    assert belief(learner, "b", context("mail")).evidence == pytest.approx(5)


def test_another_vector_keeps_what_is_known_of_clusters() -> None:
    old, new = bandit(), Bandit(FOREVER, "f2", 3)
    teach(old, "a", "mail", coins(0.9, 100))
    new.restore(old.state(0.0))
    known = belief(new, "a", Context(np.array([1.0, 0.0, 1.0]), "mail"))
    assert known.mean == pytest.approx(coins(0.9, 100).mean(), abs=0.03)
    assert known.evidence == pytest.approx(100)
    new.learn("a", Context(np.array([1.0, 0.0, 1.0]), "mail"), 1.0, 0.0)


def test_use_is_expected_at_its_mean_by_cluster_and_unknown_before_the_first_bill() -> None:
    rng = np.random.default_rng(5)
    learner = bandit()
    assert learner.usage(["a"], context("mail"), 0.0) == [None]
    spent = {"mail": rng.lognormal(3.0, 0.8, size=500), "code": rng.lognormal(6.0, 0.8, size=500)}
    for cluster, amounts in spent.items():
        for amount in amounts:
            learner.learn_usage("a", context(cluster, rng), float(amount), 0.0)
    for cluster, amounts in spent.items():
        expected = [learner.usage(["a", "new"], context(cluster, rng), 0.0) for _ in range(50)]
        assert np.mean([of_a for of_a, _ in expected if of_a is not None]) == pytest.approx(amounts.mean(), rel=0.2)
        assert {of_new for _, of_new in expected} == {None}


def test_learning_switched_off_leaves_beliefs_as_the_registry_says() -> None:
    learner = bandit(LearningPolicy(enabled=False))
    teach(learner, "a", "mail", coins(0.1, 100))
    assert belief(learner, "a", context("mail"), prior=0.9).mean == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("reward", [-0.1, 1.1, math.nan])
def test_a_reward_that_is_none_is_refused(reward: float) -> None:
    with pytest.raises(BadInputError, match="between 0 and 1"):
        bandit().learn("a", context(), reward, 0.0)


@pytest.mark.parametrize("amount", [0.0, -1.0, math.inf, math.nan])
def test_an_amount_that_is_none_is_refused(amount: float) -> None:
    with pytest.raises(BadInputError, match="positive"):
        bandit().learn_usage("a", context(), amount, 0.0)


def test_a_vector_of_another_length_is_refused_by_name() -> None:
    with pytest.raises(BadInputError, match="`f1` have 5"):
        belief(bandit(), "a", Context(np.ones(4), ""))


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(BadInputError, match="not counted"):
        bandit().learn("a", context(), 1.0, 0.0, weight)


def test_a_vector_that_is_not_finite_spoils_nothing() -> None:
    learner = bandit()
    teach(learner, "a", "mail", coins(0.9, 50))
    before = belief(learner, "a", context("mail"))
    with pytest.raises(BadInputError, match="not finite"):
        learner.learn("a", Context(np.full(DIMENSION, np.nan), "mail"), 1.0, 0.0)
    assert belief(learner, "a", context("mail")) == before
