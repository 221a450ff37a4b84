import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.answers import Answer, Expectation
from policies.confidence import (
    allowed_wrong,
    binomial_cdf,
    calibrate,
    describe,
    fit_reliability,
    least_sample,
    sample_of,
    upper_limit,
)
from policies.verify import Verifier
from registry.errors import BadInputError

ALPHA, DELTA = 0.05, 0.1
SHIFTS = {"good": 1.8124, "poor": 0.3583}  # AUROC 0.9 and 0.6


def draw(rng, n, error, shift, step=0.0):
    """Wrong answers score N(0, 1), right ones N(shift, 1): the true risk of a threshold is known."""
    right = rng.random(n) >= error
    scores = rng.standard_normal(n) + shift * right
    return (np.floor(scores / step) * step if step else scores), right


def true_risk(threshold, error):
    return 0.0 if threshold is None else error * 0.5 * math.erfc(threshold / math.sqrt(2))


def of(scores, right, judged_from=None):
    return sample_of(list(scores), list(right), judged_from)


@pytest.mark.parametrize("n", [50, 300])
@pytest.mark.parametrize("error", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("kind", SHIFTS)
def test_the_true_risk_exceeds_alpha_in_at_most_delta_of_the_runs(kind, error, n):
    rng = np.random.default_rng([n, int(100 * error), len(kind)])
    runs = 300
    samples = [draw(rng, n, error, SHIFTS[kind]) for _ in range(runs)]
    broken = sum(true_risk(calibrate(of(*sample), ALPHA, DELTA).threshold, error) > ALPHA for sample in samples)
    assert broken / runs <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / runs)


def test_the_bound_is_not_kept_by_being_shut():
    rng = np.random.default_rng(1)
    runs = 200
    found = [calibrate(of(*draw(rng, 300, 0.3, SHIFTS["good"])), ALPHA, DELTA) for _ in range(runs)]
    assert np.mean([c.coverage for c in found]) > 0.48, "61 % could be accepted by one who knew the truth"
    assert sum(true_risk(c.threshold, 0.3) > ALPHA for c in found) > 0, "delta is used"
    covered = np.mean([true_risk(c.threshold, 0.3) <= c.risk_upper for c in found])
    assert covered >= 1 - DELTA - 3 * math.sqrt(DELTA * (1 - DELTA) / runs)


def test_ties_are_accepted_or_refused_together():
    rng = np.random.default_rng(2)
    for _ in range(200):
        scores, right = draw(rng, 300, 0.3, SHIFTS["good"], step=1.0)
        found = calibrate(of(scores, right), ALPHA, DELTA)
        wrong = int(((scores >= found.threshold) & ~right).sum())
        assert found.risk == wrong / 300
        assert wrong <= allowed_wrong(300, ALPHA, DELTA)
    same = calibrate(of([-1.0] * 300, [n % 5 > 0 for n in range(300)]), ALPHA, DELTA)
    assert same.threshold is None, "one level for all, and a fifth of it is wrong"


def test_the_threshold_is_the_loosest_that_passes():
    wrong = {0, 40, 80, 120, 160, 200, 240, 250, 260, 270}
    sample = of([float(-n) for n in range(300)], [n not in wrong for n in range(300)])
    assert allowed_wrong(300, ALPHA, DELTA) == 9, "P(Bin(300, 0.05) <= 9) is 0.065, of 10 it is 0.112"
    found = calibrate(sample, ALPHA, DELTA)
    assert found.threshold == -269, "just above the tenth wrong answer"
    assert found.coverage == found.p_believed == 0.9
    assert found.risk == 9 / 300
    assert found.risk_upper <= ALPHA < describe(sample, -270.0, ALPHA, DELTA).risk_upper
    assert (found.sample, found.alpha, found.delta) == (300, ALPHA, DELTA)


