"""How well the words of a text fit each cluster: a multinomial naive Bayes over words and word pairs, stored sparsely.

Only the features that a cluster was seen to use are stored, so thousands of clusters fit into a few MB; a text costs
what its words' posting lists cost, and of a long text the rarest words count. Knows nothing of thresholds.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

MAX_FEATURES: Final = 256
"""Of a longer text the rarest features are looked at: they say most and their lists are short."""

SMOOTHING: Final = 0.3
"""What is added to every count (Lidstone)."""


class LexicalScore(Struct, frozen=True):
    """What the words say. `sums` is log P(features | cluster), shape (clusters,)."""

    sums: NDArray[np.float64]
    background: float
    """log P(features | any cluster)."""
    count: int
    """Features looked at."""
    words: int
    """Of these, single words."""
    hit_clusters: NDArray[np.int64]
    """One entry for each (feature, cluster that uses it)."""
    hit_is_word: NDArray[np.bool_]


class LexicalModel:
    """Posting lists: `starts` delimits, for each feature, its part of `clusters` and `gains`."""

    def __init__(self, arrays: dict[str, NDArray[Any]], word_count: int) -> None:
        self.starts = arrays["starts"].astype(np.int64)
        self.clusters = arrays["clusters"].astype(np.int64)
        self.gains = arrays["gains"].astype(np.float32)
        self.floor = arrays["floor"].astype(np.float64)
        self.background = arrays["background"].astype(np.float64)
        self._word_count = word_count

    @classmethod
    def of_counts(cls, counts: Any, word_count: int) -> LexicalModel:
        """Make the model from a scipy CSR matrix: texts of each cluster (columns) that hold each feature (rows)."""
        size = counts.shape[0]
        totals = np.asarray(counts.sum(axis=0)).ravel() + SMOOTHING * size
        of_feature = np.asarray(counts.sum(axis=1)).ravel() + SMOOTHING
        return cls(
            {
                "starts": counts.indptr,
                "clusters": counts.indices,
                "gains": np.log1p(counts.data / SMOOTHING),
                "floor": np.log(SMOOTHING / totals),
                "background": np.log(of_feature / of_feature.sum()).astype(np.float32),
            },
            word_count,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored."""
        return {
            "starts": self.starts,
            "clusters": self.clusters.astype(np.uint32),
            "gains": self.gains,
            "floor": self.floor,
            "background": self.background.astype(np.float32),
        }

    def score(self, features: NDArray[np.int64]) -> LexicalScore:
        """Score the different features of a text against every cluster."""
        if len(features) > MAX_FEATURES:
            rarest = np.argpartition(self.background[features], MAX_FEATURES)[:MAX_FEATURES]
            features = np.sort(features[rarest])
        starts = self.starts[features]
        lengths = self.starts[features + 1] - starts
        ends = np.cumsum(lengths)
        at = np.repeat(starts - ends + lengths, lengths) + np.arange(int(ends[-1]) if len(ends) else 0)
        hit = self.clusters[at]
        gained = np.bincount(hit, weights=self.gains[at], minlength=len(self.floor))
        return LexicalScore(
            sums=gained + len(features) * self.floor,
            background=float(self.background[features].sum()),
            count=len(features),
            words=int(np.count_nonzero(features < self._word_count)),
            hit_clusters=hit,
            hit_is_word=np.repeat(features < self._word_count, lengths),
        )
