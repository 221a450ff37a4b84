"""Where another call belongs: with its nearest neighbour among a few thousand places that stand for the sample.

hdbscan's own `approximate_predict` needs the whole clusterer, which can only be pickled, and looks through the whole
sample for each call. This needs two arrays, which can be kept and checked. It knows vectors and numbers of clusters.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.cluster_places import NOISE_NUMBER
from pipelines.cluster_space import Matrix

MOST_REFERENCES: Final = 4_000
_FIRST_RADIUS: Final = 0.05
_GROWTH: Final = 1.5
_CELLS: Final = 4_000_000
"""Distances that are held at once: 16 MiB."""


class References(Struct, frozen=True):
    """Places in the space of the features, and the cluster that each belongs to."""

    vectors: Matrix
    numbers: NDArray[np.int32]
    """-1: what is here belongs to no cluster."""
    distance: float
    """Further away than this, a call belongs to none."""

    def nearest(self, vectors: Matrix) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the cluster of each call, -1 for none, and the strength: 1 at a reference, 0 at the distance."""
        numbers = np.full(len(vectors), NOISE_NUMBER, dtype=np.int32)
        strengths = np.zeros(len(vectors), dtype=np.float32)
        if not len(self.vectors):
            return numbers, strengths
        squares = np.einsum("ij,ij->i", self.vectors, self.vectors)
        step = max(1, _CELLS // len(self.vectors))
        for start in range(0, len(vectors), step):
            rows = vectors[start : start + step]
            at = np.argmin(squares - 2.0 * (rows @ self.vectors.T), axis=1)
            away = np.linalg.norm(rows - self.vectors[at], axis=1)
            near = away <= self.distance
            numbers[start : start + step] = np.where(near, self.numbers[at], NOISE_NUMBER)
            strengths[start : start + step] = np.where(near, 1.0 - away / self.distance, 0.0)
        strengths[numbers == NOISE_NUMBER] = 0.0
        return numbers, strengths


def references_of(vectors: Matrix, numbers: NDArray[np.int32], distance: float) -> References:
    """Return references that stand for all the vectors: each has one of its own cluster within a small radius."""
    radius = _FIRST_RADIUS
    groups = [np.flatnonzero(numbers == one) for one in np.unique(numbers)]
    while True:
        kept = np.concatenate([np.empty(0, np.int64), *(_cover(vectors, group, radius) for group in groups)])
        if len(kept) <= MOST_REFERENCES or radius >= distance:
            return References(np.ascontiguousarray(vectors[kept]), numbers[kept].astype(np.int32), distance)
        radius *= _GROWTH


def _cover(vectors: Matrix, places: NDArray[np.int64], radius: float) -> NDArray[np.int64]:
    """Return some of the places such that each has one of them within the radius; one too many ends it."""
    kept: list[int] = []
    while len(places) and len(kept) <= MOST_REFERENCES:
        kept.append(int(places[0]))
        away = vectors[places] - vectors[places[0]]
        places = places[np.einsum("ij,ij->i", away, away) > radius * radius]
    return np.array(kept, dtype=np.int64)