def test_nothing_is_accepted_where_nothing_can_be_justified():
    few = calibrate(of([-0.1] * 44, [True] * 44), ALPHA, DELTA)
    assert few.threshold is None, "44 right answers of 44 come with a risk of 5.1 % once in ten times"
    assert (few.coverage, few.risk, few.quality_if_believed) == (0.0, 0.0, None)
    assert calibrate(of([-0.1] * 45, [True] * 45), ALPHA, DELTA).threshold == -0.1
    assert least_sample(ALPHA, DELTA) == 45
    assert calibrate(of([], []), ALPHA, DELTA).threshold is None
    assert calibrate(of([None] * 500, [True] * 500), ALPHA, DELTA).threshold is None, "no score was ever seen"


def test_answers_without_a_score_are_calls_that_are_never_accepted():
    found = calibrate(of([-1.0] * 150 + [None] * 75 + [math.nan] * 75, [True] * 300), ALPHA, DELTA)
    assert (found.threshold, found.coverage, found.sample) == (-1.0, 0.5, 300)


def test_what_was_not_judged_is_never_accepted():
    scores = [-1.0] * 200 + [-5.0] * 200
    found = calibrate(of(scores, [True] * 400, [-1.0] * 200 + [None] * 200), ALPHA, DELTA)
    assert found.threshold == -5.0, "200 answers were judged down to there, and that is enough"
    few = of([-1.0] * 370 + [-5.0] * 30, [True] * 400, [-1.0] * 370 + [None] * 30)
    assert calibrate(few, ALPHA, DELTA).threshold == -1.0, "only 30 were judged below -1"


def _p_right(rows, score):
    """Isotonic regression by its max-min formula."""
    scores = sorted({s for s, _, _ in rows})

    def mean(low, high):
        return statistics.mean(right for s, right, _ in rows if low <= s <= high)

    return max(min(mean(low, high) for high in scores if high >= score) for low in scores if low <= score)


def test_scores_of_which_answers_are_mostly_wrong_are_not_believed_however_rare_they_are():
    """Nearly always right, so the bound lets all pass; but its unsure answers are wrong, and may become frequent."""
    scores = [-0.1 - n / 1000 for n in range(290)] + [-5.0 - n for n in range(10)]
    found = calibrate(of(scores, [True] * 290 + [n == 4 for n in range(10)]), ALPHA, DELTA)
    assert found.threshold == scores[289] and found.risk == 0.0
    half = calibrate(of(scores, [True] * 290 + [n % 2 == 0 for n in range(10)]), ALPHA, DELTA)
    assert half.threshold == -13.0, "of the others every second one is right; of the very last none"
    assert calibrate(of([-1.0] * 100, [True] * 100), ALPHA, DELTA).threshold == -1.0


@given(st.lists(st.tuples(st.integers(-9, 0), st.booleans(), st.sampled_from([None, -9.0, -5.0, -2.0])), max_size=120))
def test_the_walk_finds_what_trying_every_threshold_finds(rows):
    rows = [
        (float(score), right, limit if limit is not None and limit <= score else None) for score, right, limit in rows
    ]
    found = calibrate(of(*zip(*rows, strict=True)) if rows else of([], []), 0.3, 0.2)
    loosest = None
    for threshold in [n / 2 for n in range(0, -19, -1)]:
        speaking = [(s, r) for s, r, limit in rows if limit is None or limit <= threshold]
        wrong = sum(s >= threshold and not r for s, r in speaking)
        if binomial_cdf(wrong, len(speaking), 0.3) > 0.2:
            break
        loosest = threshold
    accepted = [loosest is not None and s >= loosest and _p_right(rows, s) >= 0.5 for s, _, _ in rows]
    assert accepted == [found.threshold is not None and s >= found.threshold for s, _, _ in rows]


@settings(deadline=None)  # the first call imports scipy
@given(st.integers(1, 400), st.floats(0.001, 0.999), st.data())
def test_the_binomial_tail_and_its_inverses_agree_with_scipy(n, p, data):
    from scipy.stats import beta, binom

    k = data.draw(st.integers(0, n))
    assert binomial_cdf(k, n, p) == pytest.approx(binom.cdf(k, n, p), rel=1e-8, abs=1e-100)
    allowed = allowed_wrong(n, p, DELTA)
    assert allowed == -1 or binom.cdf(allowed, n, p) <= DELTA * (1 + 1e-9)
    assert binom.cdf(allowed + 1, n, p) > DELTA * (1 - 1e-9)
    assert upper_limit(k, n, DELTA) == pytest.approx(1.0 if k == n else beta.ppf(1 - DELTA, k + 1, n - k), abs=1e-9)


