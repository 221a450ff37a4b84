"""Finds the tasks in a sample of recorded calls: HDBSCAN, with the agent as a prior.

What the sample taught is a `Layer`: it says of any other call which task it belongs to, or that it knows none. Time and
memory of a fit are bounded by the sample's size. Source: Campello, Moulavi, Sander 2013. It knows calls and numbers of
clusters; files, ids and cards are made elsewhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from pipelines.cluster_features import FeatureModel, FeatureOptions
from pipelines.cluster_nearest import References, references_of
from pipelines.cluster_places import NO_UNIT, NOISE_NUMBER, Places, Settling, unit_of
from pipelines.cluster_space import Matrix
from pipelines.loop_rows import CuratedCall
from registry.errors import EnvironmentFaultError

Progress = Callable[[str], None]

_KNOWN_QUANTILE: Final = 0.005
_KNOWN_SLACK: Final = 0.8


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


class Layer(Struct, frozen=True):
    """What one sample taught: enough to say where another call belongs."""

    features: FeatureModel
    references: References
    units: dict[int, int]
    """Unit to the cluster that all of it belongs to."""
    least_known: float
    """A call of which the model knows less is unlike anything in the sample (`Features.known`)."""
    clusters: int

    def settled(self, units: Sequence[int]) -> NDArray[np.int32]:
        """Return the cluster of each call whose unit belongs to one whole, -1 for the others."""
        return np.array([self.units.get(unit, NOISE_NUMBER) for unit in units], dtype=np.int32)

    def nearest(self, calls: Sequence[CuratedCall]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return cluster (-1 for none) and strength of calls, each by itself."""
        seen = self.features.features(calls)
        numbers, strengths = self.references.nearest(seen.vectors)
        strange = seen.known < self.least_known
        return np.where(strange, NOISE_NUMBER, numbers).astype(np.int32), np.where(strange, 0.0, strengths)


class Taught(Struct, frozen=True):
    """A layer, and what it says of its own sample."""

    layer: Layer
    numbers: NDArray[np.int32]


def fit_layer(sample: Sequence[CuratedCall], options: ClusterOptions) -> Taught:
    """Find the tasks in a sample. The same sample and options give the same layer.

    Raises:
        BadInputError: there is no sample.
        EnvironmentFaultError: hdbscan or scikit-learn is not installed.
    """
    try:
        model, seen = FeatureModel.fit(sample, options.features)
        labels = dense_labels(seen.vectors, options)
    except ImportError as error:
        raise EnvironmentFaultError(
            f"Clustering needs hdbscan and scikit-learn ({error}): pip install 'journeyman[pipelines]'."
        ) from None
    places = Places.of(sample, labels, Settling(options.min_cluster_calls, options.settled_share))
    merged = np.array([places.merged.get(int(label), NOISE_NUMBER) for label in labels], dtype=np.int32)
    units = [unit_of(call) for call in sample]
    numbers = np.array(
        [places.whole.get(unit, int(number)) for unit, number in zip(units, merged, strict=True)], dtype=np.int32
    )
    layer = Layer(
        features=model,
        references=references_of(seen.vectors, numbers, options.least_distance),
        units={unit: place for unit, place in places.whole.items() if unit != NO_UNIT},
        least_known=float(np.quantile(seen.known, _KNOWN_QUANTILE)) * _KNOWN_SLACK,
        clusters=places.clusters,
    )
    return Taught(layer, numbers)


def dense_labels(vectors: Matrix, options: ClusterOptions) -> NDArray[np.int64]:
    """Return HDBSCAN's cluster of each vector, -1 for noise.

    Clusters whose greater parts lie in one component of the single-linkage tree, cut at `least_distance`, are one.
    """
    import hdbscan  # noqa: PLC0415

    least = max(options.min_cluster_calls, int(options.min_cluster_share * len(vectors)))
    if len(vectors) < max(least, 2):
        return np.full(len(vectors), NOISE_NUMBER, dtype=np.int64)
    clusterer = hdbscan.HDBSCAN(
        min_cluster_size=least, min_samples=min(options.min_samples, len(vectors) - 1), core_dist_n_jobs=1
    ).fit(vectors.astype(np.float64))
    fine = np.asarray(clusterer.labels_, dtype=np.int64)
    cut = clusterer.single_linkage_tree_.get_clusters(options.least_distance, min_cluster_size=1)
    near = np.asarray(cut, dtype=np.int64)
    joined = _joined(fine, near)
    found = np.array([joined.get(int(number), NOISE_NUMBER) for number in fine], dtype=np.int64)
    return _filled(found, near)


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
