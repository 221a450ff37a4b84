"""Keys and values of finished sequences, kept for the next prompt that begins alike under the same adapter.

An agent sends the same system prompt with every call, so most prompt tokens were computed before. Entries are keyed
by the adapter's identity, which no later adapter reuses: a reloaded adapter can never meet another's keys.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SHORTEST = 16
"""A shorter match saves less than the copy costs."""

Tokens = NDArray[np.int64]


class _Entry(msgspec.Struct, frozen=True):
    adapter: int
    tokens: Tokens
    saved: Tensor

    @property
    def size_bytes(self) -> int:
        return self.saved.numel() * self.saved.element_size()


class PrefixStore:
    """Saved prefixes, the least recently used dropped first, within `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0

    def find(self, adapter: int, tokens: Tokens) -> tuple[int, Tensor | None]:
        """The saved prefix that shares most with `tokens`: (shared tokens, what was saved)."""
        best, best_key = 0, -1
        for key, entry in self._entries.items():
            shared = shared_prefix(entry.tokens, tokens) if entry.adapter == adapter else 0
            if shared > best:
                best, best_key = shared, key
        if best < SHORTEST:
            return 0, None
        self._entries.move_to_end(best_key)
        return best, self._entries[best_key].saved

    def worth_saving(self, adapter: int, tokens: Tokens) -> bool:
        """Whether `tokens` go far enough beyond everything that is saved."""
        if not self.max_bytes or len(tokens) < SHORTEST:
            return False
        known = max(
            (shared_prefix(e.tokens, tokens) for e in self._entries.values() if e.adapter == adapter), default=0
        )
        return len(tokens) - known >= SHORTEST

    def add(self, adapter: int, tokens: Tokens, saved: Tensor) -> None:
        """Keeps a prefix; an entry that it merely extends goes."""
        for key, entry in list(self._entries.items()):
            if entry.adapter == adapter and shared_prefix(entry.tokens, tokens) == len(entry.tokens):
                self._drop(key)
        self._entries[self._next] = _Entry(adapter, tokens, saved)
        self.size_bytes += self._entries[self._next].size_bytes
        self._next += 1
        while self.size_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def forget(self, adapter: int) -> None:
        """Drops what an unloaded adapter left."""
        for key in [key for key, entry in self._entries.items() if entry.adapter == adapter]:
            self._drop(key)

    def _drop(self, key: int) -> None:
        self.size_bytes -= self._entries.pop(key).size_bytes


def shared_prefix(one: Tokens, other: Tokens) -> int:
    """How many leading tokens are the same."""
    size = min(len(one), len(other))
    differ = one[:size] != other[:size]
    return int(differ.argmax()) if differ.any() else size
