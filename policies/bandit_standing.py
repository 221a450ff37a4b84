"""What of some arms' beliefs in one cluster is the same for every call, worked out once: a call adds its vector.

The formulas are those of `bandit`, with all that no call's vector enters taken out of them. Knows nothing of names, or
of when it must be worked out anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from .bandit_posterior import Posterior, squares_of
from .bandit_sums import Sums
from .learning import LearningPolicy

REWARD: Final = 0
USAGE: Final = 1

TAU: Final = (0.2, 1.0)
"""Spread of an arm's clusters around its regression: in quality, and in log amount."""
USAGE_SEEN_LEAST: Final = 0.5
"""Fewer (faded) amounts than this of an arm, and nothing is expected of its use."""
_NOISE_CALLS: Final = 4.0
"""How many outcomes of the pair the arm's own noise is worth."""
_MOST_LOG_NOISE: Final = 2.0
"""Variance of the log amount above which its mean is not raised any further."""
_KEPT: Final = 256
"""Clusters whose standings are kept."""
_HOLDS: Final = 1e-6
"""Share of a half-life for which what was worked out counts as of now: half a second of a week's."""

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
S = TypeVar("S")


class Place(Struct, frozen=True, eq=False):
    """Whose beliefs, and as of when."""

    rows: Rows
    """Of the arms."""
    cluster: int
    """Its row; 0 for one that nothing was seen of."""
    is_named: bool
    """False: calls of no known cluster, so only the regression speaks."""
    scale: float
    """What an outcome of now counts in the sums' units."""


class QualityStanding(Struct, frozen=True, eq=False):
    """Of P(right); an entry or row an arm."""

    rows: Rows
    linear: Array
    """Coefficients, and under them what a call's distance from the cluster's centre needs; shape (2k, d)."""
    squares: Array
    """Covariances, as `squares_of` a vector is multiplied by them."""
    noise_of_arm: Array
    spread: float
    noise: Array
    weight: Array
    """Outcomes and prior together."""
    pull: Array
    """Their mean, less what the regression says at the cluster's centre."""
    held: Array
    """The share of them that pulls towards a fixed value, not away from the regression."""
    own: Array
    """The share of them that are outcomes about the cluster's centre."""
    centre_variance: Array
    evidence: list[float]

    def at(self, x: Array) -> tuple[Array, Array]:
        """Return each arm's mean and variance on a call of this vector."""
        found = self.linear @ x
        at_x, crossed = found[: len(self.noise)], found[len(self.noise) :]
        var_x = self.noise_of_arm * (self.squares @ squares_of(x))
        spread = var_x + self.spread
        share = spread * self.weight
        share /= share + self.noise
        own = share * self.own
        mean = at_x + share * (self.pull - self.held * at_x)
        return mean, spread * (1.0 - share) + own * own * (var_x - crossed + self.centre_variance)


class UsageStanding(Struct, frozen=True, eq=False):
    """Of the log amount; an entry or row an arm."""

    rows: Rows
    coefficients: Array
    kept: Array
    """How much of the regression's prediction counts."""
    added: Array
    is_seen: list[bool]

    def at(self, x: Array) -> Array:
        """Return each arm's log amount on a call of this vector, raised to the logarithm of the mean amount."""
        return self.kept * (self.coefficients @ x) + self.added


class _Kept(Struct, Generic[S], frozen=True, eq=False):
    """A standing, and what it holds for."""

    arms: list[str]
    priors: list[float | None]
    solved: int
    at_h: float
    standing: S


class Standings:
    """Those of the latest clusters, each worked out when it is needed and something that it stood on has changed."""

    def __init__(self, sums: Sums, posterior: Posterior, policy: LearningPolicy) -> None:
        self._sums = sums
        self._posterior = posterior
        self._prior_calls = policy.prior_calls
        self._holds_h = _HOLDS * policy.half_life_h
        self._quality: dict[str, _Kept[QualityStanding]] = {}
        self._usage: dict[str, _Kept[UsageStanding]] = {}
        self._squares: tuple[list[str], int, Array] = ([], -1, np.zeros((0, 0)))

    def quality(
        self, arms: Sequence[str], cluster: str, priors: Sequence[float | None], now_h: float
    ) -> QualityStanding:
        """Return what is known of these arms in this cluster; `priors` as `Bandit.beliefs` is given them."""
        arms, priors = list(arms), list(priors)
        kept = self._quality.get(cluster)
        if kept is not None and self._still_holds(kept, REWARD, arms, now_h) and kept.priors == priors:
            return kept.standing
        place = self._place(arms, cluster, now_h)
        given = np.array([0.0 if prior is None else prior for prior in priors])
        worth = np.array([0.0 if prior is None else self._prior_calls for prior in priors])
        made = quality_standing(self._sums, self._posterior, place, self._squares_of(arms, place), (given, worth))
        _keep(self._quality, cluster, _Kept(arms, priors, self._posterior.solved[REWARD], now_h, made))
        return made

    def usage(self, arms: Sequence[str], cluster: str, now_h: float) -> UsageStanding:
        """Return what is known of what these arms use in this cluster."""
        arms = list(arms)
        kept = self._usage.get(cluster)
        if kept is not None and self._still_holds(kept, USAGE, arms, now_h):
            return kept.standing
        made = usage_standing(self._sums, self._posterior, self._place(arms, cluster, now_h))
        _keep(self._usage, cluster, _Kept(arms, [], self._posterior.solved[USAGE], now_h, made))
        return made

    def learned(self, cluster: str, head: int) -> None:
        """An outcome was counted in this cluster."""
        if cluster:
            self._quality.pop(cluster, None)
            self._usage.pop(cluster, None)
        if head == REWARD:  # calls of no cluster see the arm's outcomes of all clusters for their evidence
            self._quality.pop("", None)

    def _still_holds(self, kept: _Kept[Any], head: int, arms: list[str], now_h: float) -> bool:
        is_fresh = abs(now_h - kept.at_h) <= self._holds_h and kept.solved == self._posterior.solved[head]
        return is_fresh and kept.arms == arms

    def _place(self, arms: list[str], cluster: str, now_h: float) -> Place:
        rows = np.array([self._sums.arms.get(arm, 0) for arm in arms], dtype=np.intp)
        self._posterior.keep_fresh(rows, now_h)
        return Place(rows, self._sums.clusters.get(cluster, 0), bool(cluster), self._sums.scale(now_h))

    def _squares_of(self, arms: list[str], place: Place) -> Array:
        """The same for all clusters, so there is one copy of them."""
        known, solved, squares = self._squares
        if known != arms or solved != self._posterior.solved[REWARD]:
            squares = self._posterior.squares[place.rows]
            self._squares = arms, self._posterior.solved[REWARD], squares
        return squares


