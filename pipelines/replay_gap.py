"""RouteLLM's measures of a router between a weak and a strong model (arXiv:2406.18665, section 2).

Performance gap recovered, PGR = (reward - weak's) / (strong's - weak's), against the share of calls to the strong
model. APGR is its mean over shares 0..1; CPT(x) the least share at which PGR reaches x. It knows points of a curve, not
where they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from pipelines.outcomes import Outcomes

_ROUNDING: Final = 1e-12


class GapRecovered(Struct, frozen=True):
    """`apgr` 0..1, random gives 0.5; `cpt50` and `cpt80` are shares of calls, random gives 0.5 and 0.8."""

    apgr: float
    cpt50: float
    cpt80: float


RANDOM = GapRecovered(apgr=0.5, cpt50=0.5, cpt80=0.8)
"""A coin's curve is the straight line from the weak to the strong model."""


class ModelPair(Struct, frozen=True):
    """The two models of a file, by mean reward."""

    weak: str
    strong: str
    weak_reward: float
    strong_reward: float


def model_pair(outcomes: Outcomes) -> ModelPair | None:
    """Which of two models is the strong one; None for other counts, or where the better one is not the dearer."""
    if len(outcomes.arms) != 2:
        return None
    reward = outcomes.rewards.mean(axis=0)
    cost = outcomes.costs_usd.mean(axis=0)
    strong = int(reward.argmax())
    weak = 1 - strong
    if reward[strong] <= reward[weak] or cost[strong] <= cost[weak]:
        return None
    return ModelPair(outcomes.arms[weak], outcomes.arms[strong], float(reward[weak]), float(reward[strong]))


def gap_recovered(pair: ModelPair, points: Sequence[tuple[float, float]]) -> GapRecovered:
    """The measures of a curve given as (share of strong calls, mean reward) at any shares.

    Between points it is linear, and it starts at the weak model's reward and ends at the strong model's, as every
    router's does. Points at the same share are averaged.
    """
    anchored = [(0.0, pair.weak_reward), *points, (1.0, pair.strong_reward)]
    shares = np.array(sorted({share for share, _ in anchored}))
    rewards = np.array([np.mean([reward for at, reward in anchored if at == share]) for share in shares])
    recovered = (rewards - pair.weak_reward) / (pair.strong_reward - pair.weak_reward)
    return GapRecovered(
        apgr=float(np.trapezoid(recovered, shares)),
        cpt50=_first_crossing(shares, recovered, 0.5),
        cpt80=_first_crossing(shares, recovered, 0.8),
    )


def _first_crossing(shares: np.ndarray, recovered: np.ndarray, level: float) -> float:
    after = int(np.argmax(recovered >= level - _ROUNDING))
    if after == 0:
        return float(shares[0])
    below, above = recovered[after - 1], recovered[after]
    return float(shares[after - 1] + (level - below) / (above - below) * (shares[after] - shares[after - 1]))
