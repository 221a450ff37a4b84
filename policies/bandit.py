"""What each arm is believed to be worth on a call: a Bayesian posterior of quality and an expectation of its use.

Two levels an arm. A linear regression on the call's vector knows kinds of calls in general; a random intercept of each
(arm, cluster) knows what the arm is worth on just this task:

    y = b_arm . x + u_(arm, cluster) + noise,   b ~ N(b0, noise / ridge),   u ~ N(0, tau^2)

With many outcomes in the cluster the belief is that cluster's mean, with none it is the regression's prediction or the
registry's eval score, which counts as `prior_calls` outcomes. What an arm's latest outcomes say beyond that is added
(`bandit_drift`). The intercept is estimated from residuals at the
cluster's mean vector, so that all sums are additive (empirical Bayes in the manner of Robinson, "That BLUP is a good
thing", 1991). Outcomes fade by half-life: discounted linear regression (Russac, Vernade, Cappe, "Weighted linear
bandits for non-stationary environments", 2019). Pure: no I/O, no clock; the caller brings the time in hours, or in
whatever unit the half-life is in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from registry.errors import BadInputError

from .bandit_drift import remember
from .bandit_posterior import Posterior
from .bandit_standing import REWARD, TAU, USAGE, Standings
from .bandit_state import BanditState
from .bandit_sums import Sums
from .learning import LearningPolicy

MOST_SD: Final = 0.5
"""No variable within 0 and 1 scatters more."""

Array = NDArray[np.float64]


class Context(Struct, frozen=True, eq=False):
    """What the bandit sees of a call."""

    vector: NDArray[np.floating]
    """Shape (d,), first entry 1.0, the rest of about unit length."""
    cluster: str
    """Empty: of no known cluster, so only the regression speaks."""


class Belief(Struct, frozen=True, gc=False):
    """What is believed of an arm on a call."""

    mean: float
    """Predicted P(right), 0 to 1."""
    sd: float
    """Of the posterior of that probability."""
    evidence: float
    """Faded outcomes of this arm in this cluster; for a call of no cluster, in all."""


class Bandit:
    """Posteriors of many arms over many clusters; `features` names the version of the vector."""

    def __init__(self, policy: LearningPolicy, features: str, dimension: int) -> None:
        if dimension < 1:
            raise BadInputError(f"The vector's dimension is {dimension}; it must be at least 1.")
        self._policy = policy
        self._features = features
        self._dimension = dimension
        self._own = self._empty()
        self._all = self._own
        """Own and absorbed sums; the same object as `_own` while nothing was absorbed."""
        self._believe(0.0)

    def _empty(self) -> Sums:
        return Sums(self._dimension, self._policy.half_life_h)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the sums and posteriors take."""
        sums = {id(self._own): self._own.nbytes, id(self._all): self._all.nbytes}
        return sum(sums.values()) + self._posterior.nbytes

    def beliefs(
        self, arms: Sequence[str], context: Context, priors: Sequence[float | None], now_h: float
    ) -> list[Belief]:
        """Return one belief an arm; `priors` are the registry's eval scores for this cluster, None where unmeasured."""
        x = self._vector(context)
        standing = self._standings.quality(arms, context.cluster, priors, now_h)
        mean, variance = standing.at(x)
        shift, shift_variance = self._posterior.shift_of(standing.rows, REWARD)
        mean += shift
        variance += shift_variance
        sd = np.sqrt(np.maximum(variance, 0.0))
        mean, sd = np.minimum(np.maximum(mean, 0.0), 1.0), np.minimum(sd, MOST_SD)
        return [Belief(*values) for values in zip(mean.tolist(), sd.tolist(), standing.evidence, strict=True)]

    def learn(self, arm: str, context: Context, reward: float, now_h: float, weight: float = 1.0) -> None:
        """Count an outcome: `reward` 0 to 1; `weight` below 1 for one that is known less surely."""
        if not 0.0 <= reward <= 1.0:
            raise BadInputError(f"The reward of {arm} is {reward}; it must lie between 0 and 1.")
        if self._policy.enabled:
            self._learn(arm, context, REWARD, (reward, now_h, weight))

    def usage(self, arms: Sequence[str], context: Context, now_h: float) -> list[float | None]:
        """Return the expected amount of each arm on this call; None where too little was seen."""
        standing = self._standings.usage(arms, context.cluster, now_h)
        mean = standing.at(self._vector(context)) + self._posterior.shift_of(standing.rows, USAGE)[0]
        amounts = np.exp(np.minimum(mean, 700.0)).tolist()
        return [amount if known else None for amount, known in zip(amounts, standing.is_seen, strict=True)]

    def learn_usage(self, arm: str, context: Context, amount: float, now_h: float) -> None:
        """Count what a call used: a positive amount, of the same unit for all arms."""
        if not 0.0 < amount < np.inf:
            raise BadInputError(f"The amount used by {arm} is {amount}; it must be a positive number.")
        self._learn(arm, context, USAGE, (float(np.log(amount)), now_h, 1.0))

    def keep_only(self, arms: Collection[str]) -> None:
        """Forget all other arms: they are retired."""
        self._posterior.keep_rows(self._all.keep_only(arms))
        if self._own is not self._all:
            self._own.keep_only(arms)
        self._standings = Standings(self._all, self._posterior, self._policy)

    def state(self, now_h: float) -> BanditState:
        """Return what this router itself has seen, faded to `now_h`."""
        return self._own.state(self._features, now_h)

    def restore(self, state: BanditState) -> None:
        """Take a state for this router's own, in place of what it has seen.

        Of a state with other features the outcomes by cluster and the arms' totals are kept, the regressions dropped.
        """
        self._own = self._all = self._empty()
        self._own.include(state, self._features)
        self._believe(state.now_h)

    def absorb(self, others: Sequence[BanditState], now_h: float) -> None:
        """Believe other routers too. `others` replace what was absorbed before; `state` never holds them.

        Solves every arm anew, a few tenths of a millisecond each: not on the way of a call.
        """
        self._all = self._own
        if others:
            self._all = self._empty()
            for state in (self._own.state(self._features, now_h), *others):
                ahead = state.now_h > now_h  # its clock is: its outcomes are no newer than now
                self._all.include(structs.replace(state, now_h=now_h) if ahead else state, self._features)
        self._believe(now_h)

    def _believe(self, now_h: float) -> None:
        self._posterior = Posterior(self._all, self._policy.half_life_h, now_h)
        self._standings = Standings(self._all, self._posterior, self._policy)

    def _learn(self, arm: str, context: Context, head: int, outcome: tuple[float, float, float]) -> None:
        y, now_h, weight = outcome
        x = self._vector(context)
        if not (0.0 < weight < np.inf and np.isfinite(x).all()):
            raise BadInputError(f"An outcome of {arm} has weight {weight} or a vector that is not finite: not counted.")
        of_cluster, certainty = self._of_cluster(arm, context.cluster, head, now_h)
        for sums in (self._own,) if self._all is self._own else (self._own, self._all):
            row, cluster = sums.arm_row(arm), sums.cluster_row(context.cluster)
            sums.add(row, cluster, x, head, y, weight * sums.weight_of(now_h))
            remember(sums.late[row, head], x, y - of_cluster, weight * certainty)
        self._posterior.learned(row, head, now_h)
        self._standings.learned(context.cluster, head)

    def _of_cluster(self, arm: str, cluster: str, head: int, now_h: float) -> tuple[float, float]:
        """How much better the arm is known to be in the cluster than in general: that is no change.

        And how much of an outcome's scatter is chance, 0 to 1; the rest is that this is not known well.
        """
        if not cluster:
            return 0.0, 1.0
        row, at = self._all.arms.get(arm, 0), self._all.clusters.get(cluster, 0)
        calls, total, _ = (self._all.pairs[at, row, head] / self._all.scale(now_h)).tolist()
        noise = max(float(self._posterior.noise[row, head]), 1e-6)
        spread = TAU[head] ** 2 * noise / (noise + calls * TAU[head] ** 2)
        if calls <= 0.0:
            return 0.0, noise / (noise + spread)
        centre = self._all.centre[at]
        in_general = float(self._posterior.coefficients[row, head] @ centre) / centre[0] if centre[0] > 0.0 else 0.0
        return (total - calls * in_general) / (calls + noise / TAU[head] ** 2), noise / (noise + spread)

    def _vector(self, context: Context) -> Array:
        if context.vector.shape != (self._dimension,):
            shape = context.vector.shape
            raise BadInputError(
                f"The call's vector has shape {shape}; features `{self._features}` have {self._dimension}."
            )
        return context.vector.astype(np.float64, copy=False)
