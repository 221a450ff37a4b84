"""Fits a `TextEmbedder` on texts: the vocabulary, its weights, and the truncated SVD. The same texts, the same numbers.

The artifact holds its vocabulary in plain words, so only what several callers say may enter it. scikit-learn fits,
numpy serves: the features are made by the code that serves them. Knows nothing of where texts come from or of their
classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Literal

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
    min_callers: int = 3
    """So many different callers must have said a word, or a pair of words, before it enters the vocabulary.

    Where no caller is told from another, so many texts that differ in their words: that keeps out what was said once
    or twice, NOT what one person said in three texts.
    """


class _Texts(Struct, frozen=True):
    """Different texts, cut into words, and who said each."""

    cut: list[list[str]]
    said_by: list[Collection[object]]
    counted_by: Literal["caller", "text"]
    callers: int


class _Common(Struct, frozen=True):
    """The words or pairs that enter the vocabulary, and how many too few callers said."""

    kept: list[Any]
    left_out: int


def fit_embedder(
    texts: Iterable[str],
    dimension: int,
    options: EmbedderOptions | None = None,
    progress: Progress = lambda line: None,
    *,
    callers: Iterable[str] | None = None,
) -> TextEmbedder:
    """Fit an embedder on the texts; equal texts count once. Holds all words of all texts in memory.

    `callers` says whose each text is; without it, or where all are "", nobody is told from anybody and texts are
    counted instead (`EmbedderOptions.min_callers`); `facts["counted_by"]` says which. The dimension is lowered to what
    so few texts or words can carry.

    Raises:
        BadInputError: callers are told apart and too few, no word is said by enough of them, a dimension below 1.
    """
    options = options or EmbedderOptions()
    if dimension < 1:
        raise BadInputError(f"An embedding has at least 1 dimension, not {dimension}.", param="dimension")
    said = _gathered(texts, callers, options.min_callers)
    vocabulary, left_out = _vocabulary(said, options)
    if not len(vocabulary):
        raise BadInputError(f"{len(said.cut)} different texts share no word; an embedder needs more of them.")
    progress(
        f"embedder: {len(said.cut)} texts, {len(vocabulary.words)} words, {len(vocabulary.pairs)} pairs;"
        f" left out, said by fewer than {options.min_callers} {said.counted_by}s: {left_out['words_left_out']} words"
    )
    features = [vocabulary.features_of(vocabulary.numbers_of(words)) for words in said.cut]
    idf = _idf(features, len(vocabulary))
    counted = {"counted_by": said.counted_by, "callers": said.callers, "min_callers": options.min_callers}
    components = _components(features, idf, dimension)
    progress(f"embedder: {components.shape[1]} dimensions")
    return TextEmbedder(vocabulary, idf, components, {"fitted_on_texts": len(said.cut), **counted, **left_out})


def _gathered(texts: Iterable[str], callers: Iterable[str] | None, least: int) -> _Texts:
    """Cut the texts, and tell their callers apart if they can be."""
    listed = list(texts)
    whose = [""] * len(listed) if callers is None else list(callers)
    said_by: dict[str, set[object]] = {}
    for text, caller in zip(listed, whose, strict=True):
        said_by.setdefault(text, set()).add(caller)
    cut = [(words, who) for text, who in said_by.items() if (words := words_of(text))]
    different = len(set(whose))
    if any(whose):
        if different < least:
            raise BadInputError(
                f"The calls come from {different} callers, and a word is learned that at least {least} of them said."
                " Record more, with their end users (`user`) or a key each."
            )
        return _Texts([words for words, _ in cut], [who for _, who in cut], "caller", different)
    # Texts that are cut into the same words are one: punctuation or another number makes nobody a second speaker.
    return _Texts([words for words, _ in cut], [(tuple(words),) for words, _ in cut], "text", min(different, 1))


def _vocabulary(said: _Texts, options: EmbedderOptions) -> tuple[Vocabulary, dict[str, int]]:
    words = _common([set(text) for text in said.cut], said, options.min_callers, options.max_words)
    alone = Vocabulary(sorted(words.kept), np.empty(0, dtype=np.int64))
    neighbours = [set(alone.codes_of(alone.numbers_of(text)).tolist()) for text in said.cut]
    pairs = _common(neighbours, said, options.min_callers, options.max_pairs)
    left_out = {"words_left_out": words.left_out, "pairs_left_out": pairs.left_out}
    return Vocabulary(alone.words, np.array(sorted(pairs.kept), dtype=np.int64)), left_out


def _common(found: Sequence[set[Any]], said: _Texts, least: int, limit: int) -> _Common:
    """Of what each text holds, the most common that enough have said; of equally common ones the smaller first."""
    counted: Counter[Any] = Counter()
    speakers: dict[Any, set[object]] = {}
    for keys, who in zip(found, said.said_by, strict=True):
        counted.update(keys)
        for key in keys:
            known = speakers.setdefault(key, set())
            if len(known) < least:
                known.update(who)
    enough = sorted((-counted[key], key) for key, known in speakers.items() if len(known) >= least)
    return _Common([key for _, key in enough[:limit]], len(speakers) - len(enough))


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
