"""A call's text as the bandit's vector: a constant, countable features of the text, its embedding.

The embedding needs no fitting and never changes, so what was learned in it stays good for as long as the router runs.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.text_features import VERSION, text_features


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
        self.name = f"{VERSION}+{embedder.name}"
        self.dimension = len(self.of(""))

    def of(self, text: str) -> NDArray[np.floating]:
        """The vector, shape (dimension,)."""
        return np.concatenate(((1.0,), text_features(text), self._embedder.embed(text)))
