"""The learner's sums in memory: dense arrays with a row an arm and a row a cluster, which grow as names turn up.

Row 0 of either belongs to nobody: an arm or a cluster that was never seen reads zeros there. The sums are kept in the
units of `origin_h`: an outcome of time t counts 2 ** ((t - origin) / half-life), so forgetting costs nothing until the
factor grows large. Knows nothing of priors or of posteriors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .bandit_drift import MEMORIES
from .bandit_state import HEADS, PAIR_SUMS, BanditState

Array = NDArray[np.float64]

MAX_CLUSTERS: Final = 20_000
"""Beyond it the cluster with the fewest (faded) outcomes is forgotten."""
_RESCALE_ABOVE: Final = 2.0**40


class Sums:
    """Weighted sums of outcomes by arm, and by pair of arm and cluster."""

    def __init__(self, dimension: int, half_life_h: float, max_clusters: int = MAX_CLUSTERS) -> None:
        self.dimension = dimension
        self.arms: dict[str, int] = {}
        self.clusters: dict[str, int] = {}
        self._half_life_h = half_life_h
        self._max_clusters = max_clusters
        self._origin_h: float | None = None
        self._latest_h = 0.0
        """Of the outcomes counted."""
        self._allocate(2, 8)

    def _allocate(self, arm_rows: int, cluster_rows: int) -> None:
        d = self.dimension
        self.design: Array = np.zeros((arm_rows, HEADS, d, d))
        self.moment: Array = np.zeros((arm_rows, HEADS, d))
        self.square: Array = np.zeros((arm_rows, HEADS))
        self.late: Array = np.zeros((arm_rows, HEADS, len(MEMORIES), d + 1))
        """Short memories, which fade by the arm's outcomes: not in the units of `origin_h`."""
        self.centre: Array = np.zeros((cluster_rows, d))
        self.calls: Array = np.zeros(cluster_rows)
        self.pairs: Array = np.zeros((cluster_rows, arm_rows, HEADS, PAIR_SUMS))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, room for what is yet to come included."""
        arrays = (self.design, self.moment, self.square, self.late, self.centre, self.calls, self.pairs)
        return sum(array.nbytes for array in arrays)

    def scale(self, now_h: float) -> float:
        """Return what an outcome of now counts in the sums' units; divide sums by it to read them as of now.

        Where outcomes were counted more than a half-life later than now, the clock was wrong then, or is now: taken as
        they are they would outweigh everything else for ever, so the latest of them become outcomes of now.
        """
        if self._origin_h is None:
            return 1.0
        if self._latest_h - now_h > self._half_life_h:
            self._origin_h -= self._latest_h - now_h
            self._latest_h = now_h
        return self._scale_at(now_h, self._origin_h)

    def _scale_at(self, now_h: float, origin_h: float) -> float:
        return float(2.0 ** min(1000.0, (now_h - origin_h) / self._half_life_h))

    def add(self, arm: int, cluster: int, vector: Array, head: int, y: float, weight: float) -> None:
        """Count one outcome; `weight` is already in the sums' units (`weight_of`). `cluster` 0: of no cluster."""
        weighted = weight * vector
        self.design[arm, head] += weighted[:, None] * vector
        self.moment[arm, head] += y * weighted
        self.square[arm, head] += weight * y * y
        if cluster:
            self.centre[cluster] += weighted
            self.calls[cluster] += weight
            pair = self.pairs[cluster, arm, head]
            pair[0] += weight
            pair[1] += weight * y
            pair[2] += weight * y * y

    def weight_of(self, now_h: float) -> float:
        """Return `scale(now_h)`, after moving the origin when the factor has grown large."""
        if self._origin_h is None:
            self._origin_h = self._latest_h = now_h
        scale = self.scale(now_h)
        self._latest_h = max(self._latest_h, now_h)
        if scale > _RESCALE_ABOVE:
            for array in (self.design, self.moment, self.square, self.centre, self.calls, self.pairs):
                np.divide(array, scale, out=array)
            self._origin_h, scale = now_h, 1.0
        return scale

    def arm_row(self, name: str) -> int:
        """Return the arm's row, made when it is new."""
        row = self.arms.get(name)
        if row is None:
            row = self.arms[name] = len(self.arms) + 1
            if row >= len(self.square):
                self._grow(_roomier(row), len(self.centre))
        return row

    def cluster_row(self, name: str) -> int:
        """Return the cluster's row, made when it is new; 0 for the cluster without a name."""
        if not name:
            return 0
        row = self.clusters.get(name)
        if row is None:
            row = len(self.clusters) + 1
            if row > self._max_clusters:
                row = self._forget_least()
            elif row >= len(self.centre):
                self._grow(len(self.square), min(_roomier(row), self._max_clusters + 1))
            self.clusters[name] = row
        return row

    def _forget_least(self) -> int:
        row = 1 + int(np.argmin(self.calls[1 : self._max_clusters + 1]))
        del self.clusters[next(name for name, taken in self.clusters.items() if taken == row)]
        self.centre[row] = 0.0
        self.calls[row] = 0.0
        self.pairs[row] = 0.0
        return row

    def _grow(self, arm_rows: int, cluster_rows: int) -> None:
        design, moment, square = self.design, self.moment, self.square
        centre, calls, pairs, late = self.centre, self.calls, self.pairs, self.late
        self._allocate(arm_rows, cluster_rows)
        arms, clusters = len(square), len(calls)
        self.late[:arms] = late
        self.design[:arms], self.moment[:arms], self.square[:arms] = design, moment, square
        self.centre[:clusters], self.calls[:clusters], self.pairs[:clusters, :arms] = centre, calls, pairs

    def keep_only(self, arms: Collection[str]) -> list[int]:
        """Drop every other arm; return the old rows that stayed, in the order of the new ones."""
        kept = [name for name in self.arms if name in arms]
        rows = [0, *(self.arms[name] for name in kept)]
        if len(rows) == len(self.arms) + 1 and len(rows) == len(self.square):
            return rows
        self.design, self.moment, self.square = self.design[rows], self.moment[rows], self.square[rows]
        self.late, self.pairs = self.late[rows], np.ascontiguousarray(self.pairs[:, rows])
        self.arms = {name: row for row, name in enumerate(kept, start=1)}
        return rows

    def state(self, features: str, now_h: float) -> BanditState:
        """Return the sums as of now, as a value that shares no memory with them."""
        scale = self.scale(now_h)
        a, c = len(self.arms) + 1, len(self.clusters) + 1
        seen = self.pairs[1:c, 1:a]
        index = np.argwhere(seen[:, :, :, 0].any(axis=2))
        return BanditState(
            features=features,
            now_h=now_h,
            arms=_by_row(self.arms),
            clusters=_by_row(self.clusters),
            design=self.design[1:a] / scale,
            moment=self.moment[1:a] / scale,
            square=self.square[1:a] / scale,
            late=self.late[1:a].copy(),
            centre=self.centre[1:c] / scale,
            pair_index=index.astype(np.int32),
            pairs=seen[index[:, 0], index[:, 1]] / scale,
        )

    def include(self, state: BanditState, features: str) -> None:
        """Add another's sums. Of a state with other features only what needs no vector: pairs and arms' totals."""
        if self._origin_h is None:
            self._origin_h = self._latest_h = state.now_h
        scale = self._scale_at(state.now_h, self._origin_h)
        self._latest_h = max(self._latest_h, state.now_h)
        self._make_room(state)
        arms = _rows(state.arms, self.arm_row)
        clusters = _rows(state.clusters, self.cluster_row)
        # Above the most clusters the newest took the place of others: what lost its place again is left out.
        known = np.array([self.clusters.get(name) for name in state.clusters], dtype=np.float64) == clusters
        if state.features == features and state.dimension == self.dimension:
            self.design[arms] += scale * state.design
            self.moment[arms] += scale * state.moment
            self.late[arms] += state.late
            self.centre[clusters[known]] += scale * state.centre[known]
        else:
            self.design[arms, :, 0, 0] += scale * state.design[:, :, 0, 0]
            self.moment[arms, :, 0] += scale * state.moment[:, :, 0]
        self.square[arms] += scale * state.square
        fits = known[state.pair_index[:, 0]]
        cluster_rows, arm_rows = clusters[state.pair_index[fits, 0]], arms[state.pair_index[fits, 1]]
        added = scale * state.pairs[fits]
        self.pairs[cluster_rows, arm_rows] += added
        np.add.at(self.calls, cluster_rows, added[:, :, 0].sum(axis=1))

    def _make_room(self, state: BanditState) -> None:
        """For all names of a state at once, exactly."""
        arms = 1 + len(self.arms.keys() | set(state.arms))
        clusters = 1 + min(self._max_clusters, len(self.clusters.keys() | set(state.clusters)))
        if arms > len(self.square) or clusters > len(self.centre):
            self._grow(max(arms, len(self.square)), max(clusters, len(self.centre)))


def _roomier(row: int) -> int:
    """Rows to have when this one is needed: growing by a quarter keeps copying rare and idle room small."""
    return row + 8 + row // 4


def _by_row(rows: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(rows, key=rows.__getitem__))


def _rows(names: Sequence[str], row_of: Callable[[str], int]) -> NDArray[np.intp]:
    return np.array([row_of(name) for name in names], dtype=np.intp)
