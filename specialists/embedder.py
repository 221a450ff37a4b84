"""A text as a vector of fixed length, with numpy alone: TF-IDF of words and word pairs, projected by a truncated SVD.

`hashing_embedder` needs no fitting and serves first runs; a `TextEmbedder` is fitted off line on own traffic. An
embedder never changes: its name carries the digest of its numbers. Source of the method: latent semantic analysis
(Deerwester et al. 1990); of the unfitted one: feature hashing (Weinberger et al. 2009). Knows nothing of what a text
is for.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from registry.errors import BadInputError, ConfigError

from .model_folder import Manifest, ModelFolder, pack, read, write
from .words import WORDS_VERSION, words_of

EMBEDDER_KIND: Final = "text-embedder"
MAX_DIMENSION: Final = 1_024

_HASH_ROWS: Final = 1 << 14
_HASH_SEED: Final = 20_260_101

Vector = NDArray[np.float64]


class Projection(Struct, frozen=True):
    """A text's vector, and how much of the text the embedder knew."""

    vector: Vector
    """Of length 1, or all zero when no word is known."""
    known_share: float
    """Of the words, those in the vocabulary; 1 for a text without words."""
    energy: float
    """Of the TF-IDF vector's length, what the projection kept, 0..1: low for words in unusual company."""


class Reading(Struct, frozen=True):
    """What the vocabulary finds in a text."""

    word_count: int
    known_share: float
    features: NDArray[np.int64]
    """The different known words and pairs, sorted."""
    weights: NDArray[np.float32]
    """TF-IDF weight of each."""


class HashingEmbedder:
    """Hashed words and word pairs under a fixed random projection: nothing to fit, nothing to load.

    Raises BadInputError for a dimension that is not 1..1024.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = _checked_dimension(dimension)
        self.name = f"hash-{WORDS_VERSION}-{_HASH_ROWS}x{dimension}"
        rng = np.random.Generator(np.random.Philox(_HASH_SEED))
        self._rows = rng.standard_normal((_HASH_ROWS, dimension), dtype=np.float32)

    def embed(self, text: str) -> Vector:
        """Return the text's vector, shape (dimension,), of length 1; all zero for a text without words."""
        words = words_of(text)
        if not words:
            return np.zeros(self.dimension)
        single = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.int64)
        pairs = (single[:-1] * 31 + single[1:]) >> 3
        ids, counts = np.unique(np.concatenate((single, pairs)) & (_HASH_ROWS - 1), return_counts=True)
        weights = (1.0 + np.log(counts)).astype(np.float32)
        return _unit(weights @ self._rows.take(ids, axis=0))

    def embed_many(self, texts: Sequence[str]) -> Vector:
        """Return the texts' vectors, shape (n, dimension)."""
        return _stacked([self.embed(text) for text in texts], self.dimension)


def hashing_embedder(dimension: int) -> HashingEmbedder:
    """Return the embedder that needs no fitting. The same dimension gives the same vectors everywhere."""
    return HashingEmbedder(dimension)


