"""What is worked out once never shows: a learner that was asked all the time believes what one asked once believes."""

import numpy as np
import pytest

from policies.bandit import Bandit, Context
from policies.learning import LearningPolicy

ARMS = ["a", "b", "c"]
CLUSTERS = ["", "mail", "orders"]
PRIORS = [None, 0.8, 0.95]
ASKED = Context(np.array([1.0, 0.3, -0.2, 0.5]), "mail")


def believed(learner: Bandit, now_h: float) -> list[float]:
    figures = []
    for cluster in CLUSTERS:
        call = Context(ASKED.vector, cluster)
        for one in learner.beliefs(ARMS, call, PRIORS, now_h):
            figures += [one.mean, one.sd, one.evidence]
        figures += [-1.0 if amount is None else amount for amount in learner.usage(ARMS, call, now_h)]
    return figures


def live(learner: Bandit, step_h: float, *, asked: bool) -> list[float]:
    rng = np.random.default_rng(5)
    for step in range(400):
        call = Context(np.concatenate(((1.0,), rng.normal(size=3) / 2.0)), str(rng.choice(CLUSTERS)))
        arm = str(rng.choice(ARMS[:2] if step < 300 else ARMS))
        if rng.random() < 0.5:
            learner.learn(arm, call, float(rng.random() < 0.6), step * step_h)
        else:
            learner.learn_usage(arm, call, float(rng.integers(1, 99)), step * step_h)
        if asked:
            believed(learner, step * step_h)
    return believed(learner, 400 * step_h)


@pytest.mark.parametrize("step_h", [0.0, 1e-6])
def test_looking_at_every_step_changes_no_belief(step_h: float) -> None:
    watched, unseen = Bandit(LearningPolicy(), "f", 4), Bandit(LearningPolicy(), "f", 4)
    assert live(watched, step_h, asked=True) == pytest.approx(live(unseen, step_h, asked=False), rel=1e-5)


def test_an_outcome_counts_for_the_very_next_question_in_its_cluster_and_on_calls_of_none() -> None:
    learner = Bandit(LearningPolicy(), "f", 4)
    for _ in range(200):
        learner.learn("a", ASKED, 1.0, 0.0)
    for cluster in ("mail", ""):
        call = Context(ASKED.vector, cluster)
        before = learner.beliefs(["a"], call, [None], 0.0)[0]
        learner.learn("a", ASKED, 0.0, 0.0)
        after = learner.beliefs(["a"], call, [None], 0.0)[0]
        assert after.evidence == pytest.approx(before.evidence + 1.0)
    assert after.mean < 1.0


def test_what_was_worked_out_fades_with_time() -> None:
    learner = Bandit(LearningPolicy(half_life_h=10.0), "f", 4)
    learner.learn("a", ASKED, 1.0, 0.0)
    assert learner.beliefs(["a"], ASKED, [None], 0.0)[0].evidence == pytest.approx(1.0)
    assert learner.beliefs(["a"], ASKED, [None], 10.0)[0].evidence == pytest.approx(0.5)


def test_arms_that_are_forgotten_or_heard_of_elsewhere_are_known_at_once() -> None:
    learner, other = Bandit(LearningPolicy(), "f", 4), Bandit(LearningPolicy(), "f", 4)
    learner.learn("a", ASKED, 1.0, 0.0)
    other.learn("b", ASKED, 1.0, 0.0)
    assert [one.evidence for one in learner.beliefs(["a", "b"], ASKED, [None, None], 0.0)] == [1.0, 0.0]
    learner.absorb([other.state(0.0)], 0.0)
    assert [one.evidence for one in learner.beliefs(["a", "b"], ASKED, [None, None], 0.0)] == [1.0, 1.0]
    learner.keep_only(["b"])
    assert [one.evidence for one in learner.beliefs(["a", "b"], ASKED, [None, None], 0.0)] == [0.0, 1.0]


def test_more_clusters_than_are_kept_are_all_believed_rightly() -> None:
    learner = Bandit(LearningPolicy(), "f", 4)
    for number in range(600):
        learner.learn("a", Context(ASKED.vector, f"c{number}"), float(number % 2), 0.0)
    for number in (0, 1, 598, 599, 0):
        belief = learner.beliefs(["a"], Context(ASKED.vector, f"c{number}"), [None], 0.0)[0]
        assert belief.evidence == pytest.approx(1.0)
        assert (belief.mean > 0.5) == bool(number % 2)
