"""Documents of tokens as vectors: TF-IDF and a truncated SVD, and how much of a document the vector stands for.

Source of the method: latent semantic analysis (Deerwester et al. 1990). It knows tokens; nothing of calls.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

MAX_TOKENS: Final = 20_000
"""Of a vocabulary; the most frequent stay."""
_SEED: Final = 20_261_121
_MIN_DOCUMENTS: Final = 2


class TokenSpace:
    """A vocabulary with a weight for each token, and the axes that its documents are turned to."""

    def __init__(self, tokens: Sequence[str], idf: NDArray[np.float32], rows: Matrix, rarest: float) -> None:
        self.tokens = tuple(tokens)
        self.idf = idf
        self.rows = rows
        self.rarest = rarest
        """The weight of a token that is not in the vocabulary: that of one seen once."""
        self._at = {token: (at, float(weight)) for at, (token, weight) in enumerate(zip(tokens, idf, strict=True))}

    @classmethod
    def fit(cls, documents: Sequence[Sequence[str]], counts: Sequence[int], dimension: int) -> TokenSpace:
        """Fit on documents that occur so many times; a token in fewer than one of 2,000 is not looked at."""
        df: Counter[str] = Counter()
        for document, count in zip(documents, counts, strict=True):
            df.update(dict.fromkeys(document, count))
        total = 1 + sum(counts)
        least = min(_MIN_DOCUMENTS + total // 2_000, total - 1)
        kept = sorted((token for token, count in df.items() if count >= least), key=lambda token: (-df[token], token))
        kept = sorted(kept[:MAX_TOKENS])
        idf = np.array([math.log(total / (1 + df[token])) + 1.0 for token in kept], dtype=np.float32)
        made = cls(kept, idf, np.eye(len(kept), dtype=np.float32), math.log(total / 2) + 1.0)
        if len(kept) > dimension:
            often = np.sqrt(np.asarray(counts, dtype=np.float32))[:, None]
            sparse = made._weighed(documents)[0]
            made.rows = leading_axes(sparse.multiply(often).tocsr(), dimension)
        return made

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self.rows.shape[1])

    def project(self, documents: Sequence[Sequence[str]]) -> tuple[Matrix, NDArray[np.float32]]:
        """Return the vectors, shape (n, dimension), of length 1 or 0 where no token is known; and what they keep.

        That is 0..1 of the documents' weight, tokens that are not in the vocabulary included; 1 for an empty one.
        """
        sparse, shares = self._weighed(documents)
        long = np.asarray(sparse @ self.rows, dtype=np.float32)
        has_tokens = np.array([bool(document) for document in documents], dtype=bool)
        kept = np.where(has_tokens, np.minimum(np.einsum("ij,ij->i", long, long), 1.0) * shares, 1.0)
        return unit_rows(long), kept.astype(np.float32)

    def _weighed(self, documents: Sequence[Sequence[str]]) -> tuple[Any, NDArray[np.float32]]:
        """Return rows of length 1, and the share of each document's squared weight that is in the vocabulary."""
        from scipy.sparse import csr_matrix  # noqa: PLC0415

        columns: list[int] = []
        values: list[float] = []
        ends = [0]
        shares = np.ones(len(documents), dtype=np.float32)
        for number, document in enumerate(documents):
            found, known, unknown = self._found(document)
            length = math.sqrt(known) or 1.0
            columns += [at for at, _ in found]
            values += [weight / length for _, weight in found]
            shares[number] = known / (known + unknown) if known + unknown else 1.0
            ends.append(len(columns))
        matrix = csr_matrix((values, columns, ends), shape=(len(documents), len(self.tokens)), dtype=np.float32)
        return matrix, shares

    def _found(self, document: Sequence[str]) -> tuple[list[tuple[int, float]], float, float]:
        """Return (place, weight) of the known tokens, and the squared weights of the known and the unknown ones."""
        found, unknown = [], 0.0
        for token, count in Counter(document).items():
            often = 1.0 + math.log(count)
            known = self._at.get(token)
            if known is None:
                unknown += (often * self.rarest) ** 2
            else:
                found.append((known[0], often * known[1]))
        return found, math.fsum(weight * weight for _, weight in found), unknown


def leading_axes(matrix: Any, dimension: int) -> Matrix:
    """Return the main axes of the rows, shape (columns, dimension)."""
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415

    size = min(dimension, *matrix.shape)
    fitted = TruncatedSVD(size, random_state=_SEED, n_iter=4).fit(matrix)
    return np.ascontiguousarray(fitted.components_.T, dtype=np.float32)


def unit_rows(rows: Matrix) -> Matrix:
    """Return the rows at length 1; those of length 0 stay so."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    unit: Matrix = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-9)
    return unit
