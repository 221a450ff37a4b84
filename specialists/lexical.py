"""How well the words of a text fit each cluster: naive Bayes over words and word pairs, stored sparsely.

Only the features that a cluster was seen to use are stored, so thousands of clusters fit into a few MB; a text costs
what its words' posting lists cost, and of a long text the rarest words count. Smoothed with a Dirichlet prior (Zhai and
Lafferty 2004). Knows nothing of thresholds.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

MAX_FEATURES: Final = 256
"""Of a longer text the rarest features are looked at: they say most and their lists are short."""

SMOOTHING: Final = 3.0
"""The Dirichlet prior: every cluster counts as if it had also been seen with this many times the features of a mean
cluster, spread like those of the whole traffic."""

LEAST_PRIOR: Final = 3_000.0
"""The least prior, in features: in small clusters a pair that occurred once by chance must not outweigh the topic."""


class LexicalScore(Struct, frozen=True):
    """What the words say."""

    sums: NDArray[np.float64]
    """log P(features | cluster) / P(features | the whole traffic), shape (clusters,)."""
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
        totals = np.asarray(counts.sum(axis=0)).ravel()
        of_feature = np.asarray(counts.sum(axis=1)).ravel() + 1.0
        background = of_feature / of_feature.sum()
        prior = max(SMOOTHING * float(totals.mean()), LEAST_PRIOR)
        expected = prior * np.repeat(background, np.diff(counts.indptr))
        return cls(
            {
                "starts": counts.indptr,
                "clusters": counts.indices,
                "gains": np.log1p(counts.data / expected),
                "floor": np.log(prior / (totals + prior)),
                "background": np.log(background).astype(np.float32),
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
            count=len(features),
            words=int(np.count_nonzero(features < self._word_count)),
            hit_clusters=hit,
            hit_is_word=np.repeat(features < self._word_count, lengths),
        )
