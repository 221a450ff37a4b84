"""What a router must beat on an outcome matrix: hindsight policies that cost at most the budget, and a control.

Every baseline is computed exactly, from the whole matrix. It knows arrays; not routers, files or output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.outcomes import Outcomes

_HALVINGS: Final = 200
_RELATIVE_SLACK: Final = 1e-9

Floats = NDArray[np.float64]
Choice = NDArray[np.intp]
"""An arm for each prompt."""


class Baseline(Struct, frozen=True):
    """What a policy earns and costs on average; `shares` is how much of the prompts each arm gets."""

    mean_reward: float
    mean_cost_usd: float
    shares: dict[str, float]
    meets_budget: bool = True
    """False: even the cheapest choice costs more than the budget; the figures are that choice's."""


def best_single(outcomes: Outcomes, budget_usd: float = np.inf) -> Baseline:
    """The one model with the best mean reward among those whose mean cost is within the budget."""
    cost = outcomes.costs_usd.mean(axis=0)
    reward = outcomes.rewards.mean(axis=0)
    affordable = np.flatnonzero(cost <= _loosened(budget_usd))
    if not affordable.size:
        return _mixture(outcomes, _one_hot(len(cost), _cheapest(cost, reward)), meets_budget=False)
    best = min(affordable, key=lambda arm: (-reward[arm], cost[arm]))
    return _mixture(outcomes, _one_hot(len(cost), int(best)))


def static_mix(outcomes: Outcomes, budget_usd: float) -> Baseline:
    """The best mixture of models, blind to the prompt, whose mean cost is at most the budget.

    A linear program with one constraint has an optimum on at most two models: either one that is affordable, or one
    below and one above the budget, mixed to meet it exactly.
    """
    cost = outcomes.costs_usd.mean(axis=0)
    reward = outcomes.rewards.mean(axis=0)
    best = best_single(outcomes, budget_usd)
    if not best.meets_budget:
        return best
    for low in np.flatnonzero(cost <= budget_usd):
        for high in np.flatnonzero(cost > budget_usd):
            upper = (budget_usd - cost[low]) / (cost[high] - cost[low])
            if (1 - upper) * reward[low] + upper * reward[high] > best.mean_reward:
                shares = _one_hot(len(cost), int(low)) * (1 - upper) + _one_hot(len(cost), int(high)) * upper
                best = _mixture(outcomes, shares)
    return best


def oracle(outcomes: Outcomes, budget_usd: float) -> Baseline:
    """The best choice for every prompt with all outcomes known, mean cost at most the budget: nobody can beat it.

    The linear relaxation of the multiple-choice knapsack: for a multiplier lam (reward per dollar) each prompt takes
    argmax(reward - lam * cost). Bisection brackets the critical lam; the choices on its two sides are mixed so that
    the budget is met exactly, which is one fractional prompt where no slopes tie.
    """
    rewards, costs = outcomes.rewards, outcomes.costs_usd
    free = _choices(rewards, costs, 0.0)
    if _mean_of(costs, free) <= _loosened(budget_usd):
        return _chosen(outcomes, free, free, 0.0)
    thrifty: Choice = np.lexsort((-rewards, costs), axis=1)[:, 0]
    if _mean_of(costs, thrifty) > _loosened(budget_usd):
        return _chosen(outcomes, thrifty, thrifty, 0.0, meets_budget=False)
    spending, saving = _bracket(outcomes, budget_usd, free, thrifty)
    above, below = _mean_of(costs, spending), _mean_of(costs, saving)
    return _chosen(outcomes, spending, saving, (above - budget_usd) / (above - below) if above > below else 1.0)


def shuffled(outcomes: Outcomes, shares: Floats, cost_usd: float) -> Baseline:
    """The router's own shares handed out at random, at the router's own cost: what is lost without knowing the prompt.

    Plain shuffling of the decisions over the prompts is the mixture `shares`; over all permutations its expected
    reward and cost are exact. Its cost is not the router's, because a router may give a dear model its cheaper prompts.
    So the shares are moved to the mixture nearest to them (least relative entropy) whose mean cost is `cost_usd`.
    """
    cost = outcomes.costs_usd.mean(axis=0)
    return _mixture(outcomes, tilted(shares, cost, cost_usd))


def random_mix(outcomes: Outcomes, budget_usd: float) -> Baseline:
    """Any model with the same chance, or where that is too dear the most even mixture that meets the budget."""
    cost = outcomes.costs_usd.mean(axis=0)
    even = np.full(len(cost), 1 / len(cost))
    if even @ cost <= budget_usd:
        return _mixture(outcomes, even)
    return _mixture(outcomes, tilted(even, cost, budget_usd), meets_budget=bool(cost.min() <= _loosened(budget_usd)))


