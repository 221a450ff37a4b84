"""The cheapest order in which to try candidates before the last resort: arithmetic on costs and probabilities only.

A chain a_1 ... a_k, last costs  c_1 + (1-p_1)(c_2 + (1-p_2)(... + C))  on average; p is P(its answer is believed).

Order. Swap two neighbours a, b in front of a rest that costs R: a first costs c_a + (1-p_a)c_b + (1-p_a)(1-p_b)R, and b
first c_b + (1-p_b)c_a + (1-p_a)(1-p_b)R. The difference does not hold R, and a belongs first exactly when
c_a/p_a <= c_b/p_b. So every set has its best order by c/p (W. E. Smith's rule, 1956), and a step pays only if c/p is
below what follows it.

Choice. Among at most k of n candidates in that order, F(j, m) = min(F(j+1, m), c_j + (1-p_j) F(j+1, m-1)), F(n, m) = C,
is the least cost: n x k steps.

Beliefs are taken as independent; calls that are hard for all make the true share of escalations somewhat larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

from msgspec import Struct

SEARCHED: Final = 6
"""Candidates among which every chain is weighed when the cheapest chain breaks a limit."""


class Link(Struct, frozen=True, gc=False):
    """A candidate as a step of a chain."""

    name: str
    cost: float
    """US dollars, with what its time is worth."""
    max_cost_usd: float
    latency_p95_ms: float
    p_believed: float
    quality: float
    """P(right | believed)."""
    quality_sd: float = 0.0


class ChainLimits(Struct, frozen=True):
    """What a chain as a whole must hold."""

    max_cost_usd: float
    latency_budget_ms: float
    quality_sla: float
    max_escalations: int
    unlikely: float = 0.05
    """A step reached less often does not count in the p95 latency."""


def expected_cost(chain: Sequence[Link]) -> float:
    """Return what the chain costs on average."""
    cost = 0.0
    for link in reversed(chain):
        cost = link.cost + (1.0 - link.p_believed) * cost
    return cost


def chain_quality(chain: Sequence[Link]) -> float:
    """Return P(right) of what the chain answers; the last one's answer is given whether believed or not."""
    quality = chain[-1].quality
    for link in reversed(chain[:-1]):
        quality = link.p_believed * link.quality + (1.0 - link.p_believed) * quality
    return quality


def chain_p95_ms(chain: Sequence[Link], unlikely: float) -> float:
    """Return the p95s of the steps that a noticeable share of calls reaches, added up."""
    total, reached = 0.0, 1.0
    for link in chain:
        if reached > unlikely:
            total += link.latency_p95_ms
        reached *= 1.0 - link.p_believed
    return total


def p_escalate(chain: Sequence[Link]) -> float:
    """Return the share of calls that go on after the first step; 0 when there is no second."""
    return 1.0 - chain[0].p_believed if len(chain) > 1 else 0.0


def affordable(chain: Sequence[Link], limits: ChainLimits) -> bool:
    """Say whether the whole chain, used to its limits, fits the money and its p95 the time."""
    if sum(link.max_cost_usd for link in chain) > limits.max_cost_usd:
        return False
    return chain_p95_ms(chain, limits.unlikely) <= limits.latency_budget_ms


def cheapest_chain(links: Sequence[Link], last: Link, limits: ChainLimits) -> tuple[Link, ...] | None:
    """Return the cheapest chain that ends in `last` and holds the limits; None when none does.

    Every set is taken in its cheapest order. Exact then, if the cheapest chain of all holds the limits or there are up
    to `SEARCHED` links; beyond that, the best among the `SEARCHED` of the least cost for a believed answer, where those
    that can precede `last` within the limits come first.
    """
    ranked = [(link.cost / link.p_believed, link) for link in links if link.p_believed > 0.0]
    free = _cheapest_unlimited(ranked, last, limits.max_escalations)
    if affordable(free, limits) and chain_quality(free) >= limits.quality_sla:
        return free
    ranked.sort(key=lambda pair: (not affordable((pair[1], last), limits), pair[0]))
    best: tuple[Link, ...] | None = None
    best_cost = float("inf")
    for chain in _chains(ranked[:SEARCHED], last, limits.max_escalations):
        cost = expected_cost(chain)
        if cost < best_cost and chain_quality(chain) >= limits.quality_sla and affordable(chain, limits):
            best, best_cost = chain, cost
    return best


def _cheapest_unlimited(ranked: list[tuple[float, Link]], last: Link, depth: int) -> tuple[Link, ...]:
    """The recursion of the module's docstring, from the dearest useful link to the cheapest."""
    useful = sorted((pair for pair in ranked if pair[0] < last.cost), key=lambda pair: -pair[0])
    costs = [last.cost] * (depth + 1)
    chains: list[tuple[Link, ...]] = [(last,)] * (depth + 1)
    for _, link in useful:
        cost, miss = link.cost, 1.0 - link.p_believed
        for m in range(depth, 0, -1):
            with_link = cost + miss * costs[m - 1]
            if with_link < costs[m]:
                costs[m] = with_link
                chains[m] = (link, *chains[m - 1])
    return chains[depth]


def _chains(ranked: list[tuple[float, Link]], last: Link, depth: int) -> Iterator[tuple[Link, ...]]:
    """Every chain of at most `depth` links before `last`, each set in its best order."""
    links = [link for _, link in sorted(ranked, key=lambda pair: pair[0])]
    for size in range(min(depth, len(links)) + 1):
        for chosen in combinations(links, size):
            yield (*chosen, last)
