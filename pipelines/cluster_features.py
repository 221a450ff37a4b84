"""What a call looks like to the clustering: five blocks of numbers, each of length 1 at most, times its weight.

1. The fixed part: TF-IDF of the system prompt's words, its leading verbs, tool names, JSON keys and allowed values.
2. The answer's kind: text, JSON or tool calls.
3. Its form: JSON keys; tool names, their verbs and arguments.
4. Its values: a short value that recurs (a label) stands where the texts that get it stand.
5. The user's text, by a fitted embedding.

It knows nothing of clusters, ids or files. scikit-learn and scipy are needed for a fit alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.cluster_source import digest64
from pipelines.cluster_space import Matrix, TokenSpace, leading_axes, unit_rows
from pipelines.cluster_tokens import KINDS, fixed_key_of, fixed_tokens, form_tokens, kind_of, value_tokens
from pipelines.fit_embedder import fit_embedder
from pipelines.loop_rows import CuratedCall
from registry.errors import BadInputError
from specialists.embedder import Embedder, hashing_embedder

_MOST_LABELS: Final = 2_000
"""Of one key; grouping them takes their number squared."""


class FeatureOptions(Struct, frozen=True):
    """Weights and sizes of the blocks. A distance of 1 parts two calls that share nothing in a block of weight 0.7."""

    fixed_weight: float = 0.8
    kind_weight: float = 0.45
    """Of whether an answer is text, JSON or tool calls: a specialist gives one kind."""
    form_weight: float = 0.8
    value_weight: float = 0.7
    text_weight: float = 0.35
    fixed_dimension: int = 48
    form_dimension: int = 24
    text_dimension: int = 24
    known_share: float = 0.3
    """Of the other weights, for calls whose fixed part is known: what an agent is told says more than its questions."""
    labelled_share: float = 0.5
    """Of the text's weight, for calls whose answer has labels."""
    label_distance: float = 1.1
    """Labels of one key whose texts (and agents) are nearer than this, on average, belong together; 1.41 is unlike."""
    dimension: int = 32
    """Of the whole vector, after a rotation to its main axes."""


class Features(Struct, frozen=True):
    """Calls as numbers, row by row."""

    vectors: Matrix
    """Shape (n, dimension)."""
    known: NDArray[np.float32]
    """0..1: how much of the fixed part, or of the form where none is known, the model has words for."""


class FeatureModel:
    """Calls as vectors of one length, fitted on a sample of them. The same sample gives the same model."""

    def __init__(
        self,
        spaces: tuple[TokenSpace, TokenSpace],
        embedder: Embedder,
        labels: Mapping[int, Matrix],
        axes: Matrix | None,
        options: FeatureOptions,
    ) -> None:
        self.fixed, self.form = spaces
        self.embedder = embedder
        self.labels = dict(labels)
        """Digest of a label to where it stands."""
        self.axes = axes
        self.options = options

    @classmethod
    def fit(cls, sample: Sequence[CuratedCall], options: FeatureOptions | None = None) -> tuple[FeatureModel, Features]:
        """Fit on a sample; returns the sample's own features too. Raises BadInputError when there is none."""
        if not sample:
            raise BadInputError("There are no calls to fit features on.")
        options = options or FeatureOptions()
        often = Counter(map(fixed_key_of, sample))
        one_each = {fixed_key_of(call): call for call in sample}
        documents = [fixed_tokens(call) for call in one_each.values()]
        fixed = TokenSpace.fit(documents, [often[key] for key in one_each], options.fixed_dimension)
        form = TokenSpace.fit([form_tokens(call) for call in sample], [1] * len(sample), options.form_dimension)
        made = cls((fixed, form), _embedder_of(sample, options.text_dimension), {}, None, options)
        texts = made._texts(sample)
        fixed_block, known = made._fixed_block(sample)
        made.labels = _placed_labels(sample, texts, fixed_block, options.label_distance)
        blocks, known = made._blocks(sample, texts, (fixed_block, known))
        if blocks.shape[1] > options.dimension:
            made.axes = leading_axes(blocks - blocks.mean(axis=0), options.dimension)
        return made, Features(made._turned(blocks), known)

    def features(self, calls: Sequence[CuratedCall]) -> Features:
        """Return the features of other calls."""
        blocks, known = self._blocks(calls, self._texts(calls), self._fixed_block(calls))
        return Features(self._turned(blocks), known)

    def vectors(self, calls: Sequence[CuratedCall]) -> Matrix:
        """Return shape (n, dimension)."""
        return self.features(calls).vectors

    def _turned(self, blocks: Matrix) -> Matrix:
        return blocks if self.axes is None else np.asarray(blocks @ self.axes, dtype=np.float32)

    def _texts(self, calls: Sequence[CuratedCall]) -> Matrix:
        return self.embedder.embed_many([call.input for call in calls]).astype(np.float32)

    def _blocks(
        self, calls: Sequence[CuratedCall], texts: Matrix, fixed_known: tuple[Matrix, NDArray[np.float32]]
    ) -> tuple[Matrix, NDArray[np.float32]]:
        options = self.options
        fixed, known_fixed = fixed_known
        form, known_form = self.form.project([form_tokens(call) for call in calls])
        values = self._value_block(calls)
        has_fixed = np.any(fixed != 0, axis=1)
        known = np.where(has_fixed, options.known_share, 1.0).astype(np.float32)[:, None]
        labelled = np.where(np.any(values != 0, axis=1), options.labelled_share, 1.0).astype(np.float32)[:, None]
        blocks = np.hstack(
            (
                options.fixed_weight * fixed,
                options.kind_weight * _kind_block(calls),
                options.form_weight * known * form,
                options.value_weight * known * values,
                options.text_weight * known * labelled * texts,
            )
        )
        return blocks.astype(np.float32), np.minimum(known_fixed, known_form)

    def _fixed_block(self, calls: Sequence[CuratedCall]) -> tuple[Matrix, NDArray[np.float32]]:
        """An agent sends the same fixed part on every call: each is looked at once."""
        numbers: dict[str, int] = {}
        first: list[CuratedCall] = []
        at = np.empty(len(calls), dtype=np.int64)
        for place, call in enumerate(calls):
            number = numbers.setdefault(fixed_key_of(call), len(numbers))
            if number == len(first):
                first.append(call)
            at[place] = number
        vectors, known = self.fixed.project([fixed_tokens(call) for call in first])
        return vectors[at], known[at]

    def _value_block(self, calls: Sequence[CuratedCall]) -> Matrix:
        """Where the labels of a call's answer stand; 0 for one without labels."""
        block = np.zeros((len(calls), self.embedder.dimension), dtype=np.float32)
        for at, call in enumerate(calls):
            found = map(self.labels.get, map(digest64, value_tokens(call)))
            known = [place for place in found if place is not None]
            if known:
                block[at] = known[0] if len(known) == 1 else np.mean(known, axis=0)
        return unit_rows(block)


