"""Near-duplicate texts: MinHash finds the pairs worth comparing, their true Jaccard similarity decides.

Texts count as sets of shingles, runs of words in lower case; numbers and names stay, since they are what a task's
inputs differ in. Sketches are datasketch's. Its LSH index alone would drop texts that are less alike (1,291 of 50,000
in benchmarks/curate.py); here it is sorted bands, in which most texts are alone and need no comparison.
Source: A. Broder, "On the resemblance and containment of documents", 1997. Knows texts; nothing of calls.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

THRESHOLD: Final = 0.8
"""Texts more alike than this are duplicates; just as alike, they are not."""
SHINGLE_WORDS: Final = 3
BANDS: Final = 16
BAND_ROWS: Final = 5
"""A pair at 0.8 shares a bucket with probability 1 - (1 - 0.8^5)^16 = 0.998; at 0.5 with 0.40."""
SKETCH_SIZE: Final = BANDS * BAND_ROWS

_SEED: Final = 1
_SLACK: Final = 0.15
"""Three standard deviations of a sketch's estimate at 0.8."""
_MAX_IN_BUCKET: Final = 256
_MAX_COMPARED: Final = 16
_MAX_REMEMBERED: Final = 4_096
_CJK: Final = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD: Final = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")

Sketches = NDArray[np.uint32]
"""Shape (texts, SKETCH_SIZE)."""


def words_in(text: str) -> list[str]:
    """Return the words in order, in lower case; Chinese, Japanese and Korean count by the character."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def shingles_of(text: str, size: int = SHINGLE_WORDS) -> frozenset[str]:
    """Return the runs of `size` words; one of all words when there are fewer, the text itself when it has none."""
    words = words_in(text)
    if not words:
        return frozenset((text.strip(),))
    return frozenset(" ".join(words[at : at + size]) for at in range(max(1, len(words) - size + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return what two sets share, 0..1; 1 for two empty ones."""
    shared = len(one & other)
    union = len(one) + len(other) - shared
    return shared / union if union else 1.0


def sketches_of(texts: Iterable[str]) -> Sketches:
    """Return the texts' MinHash sketches, one row for each."""
    import datasketch  # noqa: PLC0415  - 0.2 s that only finding duplicates pays for

    hashed = [[shingle.encode("utf-8", "surrogatepass") for shingle in shingles_of(text)] for text in texts]
    made = datasketch.MinHash.bulk(hashed, num_perm=SKETCH_SIZE, seed=_SEED, hashfunc=zlib.crc32, scheme="affine32")
    return np.array([one.hashvalues for one in made], dtype=np.uint32).reshape(-1, SKETCH_SIZE)


class DistinctTexts:
    """Keeps texts that are no near-duplicates of each other, first come first kept.

    `scopes` (one number for each text) part what may be duplicates. `text_of` gives a text by its row. The work for one
    text is bounded, however many are alike: linear in all.
    """

    def __init__(
        self, sketches: Sketches, scopes: NDArray[np.int64], text_of: Callable[[int], str], threshold: float = THRESHOLD
    ) -> None:
        self._sketches = sketches
        self._buckets = shared_buckets(sketches, scopes)
        self._text_of = text_of
        self._threshold = threshold
        self._kept: dict[int, list[int]] = {}
        self._shingles: OrderedDict[int, frozenset[str]] = OrderedDict()

    def duplicate_of(self, row: int) -> int | None:
        """Return a kept row that this one duplicates, or None."""
        near = self._near(row)
        if not near:
            return None
        mine = self._shingles_of(row)
        return next((other for other in near if jaccard(mine, self._shingles_of(other)) > self._threshold), None)

    def keep(self, row: int) -> None:
        """Compare later rows with this one."""
        for bucket in self._buckets_of(row):
            kept = self._kept.setdefault(bucket, [])
            if len(kept) < _MAX_IN_BUCKET:
                kept.append(row)

    def _buckets_of(self, row: int) -> list[int]:
        buckets: list[int] = self._buckets[row].tolist()
        return [bucket for bucket in buckets if bucket]

    def _near(self, row: int) -> Sequence[int]:
        """Kept rows whose sketches say that they may be alike, the likest first."""
        met = list({other for bucket in self._buckets_of(row) for other in self._kept.get(bucket, ())})
        if not met:
            return ()
        alike = (self._sketches[met] == self._sketches[row]).mean(axis=1)
        order = np.argsort(-alike, kind="stable")[:_MAX_COMPARED]
        return [met[at] for at in order if alike[at] >= self._threshold - _SLACK]

    def _shingles_of(self, row: int) -> frozenset[str]:
        known = self._shingles.get(row)
        if known is None:
            known = self._shingles[row] = shingles_of(self._text_of(row))
            if len(self._shingles) > _MAX_REMEMBERED:
                self._shingles.popitem(last=False)
        return known


def shared_buckets(sketches: Sketches, scopes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return each text's buckets, shape (texts, BANDS), numbered from 1; 0 where a text has the bucket to itself."""
    buckets = np.zeros((len(sketches), BANDS), dtype=np.uint32)
    first = 1
    for band in range(BANDS):
        keys = _band_keys(sketches[:, band * BAND_ROWS : (band + 1) * BAND_ROWS], scopes)
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        numbers = np.where(counts > 1, np.cumsum(counts > 1) + (first - 1), 0).astype(np.uint32)
        buckets[:, band] = numbers[inverse]
        first += int((counts > 1).sum())
    return buckets


def _band_keys(values: Any, scopes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64-bit keys of (scope, a band's values): multiply and rotate, as FNV does with bytes."""
    keys = scopes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xCBF29CE484222325)
    for column in range(values.shape[1]):
        keys = (keys ^ values[:, column].astype(np.uint64)) * np.uint64(0xFF51AFD7ED558CCD)
        keys ^= keys >> np.uint64(32)
    return keys
