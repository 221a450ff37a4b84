"""A call's text as the bandit's vector: a constant, then the text's embedding."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Embedder(Protocol):
    """What turns a text into a vector of fixed length."""

    @property
    def name(self) -> str:
        """Its version."""
        ...

    @property
    def dimension(self) -> int:
        """Its vectors' length."""
        ...

    def embed(self, text: str) -> NDArray[np.floating]:
        """The text's vector."""
        ...


class TextVectors:
    """Fixed for an embedder; the name says which."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name = f"1+{embedder.name}"
        self.dimension = 1 + embedder.dimension

    def of(self, text: str) -> NDArray[np.floating]:
        """The vector, shape (dimension,)."""
        return np.concatenate((np.ones(1), self._embedder.embed(text)))
