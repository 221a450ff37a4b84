"""What of an arm has changed of late: a shift of its regression's level, read off its latest outcomes.

Beside the slow sums of an arm stand three short memories that fade by the arm's own outcomes, so that they mean the
same at ten calls an hour and at ten thousand, and an arm that is not tried keeps its level. A memory is a sum of
weighted vectors and one of outcomes: the mean residual of late follows for whatever regression holds now, and memories
of several routers add up.

From the longest memory to the shortest, what the longer ones left unexplained counts by how likely it is a change and
no chance: the posterior mean under a spike at zero and a normal slab (Mitchell, Beauchamp, "Bayesian variable selection
in linear regression", 1988). So a price that falls to a tenth is believed after a few bills, a quality that falls by
little after some dozens of outcomes, and noise hardly ever. Knows nothing of clusters or of time.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[np.float64]

MEMORIES: Final = (64.0, 16.0, 4.0)
"""Half-lives, in outcomes of the arm."""
SLAB: Final = (0.1, 1.0)
"""How far an arm moves that has changed, by head: in quality, and in log amount."""
P_CHANGED: Final = (0.002, 0.01)
"""Before anything is seen, by head. More in quality, and false alarms overspend a ceiling by 1 % now and then."""
LEAST_NOISE: Final = (0.11, 0.0)
"""Variance of one outcome, by head, that a leap is measured against at least. An arm that was always right has hardly
any of its own, and one complaint would be a revolution; so a handful in a row is what outweighs a thousand."""
_FADE: Final = 2.0 ** (-1.0 / np.array(MEMORIES))
_MOST_EXPONENT: Final = 50.0


class Shift(Struct, frozen=True, gc=False):
    """How much higher an arm is of late than its regression says."""

    mean: float
    variance: float
    """Of the mean, were the change certain, and of whether there is one."""


def remember(late: Array, vector: Array, y: float, weight: float) -> None:
    """Count an outcome in the memories of one arm and head, shape (memories, d + 1): w x, then w y."""
    late *= (_FADE if weight == 1.0 else _FADE**weight)[:, None]
    late[:, :-1] += weight * vector
    late[:, -1] += weight * y


def shift(late: Array, coefficients: Array, noise: float, head: int) -> Shift:
    """Return what the memories say beyond the regression; `noise` is the variance of one outcome."""
    weights = late[:, 0].tolist()
    residuals = (late[:, -1] - late[:, :-1] @ coefficients).tolist()
    slab, mean, variance = SLAB[head] ** 2, 0.0, 0.0
    noise = max(noise, LEAST_NOISE[head])
    prior_odds = P_CHANGED[head] / (1.0 - P_CHANGED[head])
    for weight, residual in zip(weights, residuals, strict=True):
        if weight <= 0.0:
            break
        beyond, of_chance = residual / weight - mean, noise / weight
        share = slab / (slab + of_chance)
        exponent = min(_MOST_EXPONENT, 0.5 * share * beyond * beyond / of_chance)
        odds = prior_odds * math.sqrt(1.0 - share) * math.exp(exponent)
        # A leap that is believed is not shrunk: the slab is as wide as what is seen asks for (empirical Bayes).
        share = max(share, 1.0 - of_chance / max(beyond * beyond, of_chance))
        likely = odds / (1.0 + odds)
        mean += likely * share * beyond
        variance = likely * share * (of_chance + (1.0 - likely) * share * beyond * beyond)
    return Shift(mean, variance)
