"""Where an agent's calls belong: what the sample says of an agent outweighs what it says of a single call.

Calls of one agent (one fixed part) with one kind of answer are a unit. A unit belongs together unless it clearly
splits; several units may be one task. It knows calls and numbers of clusters; nothing of vectors.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.cluster_source import NO_AGENT, agent_of
from pipelines.cluster_tokens import KINDS, answer_keys, kind_of
from pipelines.loop_rows import CuratedCall

NOISE_NUMBER: Final = -1
NO_UNIT: Final = 0
_SPREAD: Final = 0x9E3779B97F4A7C15
_64_BITS: Final = 2**64 - 1


class Unit(Struct, frozen=True):
    """Calls of one agent with one kind of answer, as the sample shows them."""

    name: int
    calls: int
    shares: Mapping[int, int]
    """Cluster to calls in the sample, noise among them."""


class Look(Struct, frozen=True):
    """A cluster of the sample."""

    calls: int
    keys: frozenset[str]
    """JSON keys that half of its answers have; none for tool calls, since one agent has many tools."""


class Settling(Struct, frozen=True):
    """When a unit belongs together."""

    min_calls: int
    """Least calls of a cluster of its own."""
    settled_share: float
    """Of what is not noise, so much must lie in one cluster."""


class Places:
    """Which clusters are one, and which units belong to a cluster whole."""

    def __init__(self, whole: Mapping[int, int], merged: Mapping[int, int], clusters: int) -> None:
        self.whole = whole
        """Unit to the cluster that all of it belongs to."""
        self.merged = merged
        """HDBSCAN's number to ours."""
        self.clusters = clusters

    @classmethod
    def of(cls, sample: Sequence[CuratedCall], labels: NDArray[np.int64], settling: Settling) -> Places:
        """Decide by HDBSCAN's labels of a sample."""
        units, looks = _units(sample, labels), _looks(sample, labels)
        same = {number: number for number in looks if number != NOISE_NUMBER}
        for unit in units:
            _merge(unit, same, looks)
        whole, own = {}, max(same, default=-1) + 1
        for unit in sorted(units, key=lambda one: one.name):
            place = _place_of(unit, same, settling.settled_share)
            if place is None and unit.calls >= settling.min_calls and unit.shares.get(NOISE_NUMBER, 0) > unit.calls / 2:
                place, own = own, own + 1
                same[place] = place
            if place is not None:
                whole[unit.name] = place
        kept = {number: at for at, number in enumerate(sorted(set(same.values())))}
        merged = {number: kept[target] for number, target in same.items()}
        return cls({name: merged[place] for name, place in whole.items()}, merged, len(kept))


def unit_of(call: CuratedCall, agent: int | None = None) -> int:
    """Return 64 bits that name the call's unit, `NO_UNIT` when its agent is not known. `agent`: `agent_of` the call."""
    agent = agent_of(call) if agent is None else agent
    return (agent + (1 + KINDS.index(kind_of(call))) * _SPREAD) & _64_BITS if agent != NO_AGENT else NO_UNIT


def _merge(unit: Unit, same: dict[int, int], looks: Mapping[int, Look]) -> None:
    """Make one of the clusters that a unit fell into, unless its answers look different there.

    A cluster that is mostly others' is left alone: the unit only strays into it.
    """
    own = [
        number for number, calls in unit.shares.items() if number != NOISE_NUMBER and 2 * calls > looks[number].calls
    ]
    for other in own[1:]:
        if _alike(looks[own[0]].keys, looks[other].keys):
            old, new = same[other], same[own[0]]
            same.update({number: new for number, target in same.items() if target == old})


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Return whether answers share a key, or have none: then the clusters differ in their texts alone."""
    return not one or not other or bool(one & other)


def _place_of(unit: Unit, same: Mapping[int, int], settled_share: float) -> int | None:
    found: Counter[int] = Counter()
    for number, calls in unit.shares.items():
        if number != NOISE_NUMBER:
            found[same[number]] += calls
    if not found:
        return None
    place, calls = max(found.items(), key=lambda item: (item[1], -item[0]))
    return place if calls >= settled_share * found.total() and 2 * found.total() >= unit.calls else None


def _units(sample: Sequence[CuratedCall], labels: NDArray[np.int64]) -> list[Unit]:
    shares: dict[int, Counter[int]] = defaultdict(Counter)
    for call, label in zip(sample, labels.tolist(), strict=True):
        if name := unit_of(call):
            shares[name][label] += 1
    return [Unit(name, found.total(), found) for name, found in shares.items()]


def _looks(sample: Sequence[CuratedCall], labels: NDArray[np.int64]) -> dict[int, Look]:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for call, label in zip(sample, labels.tolist(), strict=True):
        found[label].update(answer_keys(call) if kind_of(call) == "json" else ())
    sizes = Counter(labels.tolist())
    return {
        number: Look(sizes[number], frozenset(key for key, count in keys.items() if 2 * count >= sizes[number]))
        for number, keys in found.items()
    }
