"""Finds the tasks in recorded calls: HDBSCAN on a sample, `approximate_predict` for the rest, the agent as a prior.

Calls of one agent (one fixed part) with one kind of answer are a unit. A unit belongs together unless it clearly
splits; several units may be one task. The sample is taken by the digest of the call's id, so that the next run on
more calls takes mostly the same ones. Time and memory grow about linearly: the calls are read three times and held a
batch at a time; of each stay some 40 bytes. Source: Campello, Moulavi, Sander 2013; prediction: hdbscan's.
It knows calls and numbers of clusters; ids and cards are made elsewhere.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from pipelines.cluster_features import FeatureModel, FeatureOptions, answer_keys, fixed_key_of, kind_of
from pipelines.loop_rows import CuratedCall
from registry.errors import BadInputError, EnvironmentFaultError

Source = Callable[[], Iterable[CuratedCall]]
"""Yields the same calls in the same order each time."""
Progress = Callable[[str], None]

NOISE_NUMBER: Final = -1
_BATCH: Final = 4_096
_NO_AGENT: Final = ""


class ClusterOptions(Struct, frozen=True):
    """How tasks are told apart."""

    sample: int = 20_000
    """Calls that HDBSCAN sees."""
    min_cluster_calls: int = 20
    """Least calls of a cluster, in the sample."""
    min_cluster_share: float = 0.002
    """The same as a share of the sample; the greater of the two holds."""
    min_samples: int = 5
    """Neighbours that make a place dense (HDBSCAN's `min_samples`)."""
    least_distance: float = 0.5
    """Clusters nearer than this are one."""
    settled_share: float = 0.8
    """A unit of which so large a part, of what is not noise, lies in one cluster belongs to it whole."""
    features: FeatureOptions = field(default_factory=FeatureOptions)


class Found(Struct, frozen=True):
    """What was found. Call i of the source has `numbers[i]` (-1 for noise) and `strengths[i]` in 0..1."""

    numbers: NDArray[np.int32]
    strengths: NDArray[np.float32]
    clusters: int
    sample: int
    """Calls that HDBSCAN saw."""


class Unit(Struct, frozen=True):
    """Calls of one agent with one kind of answer, as the sample shows them."""

    name: str
    calls: int
    shares: Mapping[int, int]
    """Cluster to calls in the sample, noise among them."""


class Look(Struct, frozen=True):
    """A cluster of the sample."""

    calls: int
    keys: frozenset[str]
    """JSON keys that half of its answers have; none for tool calls, since one agent has many tools."""


def find_clusters(source: Source, options: ClusterOptions | None = None, progress: Progress = lambda _: None) -> Found:
    """Find the tasks among the calls of a source. The same calls and options give the same clusters.

    Raises:
        BadInputError: fewer calls than a cluster needs.
        EnvironmentFaultError: hdbscan or scikit-learn is not installed.
    """
    options = options or ClusterOptions()
    agents = _agents(source)
    if len(agents) < options.min_cluster_calls:
        raise BadInputError(
            f"{len(agents)} calls are too few to find tasks in: a cluster needs {options.min_cluster_calls}."
            " Record more traffic or lower --min-calls."
        )
    chosen = choose_sample(agents, options.sample)
    progress(f"cluster: {len(agents)} calls, of which {int(chosen.sum())} are looked at closely")
    sample = [call for call, is_chosen in zip(source(), chosen, strict=True) if is_chosen]
    try:
        model = FeatureModel.fit(sample, options.features)
        progress("cluster: features are fitted")
        dense = Dense(model.vectors(sample), options)
    except ImportError as error:
        raise EnvironmentFaultError(
            f"Clustering needs hdbscan and scikit-learn ({error}): pip install 'journeyman[pipelines]'."
        ) from None
    labels = dense.labels
    places = Places.of(_units(sample, labels), _looks(sample, labels), options)
    progress(f"cluster: {places.clusters} tasks in the sample")
    return _assigned(source, len(agents), Fitted(model, dense, places, len(sample)), progress)


class Places:
    """Where units belong: what the sample says of a unit outweighs what it says of a single call."""

    def __init__(self, whole: Mapping[str, int], merged: Mapping[int, int], clusters: int) -> None:
        self.whole = whole
        """Unit to the cluster that all of it belongs to."""
        self.merged = merged
        """HDBSCAN's number to ours."""
        self.clusters = clusters

    @classmethod
    def of(cls, units: Sequence[Unit], looks: Mapping[int, Look], options: ClusterOptions) -> Places:
        """Decide which clusters are one, and which units belong to a cluster whole."""
        least = options.min_cluster_calls
        same = {number: number for number in looks if number != NOISE_NUMBER}
        for unit in units:
            _merge(unit, same, looks)
        whole, own = {}, max(same, default=-1) + 1
        for unit in sorted(units, key=lambda one: one.name):
            place = _place_of(unit, same, options.settled_share)
            if place is None and unit.calls >= least and unit.shares.get(NOISE_NUMBER, 0) > unit.calls / 2:
                place, own = own, own + 1
                same[place] = place
            if place is not None:
                whole[unit.name] = place
        kept = {number: at for at, number in enumerate(sorted(set(same.values())))}
        merged = {number: kept[target] for number, target in same.items()}
        return cls({name: merged[place] for name, place in whole.items()}, merged, len(kept))


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


class Fitted(Struct, frozen=True):
    """What the sample taught."""

    model: FeatureModel
    dense: Dense
    places: Places
    sample: int


def _assigned(source: Source, calls: int, fitted: Fitted, progress: Progress) -> Found:
    numbers = np.full(calls, NOISE_NUMBER, dtype=np.int32)
    strengths = np.zeros(calls, dtype=np.float32)
    done, told = 0, 0
    for batch in _batches(source()):
        found, strength = _of_batch(batch, fitted)
        numbers[done : done + len(batch)], strengths[done : done + len(batch)] = found, strength
        done += len(batch)
        if done * 10 // calls > told:
            told = done * 10 // calls
            progress(f"cluster: {done} of {calls} calls assigned")
    used, places = np.unique(numbers, return_inverse=True)
    noise = int(used[0] == NOISE_NUMBER)
    # A place whose units were all settled elsewhere has no calls: numbers are made to follow each other again.
    return Found((places - noise).astype(np.int32), strengths, len(used) - noise, fitted.sample)


def _of_batch(batch: Sequence[CuratedCall], fitted: Fitted) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Assign the calls of settled units by their unit, the others one by one."""
    places = fitted.places
    numbers = np.array([places.whole.get(_unit_name(call), NOISE_NUMBER) for call in batch], dtype=np.int32)
    strengths = (numbers != NOISE_NUMBER).astype(np.float32)
    open_ones = np.flatnonzero(numbers == NOISE_NUMBER)
    if len(open_ones) and places.merged:
        found, strength = fitted.dense.predict(fitted.model.vectors([batch[at] for at in open_ones.tolist()]))
        numbers[open_ones] = [places.merged.get(int(number), NOISE_NUMBER) for number in found]
        strengths[open_ones] = strength
    return numbers, strengths


class Dense:
    """HDBSCAN's clusters of the sample, those nearer than `least_distance` joined, and where another call belongs.

    The joining is done here: hdbscan's own (`cluster_selection_epsilon`) is unknown to its `approximate_predict`, which
    then gives wrong numbers.
    """

    def __init__(self, vectors: NDArray[np.float32], options: ClusterOptions) -> None:
        import hdbscan  # noqa: PLC0415

        least = max(options.min_cluster_calls, int(options.min_cluster_share * len(vectors)))
        self._distance = options.least_distance
        self._clusterer = hdbscan.HDBSCAN(
            min_cluster_size=least, min_samples=options.min_samples, core_dist_n_jobs=1, prediction_data=True
        ).fit(vectors.astype(np.float64))
        fine = np.asarray(self._clusterer.labels_, dtype=np.int64)
        cut = self._clusterer.single_linkage_tree_.get_clusters(self._distance, min_cluster_size=1)
        near = np.asarray(cut, dtype=np.int64)
        self._joined = _joined(fine, near)
        self.labels = _filled(self._of_fine(fine), near)
        """Cluster of each call of the sample, -1 for noise."""

    def predict(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return cluster and strength of other calls. One that is noise by itself goes with its nearest neighbour."""
        import hdbscan  # noqa: PLC0415

        places = vectors.astype(np.float64)
        fine, strength, nearest = hdbscan.approximate_predict(self._clusterer, places, return_connecting_points=True)
        nearest = np.asarray(nearest, dtype=np.int64)
        found = self._of_fine(np.asarray(fine, dtype=np.int64))
        between = np.linalg.norm(self._clusterer.prediction_data_.raw_data[nearest] - places, axis=1)
        lost = (found == NOISE_NUMBER) & (between <= self._distance)
        strengths = np.where(lost, np.maximum(0.0, 1.0 - between / max(self._distance, 1e-9)), strength)
        return np.where(lost, self.labels[nearest], found), strengths.astype(np.float32)

    def _of_fine(self, fine: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._joined.get(int(number), NOISE_NUMBER) for number in fine], dtype=np.int64)


