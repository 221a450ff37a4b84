"""Fits a `TextEmbedder` on texts: the vocabulary, its weights, and the truncated SVD. The same texts, the same numbers.

scikit-learn fits, numpy serves: the features are made by the code that serves them. Knows nothing of where texts come
from or of their classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from registry.errors import BadInputError
from specialists.embedder import TextEmbedder, Vocabulary, weigh
from specialists.words import words_of

Progress = Callable[[str], None]

_SEED: Final = 20_260_101


class EmbedderOptions(Struct, frozen=True):
    """What a fit may use."""

    max_words: int = 20_000
    max_pairs: int = 20_000
    min_texts: int = 2
    """A word or pair must occur in so many different texts: one caller's words stay out of the vocabulary."""


def fit_embedder(
    texts: Iterable[str],
    dimension: int,
    options: EmbedderOptions | None = None,
    progress: Progress = lambda line: None,
) -> TextEmbedder:
    """Fit an embedder on the texts; equal texts count once. Holds all words of all texts in memory.

    The dimension is lowered to what so few texts or words can carry.

    Raises:
        BadInputError: no two texts with a word in common, or a dimension below 1.
    """
    options = options or EmbedderOptions()
    if dimension < 1:
        raise BadInputError(f"An embedding has at least 1 dimension, not {dimension}.", param="dimension")
    cut = [words for words in map(words_of, dict.fromkeys(texts)) if words]
    vocabulary = _vocabulary(cut, options)
    if not len(vocabulary):
        raise BadInputError(f"{len(cut)} different texts share no word; an embedder needs more of them.")
    progress(f"embedder: {len(cut)} texts, {len(vocabulary.words)} words, {len(vocabulary.pairs)} pairs")
    features = [vocabulary.features_of(vocabulary.numbers_of(words)) for words in cut]
    idf = _idf(features, len(vocabulary))
    facts = {"fitted_on_texts": len(cut), "min_texts": options.min_texts}
    components = _components(features, idf, dimension)
    progress(f"embedder: {components.shape[1]} dimensions")
    return TextEmbedder(vocabulary, idf, components, facts)


def _vocabulary(cut: Sequence[list[str]], options: EmbedderOptions) -> Vocabulary:
    words = _most_common(Counter(word for text in cut for word in set(text)), options.max_words, options.min_texts)
    alone = Vocabulary(sorted(words), np.empty(0, dtype=np.int64))
    counted: Counter[int] = Counter()
    for text in cut:
        counted.update(set(alone.codes_of(alone.numbers_of(text)).tolist()))
    pairs = _most_common(counted, options.max_pairs, options.min_texts)
    return Vocabulary(alone.words, np.array(sorted(pairs), dtype=np.int64))


def _most_common(counted: Counter[Any], limit: int, at_least: int) -> list[Any]:
    """Return the most common keys; of equally common ones the smaller, so that no order of texts matters."""
    enough = [(-count, key) for key, count in counted.items() if count >= at_least]
    return [key for _, key in sorted(enough)[:limit]]


def _idf(features: Sequence[NDArray[np.int64]], size: int) -> NDArray[np.float32]:
    """Smoothed inverse document frequency: log((1 + n) / (1 + df)) + 1."""
    found = np.bincount(np.concatenate([np.unique(one) for one in features]), minlength=size)
    weights: NDArray[np.float32] = (np.log((1 + len(features)) / (1 + found)) + 1).astype(np.float32)
    return weights


def _components(features: Sequence[NDArray[np.int64]], idf: NDArray[np.float32], dimension: int) -> NDArray[np.float16]:
    """Rows of the projection, one a feature: the leading right singular vectors of the normed TF-IDF matrix."""
    from scipy.sparse import csr_matrix  # noqa: PLC0415  - heavy, and only a fit needs it
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415

    ids, weights, ends = [], [], [0]
    for one in features:
        found, weight = weigh(one, idf)
        ids.append(found)
        weights.append(weight / max(float(np.sqrt(weight @ weight)), 1e-12))
        ends.append(ends[-1] + len(found))
    shape = (len(features), len(idf))
    matrix = csr_matrix((np.concatenate(weights), np.concatenate(ids), np.array(ends)), shape=shape)
    rank = min(dimension, min(shape) - 1)
    if rank < 1:
        return np.ones((len(idf), 1), dtype=np.float16)
    svd = TruncatedSVD(rank, random_state=_SEED).fit(matrix)
    return np.asarray(svd.components_.T, dtype=np.float16)