def tilted(shares: Floats, cost: Floats, target: float) -> Floats:
    """The mixture of least relative entropy to `shares` with mean cost `target`: shares times exp(-beta * cost).

    Only arms with a share keep one. A target outside their costs gives the nearest arm alone.
    """
    used = np.flatnonzero(shares > 0)
    spread = float(np.ptp(cost[used]))
    if spread <= 0 or np.isclose(shares @ cost, target, rtol=1e-12, atol=0):
        return np.asarray(shares / shares.sum())
    if not cost[used].min() < target < cost[used].max():
        at_end = used[np.abs(cost[used] - target).argmin()]
        return _one_hot(len(cost), int(at_end))
    log_shares, scaled = np.log(shares[used]), (cost[used] - cost[used].min()) / spread
    wanted = (target - cost[used].min()) / spread
    low, high = -1.0, 1.0
    while _softmax(log_shares - low * scaled) @ scaled < wanted:
        low *= 2
    while _softmax(log_shares - high * scaled) @ scaled > wanted:
        high *= 2
    for _ in range(_HALVINGS):
        beta = (low + high) / 2
        low, high = (beta, high) if _softmax(log_shares - beta * scaled) @ scaled > wanted else (low, beta)
    result = np.zeros(len(cost))
    result[used] = _softmax(log_shares - (low + high) / 2 * scaled)
    return result


def shares_array(outcomes: Outcomes, shares: Mapping[str, float]) -> Floats:
    """Shares by name as an array in the order of the arms."""
    return np.array([shares.get(arm, 0.0) for arm in outcomes.arms])


def _bracket(outcomes: Outcomes, budget_usd: float, free: Choice, thrifty: Choice) -> tuple[Choice, Choice]:
    """Choices just above and just below the budget, both optimal at the critical multiplier between them."""
    rewards, costs = outcomes.rewards, outcomes.costs_usd
    spending, saving = free, thrifty
    low, high = 0.0, 1.0
    while _mean_of(costs, _choices(rewards, costs, high)) > budget_usd:
        low, high = high, high * 4
        if not np.isfinite(high):
            return spending, saving
    saving = _choices(rewards, costs, high)
    if low > 0:
        spending = _choices(rewards, costs, low)
    for _ in range(_HALVINGS):
        lam = (low + high) / 2
        if lam in (low, high):
            break
        choice = _choices(rewards, costs, lam)
        if _mean_of(costs, choice) > budget_usd:
            low, spending = lam, choice
        else:
            high, saving = lam, choice
    return spending, saving


def _choices(rewards: Floats, costs: Floats, lam: float) -> Choice:
    """The best arm of each prompt; of equals the cheaper."""
    choice: Choice = np.lexsort((costs, -(rewards - lam * costs)), axis=1)[:, 0]
    return choice


def _mean_of(values: Floats, choice: Choice) -> float:
    return float(np.take_along_axis(values, choice[:, None], axis=1).mean())


def _chosen(
    outcomes: Outcomes, spending: Choice, saving: Choice, saved_share: float, *, meets_budget: bool = True
) -> Baseline:
    count = len(outcomes.arms)
    parts = ((spending, 1 - saved_share), (saving, saved_share))
    shares = sum(weight * np.bincount(choice, minlength=count) / len(choice) for choice, weight in parts)
    return Baseline(
        mean_reward=sum(weight * _mean_of(outcomes.rewards, choice) for choice, weight in parts),
        mean_cost_usd=sum(weight * _mean_of(outcomes.costs_usd, choice) for choice, weight in parts),
        shares=dict(zip(outcomes.arms, np.asarray(shares).tolist(), strict=True)),
        meets_budget=meets_budget,
    )


def _mixture(outcomes: Outcomes, shares: Floats, *, meets_budget: bool = True) -> Baseline:
    return Baseline(
        mean_reward=float(shares @ outcomes.rewards.mean(axis=0)),
        mean_cost_usd=float(shares @ outcomes.costs_usd.mean(axis=0)),
        shares=dict(zip(outcomes.arms, shares.tolist(), strict=True)),
        meets_budget=meets_budget,
    )


def _cheapest(cost: Floats, reward: Floats) -> int:
    return int(np.lexsort((-reward, cost))[0])


def _loosened(budget_usd: float) -> float:
    """A model's mean cost given back as a budget must be affordable after rounding."""
    return budget_usd * (1 + _RELATIVE_SLACK)


def _one_hot(count: int, arm: int) -> Floats:
    return np.asarray(np.eye(count)[arm])


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
