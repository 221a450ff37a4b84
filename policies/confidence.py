"""How sure an answer must be to be believed: a threshold on its score, with a bound on the risk that it lets through.

The score is the sum of the answer's token log-probabilities; an answer is accepted when its score is at least the
threshold. The risk of a threshold t is R(t) = P(score >= t and the answer is wrong), over all of a specialist's calls.
`calibrate` returns the most permissive threshold whose risk is at most alpha with probability at least 1 - delta over
the draw of the sample, whatever the scores are worth and however they are distributed; a stricter one, where answers of
such a score are more often wrong than right.

Learn then Test (Angelopoulos, Bates, Candes, Jordan, Lei 2021, arXiv:2110.01052, section 3) with fixed-sequence
testing: H(t): R(t) > alpha is tested from the strictest t to the loosest, each at level delta, until the first that is
not rejected. The loss is 0 or 1, so the exact binomial tail P(Bin(n, alpha) <= wrong) is a valid p-value, and a tighter
one than Hoeffding-Bentkus.

Why the sequence may be every real number, and be walked at the sample's own scores: the order is fixed beforehand, and
between two neighbouring scores no p-value is larger than at the lower of them. R falls as t grows, so the thresholds
that break the bound lie below some t*; choosing one of them means having rejected H at t* itself (or arbitrarily close
below it), which happens with probability at most delta. One fixed, unknown point decides, so nothing is paid for the
number of thresholds, and nothing for having looked at the scores (the argument of theorem 1 of Bates et al. 2021,
arXiv:2101.02703). `benchmarks/confidence.py` measures it.

Knows nothing of where samples come from, nor of time.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from registry.errors import BadInputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_P_RIGHT: Final = 0.5
"""P(right | score) below which no answer is believed. A specialist that is nearly always right would pass with all of
its answers, and its least sure ones are what becomes frequent when calls change: the bound is about calls as they were.
"""
_BISECTIONS: Final = 60


class Sample(Struct, frozen=True):
    """Judged answers, one an entry of each array. Made by `sample_of`."""

    scores: Floats
    """-inf: never accepted. It has no score, or one below its `judged_from`, where the score no longer matters."""
    right: Bools
    judged_from: Floats
    """When it was judged, answers with a score below this were not (-inf: all were, or an even share of all)."""

    def __len__(self) -> int:
        return len(self.scores)


class Tally(Struct, frozen=True):
    """What a sample counts at one threshold."""

    counted: int
    """Answers that speak of the threshold: all scores were judged from it on, or from below it."""
    wrong: int
    """Those of them that are accepted and wrong."""
    accepted: Bools


class Reliability(Struct, frozen=True):
    """P(right | score), a step function that never falls: isotonic regression."""

    scores: tuple[float, ...]
    """The least score of each step, ascending."""
    p_right: tuple[float, ...]

    def at(self, score: float) -> float | None:
        """Return P(right) at this score; None when nothing was judged. Below the first step its value holds."""
        if not self.scores:
            return None
        return self.p_right[max(0, bisect.bisect_right(self.scores, score) - 1)]


class Calibration(Struct, frozen=True, kw_only=True):
    """A threshold, and what the sample says of it."""

    threshold: float | None
    """Least score that is accepted; None: no threshold can be justified, so accept nothing."""
    coverage: float
    """Share of the specialist's calls that are accepted."""
    risk: float
    """Share of its calls that are accepted and wrong. Both are over-estimates where a sample leaves out what was not
    accepted."""
    risk_upper: float
    """Exact upper limit of the risk at level 1 - delta (Clopper-Pearson); at most alpha."""
    quality_if_believed: float | None
    """Mean P(right | score) over the accepted, with half a right and half a wrong answer added (Jeffreys)."""
    sample: int
    """Judged answers that bear on the threshold."""
    alpha: float
    delta: float
    at_ms: int = 0
    reliability: Reliability = Reliability((), ())

    @property
    def p_believed(self) -> float:
        """The coverage, as the planner calls it."""
        return self.coverage


def sample_of(
    scores: Sequence[float | None], right: Sequence[bool], judged_from: Sequence[float | None] | None = None
) -> Sample:
    """Return a sample. A score of None or NaN is that of an answer without log-probabilities.

    Raises BadInputError when lengths differ, a score is +inf, or an answer lies below its own `judged_from`.
    """
    since = [None] * len(scores) if judged_from is None else judged_from
    if not len(scores) == len(right) == len(since):
        raise BadInputError(f"A sample of {len(scores)} scores, {len(right)} judgements, {len(since)} limits.")
    values = np.array([-math.inf if score is None or math.isnan(score) else score for score in scores], dtype=float)
    limits = np.array([-math.inf if limit is None else limit for limit in since], dtype=float)
    if np.any(values == math.inf) or not np.all((values >= limits) | np.isneginf(values)):
        raise BadInputError("Every score must be below infinity and not below the answer's own `judged_from`.")
    return Sample(values, np.array(right, dtype=bool), limits)