def test_the_binomial_tail_holds_for_large_samples():
    from scipy.stats import binom

    for k in (0, 4_800, 5_000, 99_999):
        assert binomial_cdf(k, 100_000, 0.05) == pytest.approx(binom.cdf(k, 100_000, 0.05), rel=1e-6, abs=1e-100)
    assert binomial_cdf(-1, 10, 0.5) == 0.0
    assert binomial_cdf(10, 10, 0.5) == 1.0


@given(st.integers(1, 120), st.integers(1, 63), st.data())
def test_the_binomial_tail_is_exact_far_out(n, of_64, data):
    k, p = data.draw(st.integers(0, n)), Fraction(of_64, 64)
    exact = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1))
    assert binomial_cdf(k, n, float(p)) == pytest.approx(float(exact), rel=1e-11)


def test_reliability_rises_with_the_score_and_is_calibrated():
    rng = np.random.default_rng(3)
    scores = rng.uniform(-4, 0, 20_000)
    truth = 1 / (1 + np.exp(-(scores + 2) * 2))
    fitted = fit_reliability(of(scores, rng.random(20_000) < truth))
    assert list(fitted.p_right) == sorted(fitted.p_right)
    assert list(fitted.scores) == sorted(fitted.scores)
    for score in (-3.5, -2.5, -2.0, -1.0, -0.3):
        assert fitted.at(score) == pytest.approx(1 / (1 + math.exp(-(score + 2) * 2)), abs=0.05)
    assert fitted.at(-100.0) == fitted.p_right[0]
    assert fit_reliability(of([None], [True])).at(-1.0) is None


def test_reliability_agrees_with_scikit_learn():
    isotonic = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(4)
    scores, right = draw(rng, 500, 0.3, SHIFTS["good"], step=0.25)
    fitted = fit_reliability(of(scores, right))
    theirs = isotonic.IsotonicRegression().fit(scores, right.astype(float)).predict(scores)
    assert [fitted.at(score) for score in scores.tolist()] == pytest.approx(theirs.tolist())


def test_quality_if_believed_is_the_precision_of_what_is_accepted():
    rng = np.random.default_rng(5)
    qualities, precisions = [], []
    for _ in range(200):
        found = calibrate(of(*draw(rng, 300, 0.3, SHIFTS["good"])), ALPHA, DELTA)
        error = true_risk(found.threshold, 0.3)
        accepted = error + 0.7 * 0.5 * math.erfc((found.threshold - SHIFTS["good"]) / math.sqrt(2))
        qualities.append(found.quality_if_believed)
        precisions.append(1 - error / accepted)
    assert np.mean(qualities) == pytest.approx(np.mean(precisions), abs=0.015)
    assert max(qualities) < 1.0, "not even a sample without a wrong answer promises that there are none"


def test_the_verifier_believes_exactly_what_was_calibrated():
    found = calibrate(of([-0.5] * 100 + [-3.0] * 100, [True] * 100 + [False] * 100), ALPHA, DELTA)
    for confidence, outcome in ((-0.5, "verified"), (-0.51, "unsure")):
        answer = Answer(text="yes", confidence=confidence)
        assert Verifier().verify(answer, Expectation(), found.threshold).outcome == outcome


def test_bad_samples_and_levels_are_refused_by_name():
    with pytest.raises(BadInputError, match="2 scores, 1 judgements"):
        of([-1.0, -2.0], [True])
    with pytest.raises(BadInputError, match="below infinity"):
        of([math.inf], [True])
    with pytest.raises(BadInputError, match="judged_from"):
        of([-2.0], [True], [-1.0])
    for alpha, delta, named in (
        (0.0, 0.1, "alpha"),
        (1.0, 0.1, "alpha"),
        (0.1, 0.0, "delta"),
        (0.1, math.nan, "delta"),
    ):
        with pytest.raises(BadInputError, match=named):
            calibrate(of([-1.0], [True]), alpha, delta)
