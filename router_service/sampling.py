"""Which calls' lengths are learned: all while they come slowly, a steady number a second of each candidate in a rush.

A thousand lengths a second teach no more than twenty, and each costs a call as much as its choice. Knows nothing of
what is learned from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LENGTHS_AT_ONCE: Final = 100.0
"""Of a candidate, that are learned however quickly they come."""
LENGTHS_PER_S: Final = 20.0
"""Of a candidate, from then on."""


class LengthSampler:
    """One for each process. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        """How many of a candidate may be learned at once, and as of when."""

    def takes(self, candidate: str) -> bool:
        """Say whether this one is learned, and count it if so."""
        now_s = self._clock()
        left, at_s = self._left.get(candidate, (LENGTHS_AT_ONCE, now_s))
        left = min(LENGTHS_AT_ONCE, left + LENGTHS_PER_S * (now_s - at_s))
        is_taken = left >= 1.0
        self._left[candidate] = (left - is_taken, now_s)
        return is_taken

    def forget(self, candidate: str) -> None:
        """It is gone."""
        self._left.pop(candidate, None)