def _joined(fine: NDArray[np.int64], near: NDArray[np.int64]) -> dict[int, int]:
    """Return of each fine cluster the one it is joined to: all whose greater part lies in one component are one."""
    owners: dict[int, int] = {}
    joined: dict[int, int] = {}
    for number in range(int(fine.max(initial=NOISE_NUMBER)) + 1):
        components, counts = np.unique(near[fine == number], return_counts=True)
        at = int(np.argmax(counts))
        whole = 2 * int(counts[at]) > int(counts.sum())
        joined[number] = owners.setdefault(int(components[at]), number) if whole else number
    return joined


def _filled(labels: NDArray[np.int64], near: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labels, noise taken for what the rest of its component is."""
    filled = labels.copy()
    known = labels != NOISE_NUMBER
    owners: dict[int, Counter[int]] = defaultdict(Counter)
    for component, label in zip(near[known].tolist(), labels[known].tolist(), strict=True):
        owners[component][label] += 1
    for at in np.flatnonzero(~known).tolist():
        if found := owners.get(int(near[at])):
            filled[at] = found.most_common(1)[0][0]
    return filled


def choose_sample(agents: Sequence[tuple[int, int]], size: int) -> NDArray[np.bool_]:
    """Return which calls are looked at, given each call's (agent's number, rank by digest).

    All when they are few; otherwise no agent gets more than its fair share, so that a busy one leaves room for others.
    """
    table = np.asarray(agents, dtype=np.uint64)
    if len(table) <= size:
        return np.ones(len(table), dtype=bool)
    order = np.lexsort((table[:, 1], table[:, 0]))
    _, starts, counts = np.unique(table[order, 0], return_index=True, return_counts=True)
    places = np.empty(len(table), dtype=np.int64)
    places[order] = np.arange(len(table)) - np.repeat(starts, counts)
    cap = _fair_share(counts, size)
    chosen = places < cap
    left = size - int(chosen.sum())
    if left > 0:
        at_cap = np.flatnonzero(places == cap)
        chosen[at_cap[np.argsort(table[at_cap, 1])[:left]]] = True
    return chosen


def _fair_share(counts: NDArray[np.int64], size: int) -> int:
    """Return the most that one may have so that all together have at most `size`."""
    low, high = 0, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= size else (low, middle - 1)
    return low


def _agents(source: Source) -> list[tuple[int, int]]:
    numbers: dict[str, int] = {}
    return [(numbers.setdefault(fixed_key_of(call), len(numbers)), rank_of(call.call_id)) for call in source()]


def rank_of(call_id: str) -> int:
    """Return 64 bits of a digest of a call's id: the order in which calls are sampled."""
    return int.from_bytes(hashlib.blake2b(call_id.encode(), digest_size=8).digest(), "big")


def _unit_name(call: CuratedCall) -> str:
    agent = fixed_key_of(call)
    return f"{agent} {kind_of(call)}" if agent != _NO_AGENT else _NO_AGENT


def _units(sample: Sequence[CuratedCall], labels: NDArray[np.int64]) -> list[Unit]:
    shares: dict[str, Counter[int]] = defaultdict(Counter)
    for call, label in zip(sample, labels, strict=True):
        if name := _unit_name(call):
            shares[name][int(label)] += 1
    return [Unit(name, found.total(), found) for name, found in shares.items()]


def _looks(sample: Sequence[CuratedCall], labels: NDArray[np.int64]) -> dict[int, Look]:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for call, label in zip(sample, labels, strict=True):
        found[int(label)].update(answer_keys(call) if kind_of(call) == "json" else ())
    sizes = Counter(labels.tolist())
    return {
        number: Look(sizes[number], frozenset(key for key, count in keys.items() if 2 * count >= sizes[number]))
        for number, keys in found.items()
    }


def _batches(calls: Iterable[CuratedCall]) -> Iterator[list[CuratedCall]]:
    iterator = iter(calls)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