class Vocabulary:
    """Words, and pairs of them, as numbers: words from 0, pairs after them."""

    def __init__(self, words: Sequence[str], pairs: NDArray[np.int64]) -> None:
        self.words = tuple(words)
        self.pairs = pairs
        """Sorted codes: number of the first word times the count of words, plus that of the second."""
        self._number = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words) + len(self.pairs)

    def numbers_of(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Return each word's number, -1 for a word that is not there."""
        return np.array(list(map(self._number.get, words, repeat(-1))), dtype=np.int64)

    def features_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the features of the words of a text: known words, then known pairs of neighbours."""
        known = numbers[numbers >= 0]
        if len(self.pairs) == 0 or len(known) < 2:
            return known
        codes = self.codes_of(numbers)
        at = np.searchsorted(self.pairs, codes)
        at[at == len(self.pairs)] = 0
        return np.concatenate((known, at[self.pairs[at] == codes] + len(self.words)))

    def codes_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the codes of all pairs of neighbours that are both known."""
        first, second = numbers[:-1], numbers[1:]
        both = (first >= 0) & (second >= 0)
        return first[both] * len(self.words) + second[both]


class TextEmbedder:
    """The fitted embedder. `components` has a row for each feature of the vocabulary, `idf` a weight."""

    def __init__(
        self, vocabulary: Vocabulary, idf: NDArray[Any], components: NDArray[Any], facts: dict[str, Any]
    ) -> None:
        self._vocabulary = vocabulary
        self._idf = np.ascontiguousarray(idf, dtype=np.float32)
        self._rows = np.ascontiguousarray(components, dtype=np.float32)
        self.dimension = int(self._rows.shape[1])
        self.facts = {**facts, "dimension": self.dimension, "words_version": WORDS_VERSION}

    @classmethod
    def load(cls, folder: Path) -> TextEmbedder:
        """Read an embedder and prove it whole. Raises ConfigError naming the place and the mend."""
        return cls.of_model(read(folder, EMBEDDER_KIND), str(folder))

    @classmethod
    def of_model(cls, model: ModelFolder, where: str) -> TextEmbedder:
        """Make the embedder from arrays that were read; those of another model may lie beside them.

        Raises ConfigError for words cut in another way, and for arrays that do not fit together.
        """
        facts, arrays = model.manifest.facts, model.arrays
        if facts.get("words_version") != WORDS_VERSION:
            raise ConfigError(
                f"{where}: fitted on words cut as {facts.get('words_version')!r}, this program cuts them as"
                f" {WORDS_VERSION!r}. Fit it again."
            )
        try:
            words = bytes(arrays["words"]).decode().split("\n") if len(arrays["words"]) else []
            made = cls(Vocabulary(words, arrays["pairs"]), arrays["idf"], arrays["components"], _own_facts(facts))
        except (KeyError, IndexError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: not an embedder: {error!r}. Fit it again.") from None
        if not len(made._vocabulary) == len(made._idf) == len(made._rows):
            raise ConfigError(f"{where}: {len(made._vocabulary)} features and {len(made._rows)} rows. Fit it again.")
        return made

    @cached_property
    def name(self) -> str:
        """Version string with the digest of the numbers."""
        return f"svd{self.dimension}-{WORDS_VERSION}:sha256:{self._pack()[0].short_digest}"

    @property
    def feature_count(self) -> int:
        """Words and pairs together."""
        return len(self._vocabulary)

    @property
    def word_count(self) -> int:
        """Words alone: the features below this number."""
        return len(self._vocabulary.words)

    def save(self, folder: Path) -> None:
        """Write the embedder into the folder, over an older one. Raises StorageError."""
        write(folder, *self._pack())

    def _pack(self) -> tuple[Manifest, bytes]:
        return pack(EMBEDDER_KIND, self.facts, self.arrays())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored. Components are rounded to half precision by whoever fits them."""
        return {
            "words": np.frombuffer("\n".join(self._vocabulary.words).encode(), dtype=np.uint8),
            "pairs": self._vocabulary.pairs,
            "idf": self._idf,
            "components": self._rows.astype(np.float16),
        }

    def embed(self, text: str) -> Vector:
        """Return the text's vector, shape (dimension,), of length 1; all zero when no word is known."""
        return self.project(text).vector

    def embed_many(self, texts: Sequence[str]) -> Vector:
        """Return the texts' vectors, shape (n, dimension)."""
        return _stacked([self.embed(text) for text in texts], self.dimension)

    def project(self, text: str) -> Projection:
        """Return the text's vector and how much of the text it stands for."""
        return self.project_reading(self.read(text))

    def read(self, text: str) -> Reading:
        """Return the features of a text, for those who need more of it than the vector."""
        words = words_of(text)
        numbers = self._vocabulary.numbers_of(words)
        known_share = float(np.count_nonzero(numbers >= 0)) / len(words) if words else 1.0
        return Reading(len(words), known_share, *weigh(self._vocabulary.features_of(numbers), self._idf))

    def project_reading(self, reading: Reading) -> Projection:
        """Return the vector of a text that was read."""
        weights = reading.weights
        if len(weights) == 0:
            return Projection(np.zeros(self.dimension), reading.known_share, 0.0)
        projected = weights @ self._rows.take(reading.features, axis=0)
        energy = math.sqrt(float(projected @ projected) / float(weights @ weights))
        return Projection(_unit(projected), reading.known_share, min(energy, 1.0))


def weigh(features: NDArray[np.int64], idf: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the different features, sorted, and the weight of each: (1 + log count) x idf."""
    ids, counts = np.unique(features, return_counts=True)
    return ids, (1.0 + np.log(counts)).astype(np.float32) * idf[ids]


Embedder = TextEmbedder | HashingEmbedder


def _own_facts(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in ("dimension", "words_version")}


def _checked_dimension(dimension: int) -> int:
    if not 1 <= dimension <= MAX_DIMENSION:
        raise BadInputError(f"An embedding has 1 to {MAX_DIMENSION} dimensions, not {dimension}.", param="dimension")
    return dimension


def _unit(vector: NDArray[Any]) -> Vector:
    long: Vector = vector.astype(np.float64)
    length = float(np.sqrt(long @ long))
    return long / length if length > 0 else long


def _stacked(vectors: list[Vector], dimension: int) -> Vector:
    return np.stack(vectors) if vectors else np.zeros((0, dimension))
