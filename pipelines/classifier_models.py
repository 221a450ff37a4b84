"""The models inside a learned classifier, fitted in closed form: the same calls give the same numbers.

The embedder and the naive Bayes come from counts, the linear discriminant from means and a shared covariance. How they
are mixed and when the answer is `unknown` is calibrated elsewhere. Knows nothing of where calls come from.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.classifier_rows import LabelledCall
from pipelines.fit_embedder import EmbedderOptions, fit_embedder
from registry.errors import BadInputError
from registry.identifiers import UNKNOWN_CLUSTER
from specialists.classifier import SIGNS, LearnedClassifier, Mixture, Models, Settings, UnknownHead
from specialists.contexts import ContextModel, Fixed
from specialists.embedder import TextEmbedder
from specialists.lexical import LexicalModel

Progress = Callable[[str], None]

_SHRINKAGE: Final = 0.1
"""Share of the shared covariance that is replaced by a multiple of the identity."""


class FitOptions(Struct, frozen=True):
    """What a fit may use, and what it promises."""

    dimension: int = 256
    min_calls: int = 20
    """A cluster with fewer different texts is left out; the report names it."""
    max_calls: int = 2_000
    """Of each cluster, its newest."""
    max_contexts: int = 16
    """Fixed parts remembered of each cluster, the most common ones."""
    false_known_rate: float = 0.1
    """Of calls of no known cluster, the share that may be taken for one: sets the threshold of `unknown`."""
    unknown_share: float = 0.5
    """Of the calls that reach this stage, the share expected to be of no known cluster: sets the prior."""
    folds: int = 5
    embedder: EmbedderOptions = EmbedderOptions()


class Corpus(Struct, frozen=True):
    """The calls of a fit in a fixed order. `labels` are numbers into `clusters`."""

    clusters: tuple[str, ...]
    calls: tuple[LabelledCall, ...]
    labels: NDArray[np.int64]
    too_small: dict[str, int]
    """Clusters left out, with how many different texts they had."""


def gather(calls: Iterable[LabelledCall], options: FitOptions) -> Corpus:
    """Return the calls that a fit uses: of equal texts of a cluster the last, of a large cluster the last `max_calls`.

    So a text that several callers sent counts for the last of them only: fewer words are learned, never more.

    Raises:
        BadInputError: no cluster has `min_calls` different texts.
    """
    by_cluster: dict[str, dict[str, LabelledCall]] = defaultdict(dict)
    for call in calls:
        if call.cluster != UNKNOWN_CLUSTER and call.text.strip():
            by_cluster[call.cluster].pop(call.text, None)
            by_cluster[call.cluster][call.text] = call
    kept = {name: tuple(found.values()) for name, found in by_cluster.items() if len(found) >= options.min_calls}
    too_small = {name: len(found) for name, found in sorted(by_cluster.items()) if name not in kept}
    if not kept:
        raise BadInputError(
            f"No cluster has {options.min_calls} different texts (the largest has"
            f" {max(too_small.values(), default=0)}). Record more calls whose cluster the signature or a pattern finds."
        )
    names = tuple(sorted(kept))
    chosen = [(label, call) for label, name in enumerate(names) for call in _spread(kept[name][-options.max_calls :])]
    labels = np.array([label for label, _ in chosen], dtype=np.int64)
    return Corpus(names, tuple(call for _, call in chosen), labels, too_small)


def part_of(corpus: Corpus, rows: NDArray[np.int64]) -> Corpus:
    """Return some calls of a corpus, with the clusters that are left."""
    left = np.unique(corpus.labels[rows])
    names = tuple(corpus.clusters[label] for label in left)
    return Corpus(
        names, tuple(corpus.calls[row] for row in rows), np.searchsorted(left, corpus.labels[rows]), corpus.too_small
    )


def fit_models(corpus: Corpus, options: FitOptions, progress: Progress = lambda line: None) -> Models:
    """Fit everything but the calibration."""
    texts = [call.text for call in corpus.calls]
    callers = [call.caller for call in corpus.calls]
    embedder = fit_embedder(texts, options.dimension, options.embedder, progress, callers=callers)
    count = len(corpus.clusters)
    vectors = embedder.embed_many(texts)
    return Models(
        embedder=embedder,
        lexical=_lexical(embedder, corpus),
        contexts=ContextModel.of_contexts(_contexts(corpus, options.max_contexts), count),
        discriminant=_discriminant(vectors, corpus.labels, count),
    )


def uncalibrated(corpus: Corpus, options: FitOptions, progress: Progress = lambda line: None) -> LearnedClassifier:
    """Return a classifier that never says `unknown`: its posterior and signs are what a calibration starts from."""
    zeros = (0.0,) * len(SIGNS)
    head = UnknownHead(mean=zeros, scale=(1.0,) * len(SIGNS), weights=zeros, bias=-20.0, threshold=1.0)
    settings = Settings(corpus.clusters, Mixture(), head, head)
    return LearnedClassifier(fit_models(corpus, options, progress), settings, {})


def _spread(calls: Sequence[LabelledCall]) -> list[LabelledCall]:
    """Return the calls in an order that follows from their texts alone, so that folds mix old and new."""
    return sorted(calls, key=lambda call: hashlib.sha256(call.text.encode("utf-8", "surrogatepass")).digest())


def _lexical(embedder: TextEmbedder, corpus: Corpus) -> LexicalModel:
    from scipy.sparse import csr_matrix  # noqa: PLC0415  - heavy, and only a fit needs it

    found = [embedder.read(call.text).features for call in corpus.calls]
    owners = np.repeat(corpus.labels, [len(one) for one in found])
    ones = np.ones(len(owners), dtype=np.float64)
    shape = (embedder.feature_count, len(corpus.clusters))
    counts: Any = csr_matrix((ones, (np.concatenate(found), owners)), shape=shape)
    counts.sum_duplicates()
    return LexicalModel.of_counts(counts, embedder.word_count)


def _contexts(corpus: Corpus, limit: int) -> list[tuple[Fixed, int]]:
    counted: list[Counter[Fixed]] = [Counter() for _ in corpus.clusters]
    for call, label in zip(corpus.calls, corpus.labels.tolist(), strict=True):
        if call.fixed:
            counted[label][call.fixed] += 1

    def most_common(one: Counter[Fixed]) -> list[Fixed]:
        ranked = sorted(one, key=lambda fixed: (-one[fixed], fixed.system, fixed.tool_names, fixed.json_keys))
        return ranked[:limit]

    return [(fixed, label) for label, one in enumerate(counted) for fixed in most_common(one)]


def _discriminant(vectors: NDArray[np.float64], labels: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Linear discriminants with equal priors: weights P m and constant -m P m / 2, P the inverse shared covariance."""
    sizes = np.bincount(labels, minlength=count)
    means = np.zeros((count, vectors.shape[1]))
    np.add.at(means, labels, vectors)
    means /= sizes[:, None]
    centred = vectors - means[labels]
    covariance = centred.T @ centred / len(vectors)
    level = max(float(np.trace(covariance)) / len(covariance), 1e-9)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * level * np.eye(len(covariance))
    weights = np.linalg.solve(covariance, means.T).T
    constants = -0.5 * np.einsum("ij,ij->i", weights, means)
    return np.column_stack([weights, constants]).astype(np.float32)
