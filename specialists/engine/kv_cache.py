"""Keys and values of the running sequences: one row each, contiguous, so that a step's attention reads them in place.

Pages would need a gather (a copy of everything read) at each step on a CPU. Rows grow by doubling; memory that no
sequence reached is never touched. A prefix shared by two sequences is copied, which costs about a thousandth of
computing it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from specialists.engine.architecture import Shape

FIRST_CAPACITY = 512


class KvCache:
    """(layers, rows, capacity, 2, kv_heads, head_dim) float32. Rows are numbered like the running sequences."""

    def __init__(self, shape: Shape, rows: int, max_context_tokens: int) -> None:
        self._shape = shape
        self._rows = rows
        self._max = max_context_tokens
        self.capacity = min(FIRST_CAPACITY, max_context_tokens)
        self.data = self._zeros(self.capacity)

    def _zeros(self, capacity: int) -> Tensor:
        s = self._shape
        # calloc: untouched pages cost nothing, and masked positions are finite (a NaN would pass through the mask).
        return torch.from_numpy(np.zeros((s.layers, self._rows, capacity, 2, s.kv_heads, s.head_dim), dtype=np.float32))

    def reserve(self, tokens: int, rows_in_use: int) -> None:
        """Makes room for `tokens` in each row, keeping the first `rows_in_use` rows."""
        if tokens <= self.capacity:
            return
        old, kept = self.data, self.capacity
        while self.capacity < tokens:
            self.capacity = min(self.capacity * 2, self._max)
        self.data = self._zeros(self.capacity)
        self.data[:, :rows_in_use, :kept] = old[:, :rows_in_use]

    def shrink(self) -> None:
        """Gives grown memory back; only while no sequence runs."""
        if self.capacity > FIRST_CAPACITY:
            self.capacity = FIRST_CAPACITY
            self.data = self._zeros(self.capacity)

    def copy_row(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` positions of a row over another's."""
        self.data[:, target, :tokens] = self.data[:, source, :tokens]

    def save(self, row: int, tokens: int) -> Tensor:
        """A copy of a row's first `tokens` positions: (layers, tokens, 2, kv_heads, head_dim)."""
        return self.data[:, row, :tokens].clone()

    def restore(self, row: int, saved: Tensor, tokens: int) -> None:
        """Puts the first `tokens` positions of what `save` gave into a row."""
        self.data[:, row, :tokens] = saved[:, :tokens]

    def layer(self, index: int) -> Tensor:
        """(rows, capacity, 2, kv_heads, head_dim) of one layer."""
        return self.data[index]
