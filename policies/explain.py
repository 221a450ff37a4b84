"""Why a candidate won or lost, in one sentence with its numbers. Made from a plan's figures, live or recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from .constraints import dollars, just_below
from .plan import Estimate

_LEAST_USD: Final = 1e-12
"""Differences below it are rounding."""
_UNAFFORDABLE_LAM: Final = 1e9


class Weighing(Struct, frozen=True):
    """One decision's figures, as far as an explanation needs them."""

    estimates: Mapping[str, Estimate]
    """Of those that passed the hard limits, by name."""
    chain: tuple[str, ...]
    quality_sla: float
    lam: float = 0.0
    explored: bool = False
    named: bool = False
    """The caller asked for the model by name."""


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
    if weighed.named:
        return f"asked for by name; quality {_quality(one)}"
    if not one.chain:
        return f"picked; quality {_quality(one)}"
    if len(weighed.estimates) == 1:
        return f"nobody else may answer or is good enough; quality {_quality(one)}"
    if weighed.lam > 0.0:
        return (
            f"the most quality for the money under the spend ceiling: {_quality(one)} for {cost}, {_price(weighed.lam)}"
        )
    if one.quality >= weighed.quality_sla:
        return f"the least cost that meets {weighed.quality_sla:.2f}: {cost} a call, quality {_quality(one)}"
    return f"the best quality there is, {_quality(one)}; nobody reaches {weighed.quality_sla:.2f}"


def _lost(one: Estimate, first: Estimate, weighed: Weighing) -> str:
    if not first.chain:  # a record from before chains were kept
        return f"passed over; quality {_quality(one)}"
    if not one.chain:
        return "no chain that it would head keeps the call's limits"
    if one.quality < weighed.quality_sla and one.quality < first.quality:
        quality = just_below(one.quality, weighed.quality_sla)
        return f"its predicted quality is {quality}{_grounds(one)}, and {weighed.quality_sla:.2f} is asked for"
    more_usd = one.chain_cost_usd - first.chain_cost_usd
    if abs(more_usd) < _LEAST_USD:
        more_usd = 0.0
    if weighed.explored and one.value >= first.value:
        return f"better on present beliefs ({_quality(one)} for {dollars(one.chain_cost_usd)}), passed over this once"
    if weighed.lam > 0.0 and one.quality > first.quality and more_usd > 0.0:
        gain = one.quality - first.quality
        return f"{gain:.3f} more quality for {dollars(more_usd)} more: too dear under the spend ceiling"
    if more_usd > 0.0:
        return f"its chain costs {dollars(one.chain_cost_usd)}, {dollars(more_usd)} more than the one picked"
    if more_usd == 0.0 and one.quality >= min(first.quality, weighed.quality_sla):
        return f"as dear and good enough, but slower or later in the chain: quality {_quality(one)}"
    return f"its chain is worth less: quality {_quality(one)} for {dollars(one.chain_cost_usd)}"


def _price(lam: float) -> str:
    """What the ceiling makes of a cent; at some price only the cheapest is left."""
    if lam >= _UNAFFORDABLE_LAM:
        return "where nothing but the cheapest can be afforded"
    a_cent = lam / 100
    if a_cent < 1e-4:
        return "where a cent must bring next to nothing"
    return f"where a cent must bring {a_cent:,.0f}" if a_cent >= 100 else f"where a cent must bring {a_cent:.3g}"


def _quality(one: Estimate) -> str:
    return f"{one.quality:.2f}{_grounds(one)}"


def _grounds(one: Estimate) -> str:
    spread = f" ± {one.quality_sd:.2f}" if one.quality_sd > 0.0 else ""
    return f"{spread} ({one.evidence:.0f} outcome{'' if round(one.evidence) == 1 else 's'})"