def calibrate(sample: Sample, alpha: float, delta: float, at_ms: int = 0) -> Calibration:
    """Return the most permissive threshold with P(R(threshold) > alpha) <= delta; its threshold is None if none passes.

    Then it is raised to where an answer is right as often as not, which can only lower the risk.

    Each test counts the answers that speak of its t: those whose `judged_from` is at most t, so a threshold below what
    was judged is never reached. If a sample leaves out what lies below `judged_from`, accepted and wrong answers are
    more frequent in it than among all calls, and the test is conservative. The sample's answers must be independent.
    Where their risks differ (drift within the sample), the statement is about the mean over the sample's calls
    (Hoeffding 1956, theorem 4).
    Raises BadInputError unless 0 < alpha < 1 and 0 < delta < 1.
    """
    _check_level("alpha", alpha)
    _check_level("delta", delta)
    points = np.unique(np.concatenate([sample.scores, sample.judged_from]))[::-1]
    points = points[np.isfinite(points)]
    counted, wrong = _counts(sample, points)
    allowed = np.array([allowed_wrong(int(n), alpha, delta) for n in counted], dtype=int)
    failed = np.flatnonzero(wrong > allowed)
    passed = int(failed[0]) if len(failed) else len(points)
    threshold = float(points[passed - 1]) if passed else None
    reliability = fit_reliability(sample)
    return describe(sample, _where_likely_right(reliability, threshold), alpha, delta, at_ms, reliability)


def _where_likely_right(steps: Reliability, threshold: float | None) -> float | None:
    """Return the threshold, or the least score above those of which answers were mostly wrong, if that is stricter."""
    unlikely = bisect.bisect_left(steps.p_right, LEAST_P_RIGHT)
    if threshold is None or not unlikely:
        return threshold
    return max(threshold, steps.scores[unlikely]) if unlikely < len(steps.scores) else None


def describe(
    sample: Sample,
    threshold: float | None,
    alpha: float,
    delta: float,
    at_ms: int = 0,
    reliability: Reliability | None = None,
) -> Calibration:
    """Return what the sample says of a threshold, wherever that comes from. `-inf` accepts all, None nothing.

    The limit of the risk holds for `calibrate`'s own threshold, or one chosen without looking at the sample.
    `reliability` is the sample's, where it is fitted already.
    """
    reliability = reliability or fit_reliability(sample)
    tally = tally_of(sample, math.inf if threshold is None else threshold)
    return Calibration(
        threshold=threshold,
        coverage=int(tally.accepted.sum()) / tally.counted if tally.counted else 0.0,
        risk=tally.wrong / tally.counted if tally.counted else 0.0,
        risk_upper=0.0 if threshold is None else upper_limit(tally.wrong, tally.counted, delta),
        quality_if_believed=_quality(reliability, sample.scores[tally.accepted]),
        sample=tally.counted,
        alpha=alpha,
        delta=delta,
        at_ms=at_ms,
        reliability=reliability,
    )


def tally_of(sample: Sample, threshold: float) -> Tally:
    """Return what the sample counts at a threshold; inf accepts nothing."""
    speaks = sample.judged_from <= threshold
    accepted = speaks & (sample.scores >= threshold)
    return Tally(int(speaks.sum()), int((accepted & ~sample.right).sum()), accepted)


def fit_reliability(sample: Sample) -> Reliability:
    """Return P(right | score) by pool-adjacent-violators (Ayer et al. 1955). Choosing by score does not bias it."""
    scored = np.isfinite(sample.scores)
    scores, place = np.unique(sample.scores[scored], return_inverse=True)
    calls = np.bincount(place, minlength=len(scores))
    rights = np.bincount(place, weights=sample.right[scored].astype(float), minlength=len(scores))
    steps: list[tuple[float, float, float]] = []
    for score, right, count in zip(scores.tolist(), rights.tolist(), calls.tolist(), strict=True):
        step = (score, right, float(count))
        while steps and steps[-1][1] * step[2] >= step[1] * steps[-1][2]:
            lower = steps.pop()
            step = (lower[0], lower[1] + step[1], lower[2] + step[2])
        steps.append(step)
    return Reliability(tuple(s for s, _, _ in steps), tuple(right / count for _, right, count in steps))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) <= k), summed from the logarithms of its terms."""
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    j = np.arange(k)
    ratios = np.log((n - j) / (j + 1)) + (math.log(p) - math.log1p(-p))
    terms = n * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(ratios)])
    return float(min(1.0, np.exp(terms).sum()))


@functools.lru_cache(maxsize=4096)
def allowed_wrong(n: int, alpha: float, delta: float) -> int:
    """Return the most accepted-and-wrong answers among n with P(Bin(n, alpha) <= it) <= delta; -1: not even none."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_cdf(middle, n, alpha) <= delta else (low, middle)
    return low


def least_sample(alpha: float, delta: float) -> int:
    """Return the smallest sample that can justify a threshold: one without a wrong answer just passes."""
    return math.ceil(math.log(delta) / math.log1p(-alpha))


def upper_limit(k: int, n: int, delta: float) -> float:
    """Return the exact one-sided upper limit of a share at level 1 - delta (Clopper and Pearson 1934)."""
    low, high = (k / n if n else 0.0), 1.0
    if k >= n:
        return 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(k, n, middle) > delta else (low, middle)
    return high


def _counts(sample: Sample, points: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each t: answers that speak of it, and those of them that are accepted and wrong."""
    could = ~sample.right & np.isfinite(sample.scores)
    wrong_scores, wrong_limits = np.sort(sample.scores[could]), np.sort(sample.judged_from[could])
    counted = np.searchsorted(np.sort(sample.judged_from), points, side="right")
    accepted = len(wrong_scores) - np.searchsorted(wrong_scores, points, side="left")
    silent = len(wrong_limits) - np.searchsorted(wrong_limits, points, side="right")
    return counted, accepted - silent


def _quality(reliability: Reliability, scores: Floats) -> float | None:
    if not len(scores):
        return None
    steps = np.searchsorted(np.array(reliability.scores), scores, side="right") - 1
    return float((np.array(reliability.p_right)[steps].sum() + 0.5) / (len(scores) + 1))


def _check_level(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise BadInputError(f"`{name}` must lie between 0 and 1, and is {value}.")