def _keep(kept: dict[str, _Kept[S]], cluster: str, one: _Kept[S]) -> None:
    if len(kept) >= _KEPT and cluster not in kept:
        kept.pop(next(iter(kept)))
    kept[cluster] = one


def quality_standing(
    sums: Sums, posterior: Posterior, place: Place, squares: Array, priors: tuple[Array, Array]
) -> QualityStanding:
    """Return it as of now. `squares` are the posterior's; `priors` are values, and what each is worth in outcomes."""
    rows, (given, prior_calls) = place.rows, priors
    pair = sums.pairs[place.cluster, rows, REWARD] / place.scale
    coefficients, noise = posterior.coefficients[rows, REWARD], posterior.noise[rows, REWARD]
    calls, total, weight = pair[:, 0], pair[:, 1], pair[:, 0] + prior_calls
    centre = _centre(sums, place.cluster)
    if centre is None:  # outcomes of another vector: they are taken to lie where the call does
        held, own, at_centre, crossed = weight, 0.0 * calls, 0.0 * calls, np.zeros_like(coefficients)
    else:
        held, own, at_centre = prior_calls, calls, coefficients @ centre
        crossed = noise[:, None] * (posterior.covariance[rows] @ centre)
    shared = np.maximum(weight, 1e-12)
    evidence = calls if place.is_named else sums.design[rows, REWARD, 0, 0] / place.scale
    return QualityStanding(
        rows=rows,
        linear=np.concatenate((coefficients, 2.0 * crossed)),
        squares=squares,
        noise_of_arm=noise,
        spread=TAU[REWARD] ** 2 if place.is_named else 0.0,
        noise=_noise(pair, prior_calls, given, noise),
        weight=weight,
        pull=(total - calls * at_centre + prior_calls * given) / shared,
        held=held / shared,
        own=own / shared,
        centre_variance=0.0 * calls if centre is None else crossed @ centre,
        evidence=evidence.tolist(),
    )


def usage_standing(sums: Sums, posterior: Posterior, place: Place) -> UsageStanding:
    """Return it as of now."""
    rows = place.rows
    pair = sums.pairs[place.cluster, rows, USAGE] / place.scale
    coefficients = posterior.coefficients[rows, USAGE]
    noise = np.minimum(_own_noise(pair, posterior.noise[rows, USAGE]), _MOST_LOG_NOISE)
    calls, total = pair[:, 0], pair[:, 1]
    share = 1.0 / (calls + noise / TAU[USAGE] ** 2)
    centre = _centre(sums, place.cluster)
    # The mean of a log-normal amount lies above the exponential of its mean logarithm.
    added = share * total + noise / 2.0
    return UsageStanding(
        rows=rows,
        coefficients=coefficients,
        kept=1.0 - share * calls if centre is None else np.ones(len(rows)),
        added=added if centre is None else added - share * calls * (coefficients @ centre),
        is_seen=(sums.design[rows, USAGE, 0, 0] / place.scale >= USAGE_SEEN_LEAST).tolist(),
    )


def _centre(sums: Sums, cluster: int) -> Array | None:
    """The cluster's mean vector; None where none is known."""
    centre = sums.centre[cluster]
    return centre / centre[0] if centre[0] > 0.0 else None


def _noise(pair: Array, prior_calls: Array, given: Array, noise_of_arm: Array) -> Array:
    """Variance of one outcome of each pair: its own, the arm's while the pair is new; never above m (1 - m).

    That bound holds for every variable within 0 and 1 (Bhatia and Davis, 2000); m is drawn to 1/2 by one outcome.
    """
    own = _own_noise(pair, noise_of_arm)
    calls = pair[:, 0]
    mean = (pair[:, 1] + prior_calls * given + 0.5) / (calls + prior_calls + 1.0)
    return np.minimum(own, np.maximum(mean * (1.0 - mean), 1e-6))


def _own_noise(pair: Array, noise_of_arm: Array) -> Array:
    """Variance of the pair's outcomes about their mean, drawn to the arm's while they are few."""
    calls = pair[:, 0]
    unexplained = np.maximum(pair[:, 2] - pair[:, 1] ** 2 / np.maximum(calls, 1e-12), 0.0)
    return np.asarray((_NOISE_CALLS * noise_of_arm + unexplained) / (_NOISE_CALLS + calls))
