"""Which of the chains to take: the best value, or now and then another one in order to learn about it.

The value of a chain is  sum over its steps of P(the step answers) min(quality of the step, SLA)  -  lam E[cost].
Quality above the SLA is worth nothing, so with a lam near 0 the best value is the least expected cost among the chains
that meet the SLA, and the best quality where none does. lam is the multiplier of the spend ceiling's constraint, moved
by a pacer; nobody sets it by hand.

Exploration. The qualities are drawn `DRAWS` times from their posteriors; each draw votes for the chain that would be
best if it were true (Thompson, 1933). Votes against the choice of the means are exploration, capped at the policy's
share; specialists with little evidence get a part of that share even without votes. The chain is drawn from the
distribution so made, hence its propensities are exact, given the draws. Knows nothing of candidates or clocks.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from .chains import Link, expected_cost
from .draws import CallDraws, Source
from .learning import LearningPolicy

DRAWS: Final = 64
SURE: Final = 4.0
"""Standard deviations beyond which a draw is not worth waiting for: one in thirty thousand."""
LEAST_LAM: Final = 1e-3
"""A dollar is never worth nothing: this settles ties on quality by cost."""


class Chance(Struct, frozen=True):
    """What a decision draws from, and the spend ceiling's shadow price (quality per US dollar; 0: none binds)."""

    rng: Source
    lam: float = 0.0
    trial_usd: float = math.inf
    """What a trial may be expected to cost beyond the best choice."""


def chance_for(call_id: str, policy: LearningPolicy, lam: float, trial_usd: float = math.inf) -> Chance | None:
    """Return what the decision on one call draws from: the same draws for the same call, so that it can be replayed.

    None when learning is switched off and no ceiling binds: the choice is then the best value, always.
    """
    if not policy.enabled and lam <= 0.0:
        return None
    return Chance(CallDraws(call_id), lam, trial_usd)


class Alternative(Struct, frozen=True, gc=False):
    """A chain that could be taken, by its first step."""

    chain: tuple[Link, ...]
    cost: float
    """Expected US dollars, with what its time is worth."""
    value: float
    unproven: bool = False
    """Its first step is a specialist with too little evidence to be passed over for good."""

    @property
    def first(self) -> Link:
        """The primary."""
        return self.chain[0]


class Selection(Struct, frozen=True):
    """The choice, and how likely each alternative was."""

    index: int
    propensities: tuple[float, ...]
    explored: bool


def alternative(chain: tuple[Link, ...], quality_sla: float, lam: float, *, unproven: bool = False) -> Alternative:
    """Return the chain with its value."""
    cost = expected_cost(chain)
    return Alternative(chain, cost, _worth(chain, quality_sla, 0.0) - max(lam, LEAST_LAM) * cost, unproven)


def select(alternatives: Sequence[Alternative], quality_sla: float, share: float, chance: Chance | None) -> Selection:
    """Return the alternative to take; `share` is the most that may go to others than the best."""
    best = max(range(len(alternatives)), key=lambda index: alternatives[index].value)
    if chance is None or share <= 0.0 or len(alternatives) == 1:
        return _certain(best, len(alternatives))
    propensities = _exploration(alternatives, best, quality_sla, share, chance)
    spread = sum(propensities)
    if spread <= 0.0:
        return _certain(best, len(alternatives))
    propensities[best] = max(0.0, 1.0 - spread)
    drawn = bisect.bisect_right(list(accumulate(propensities)), chance.rng.random())
    if drawn == len(propensities) or propensities[drawn] <= 0.0:  # rounding at the end of the cumulative sum
        drawn = propensities.index(max(propensities))
    return Selection(drawn, tuple(propensities), drawn != best)


def _certain(best: int, count: int) -> Selection:
    return Selection(best, tuple(1.0 if index == best else 0.0 for index in range(count)), False)


def _exploration(
    alternatives: Sequence[Alternative], best: int, quality_sla: float, share: float, chance: Chance
) -> list[float]:
    """The probability of each alternative but the best; their sum is at most `share`."""
    if _settled(alternatives, best, quality_sla, chance.lam):
        votes = [0.0] * len(alternatives)
    else:
        votes = _votes(alternatives, quality_sla, chance)
    reach = alternatives[best].cost + chance.trial_usd
    barred = [index == best or one.cost > reach for index, one in enumerate(alternatives)]
    votes = [0.0 if bar else vote for vote, bar in zip(votes, barred, strict=True)]
    doubt = sum(votes)
    unproven = [float(one.unproven and not bar) for one, bar in zip(alternatives, barred, strict=True)]
    needy = sum(unproven)
    if not needy:
        part = min(1.0, share / doubt) if doubt > 0.0 else 0.0
        return [part * vote for vote in votes]
    if doubt <= 0.0:
        return [share * one / needy for one in unproven]
    return [0.5 * share * (one / needy + vote / doubt) for one, vote in zip(unproven, votes, strict=True)]


def _settled(alternatives: Sequence[Alternative], best: int, quality_sla: float, lam: float) -> bool:
    """Whether the best stays the best though its qualities were `SURE` deviations lower and the others' higher.

    Then no draw would vote against it, and most decisions of a router that knows its traffic need none.
    """
    price = max(lam, LEAST_LAM)
    floor = _worth(alternatives[best].chain, quality_sla, -SURE) - price * alternatives[best].cost
    return all(
        _worth(one.chain, quality_sla, SURE) - price * one.cost <= floor
        for index, one in enumerate(alternatives)
        if index != best
    )


def _worth(chain: tuple[Link, ...], quality_sla: float, deviations: float) -> float:
    """The quality that the SLA asks for, with every step's off its mean by so many deviations."""
    worth, reached = 0.0, 1.0
    for link in chain[:-1]:
        worth += reached * link.p_believed * _capped(link, quality_sla, deviations)
        reached *= 1.0 - link.p_believed
    return worth + reached * _capped(chain[-1], quality_sla, deviations)


def _capped(link: Link, quality_sla: float, deviations: float) -> float:
    return min(max(link.quality + deviations * link.quality_sd, 0.0), quality_sla)


def _votes(alternatives: Sequence[Alternative], quality_sla: float, chance: Chance) -> list[float]:
    """The share of draws in which each alternative has the best value."""
    links = {link.name: link for one in alternatives for link in one.chain}
    worth = chance.rng.standard_normal((DRAWS, len(links))) * np.array([link.quality_sd for link in links.values()])
    worth += np.array([link.quality for link in links.values()])
    np.maximum(worth, 0.0, out=worth)  # `clip` takes longer on few
    np.minimum(worth, quality_sla, out=worth)
    price = max(chance.lam, LEAST_LAM)
    values = worth @ _served(alternatives, list(links)) - np.array([price * one.cost for one in alternatives])
    share: list[float] = (np.bincount(values.argmax(axis=1), minlength=len(alternatives)) / DRAWS).tolist()
    return share


def _served(alternatives: Sequence[Alternative], links: Sequence[str]) -> NDArray[np.float64]:
    """The share of calls that each link answers in each alternative, shape (links, alternatives)."""
    place = {name: index for index, name in enumerate(links)}
    served = np.zeros((len(links), len(alternatives)))
    for column, one in enumerate(alternatives):
        reached = 1.0
        for link in one.chain[:-1]:
            served[place[link.name], column] = reached * link.p_believed
            reached *= 1.0 - link.p_believed
        served[place[one.chain[-1].name], column] = reached
    return served