def _placed_labels(sample: Sequence[CuratedCall], texts: Matrix, fixed: Matrix, cut: float) -> dict[int, Matrix]:
    """Put each label where the texts that get it stand, and labels of near texts or of one agent together."""
    found: dict[str, list[int]] = defaultdict(list)
    for at, call in enumerate(sample):
        for token in set(value_tokens(call)):
            found[token].append(at)
    by_key: dict[str, list[str]] = defaultdict(list)
    for token in _labels(found, len(sample)):
        by_key[token.partition("=")[0]].append(token)
    placed: dict[int, Matrix] = {}
    for every in by_key.values():
        tokens = sorted(every, key=lambda token: -len(found[token]))[:_MOST_LABELS]
        places = unit_rows(np.stack([texts[found[token]].mean(axis=0) for token in tokens]))
        agents = unit_rows(np.stack([fixed[found[token]].mean(axis=0) for token in tokens]))
        groups = _groups(np.hstack((places, agents)), cut)
        for group in np.unique(groups):
            place = unit_rows(places[groups == group].mean(axis=0, keepdims=True))[0]
            placed.update((digest64(tokens[at]), place) for at in np.flatnonzero(groups == group))
    return placed


def _groups(places: Matrix, cut: float) -> NDArray[np.int64]:
    """Number the groups of places whose mean distance is below the cut."""
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415

    if len(places) < 2:
        return np.zeros(len(places), dtype=np.int64)
    return np.asarray(fcluster(linkage(places, "average"), cut, "distance"), dtype=np.int64)


def _kind_block(calls: Sequence[CuratedCall]) -> Matrix:
    return np.array([[kind_of(call) == kind for kind in KINDS] for call in calls], dtype=np.float32)


def _labels(found: Mapping[str, Sequence[int]], calls: int) -> Iterable[str]:
    """Yield the values that are labels: they recur, and the values of their key are few against its calls."""
    least = max(3, calls // 5_000)
    different: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for token, places in found.items():
        key = token.partition("=")[0]
        different[key] += 1
        covered[key] += len(places)
    for token, places in found.items():
        key = token.partition("=")[0]
        if len(places) >= least and different[key] <= covered[key] / 5:
            yield token


def _embedder_of(sample: Sequence[CuratedCall], dimension: int) -> Embedder:
    try:
        return fit_embedder((call.input for call in sample), dimension)
    except BadInputError:  # too few texts with a word in common
        return hashing_embedder(dimension)
