"""Why a candidate won or lost, in one sentence with its numbers. Made from a plan's figures, live or recorded."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from .constraints import dollars
from .plan import Estimate


class Weighing(Struct, frozen=True):
    """One decision's figures, as far as an explanation needs them."""

    estimates: Mapping[str, Estimate]
    """Of those that passed the hard limits, by name."""
    chain: tuple[str, ...]
    quality_sla: float
    lam: float = 0.0
    explored: bool = False


def verdict(name: str, weighed: Weighing) -> str:
    """Return why this candidate, which passed the hard limits, was picked or not."""
    one, first = weighed.estimates[name], weighed.estimates[weighed.chain[0]]
    if one is first:
        return _picked(one, weighed)
    lost = _lost(one, first, weighed)
    if name in weighed.chain[1:]:
        return f"step {weighed.chain.index(name) + 1} of the chain, not first: {lost}"
    chance = f"; it had a chance of {one.propensity:.1%}" if one.propensity > 0.0 else ""
    return lost + chance


def _picked(one: Estimate, weighed: Weighing) -> str:
    cost = dollars(one.chain_cost_usd or one.cost_usd)
    if weighed.explored:
        return f"drawn to learn how good it is, with a chance of {one.propensity:.1%}; believed quality {_quality(one)}"
    if not one.chain or len(weighed.estimates) == 1:
        return f"nobody else may answer; quality {_quality(one)}"
    if weighed.lam > 0.0:
        return (
            f"the most quality for the money under the spend ceiling: {_quality(one)} for {cost}, where a cent must "
            f"bring {weighed.lam / 100:.3g}"
        )
    if one.quality >= weighed.quality_sla:
        return f"the least cost that meets {weighed.quality_sla:.2f}: {cost} a call, quality {_quality(one)}"
    return f"the best quality there is, {_quality(one)}; nobody reaches {weighed.quality_sla:.2f}"


def _lost(one: Estimate, first: Estimate, weighed: Weighing) -> str:
    if not one.chain:
        return "no chain that it would head keeps the call's limits"
    if one.quality < weighed.quality_sla and one.quality < first.quality:
        return f"its predicted quality is {_quality(one)}, and {weighed.quality_sla:.2f} is asked for"
    more_usd = one.chain_cost_usd - first.chain_cost_usd
    if weighed.explored and one.value >= first.value:
        return f"better on present beliefs ({_quality(one)} for {dollars(one.chain_cost_usd)}), passed over this once"
    if weighed.lam > 0.0 and one.quality > first.quality and more_usd > 0.0:
        gain = one.quality - first.quality
        return f"{gain:.3f} more quality for {dollars(more_usd)} more: too dear under the spend ceiling"
    if more_usd > 0.0:
        return f"its chain costs {dollars(one.chain_cost_usd)}, {dollars(more_usd)} more than the one picked"
    return f"its chain is worth less: quality {_quality(one)} for {dollars(one.chain_cost_usd)}"


def _quality(one: Estimate) -> str:
    spread = f" ± {one.quality_sd:.2f}" if one.quality_sd > 0.0 else ""
    return f"{one.quality:.2f}{spread} ({one.evidence:.0f} outcome{'' if round(one.evidence) == 1 else 's'})"
