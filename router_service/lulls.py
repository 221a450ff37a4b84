"""Which backends callers wait for right now, so that whatever is not for a caller can let them go first.

Counts calls; knows nothing of what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator


class Lulls:
    """The callers' calls under way of each backend of this process."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()
        self._ended: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @contextlib.contextmanager
    def answering(self, backend: str) -> Iterator[None]:
        """Mark a backend as busy with one caller's call."""
        self._under_way[backend] += 1
        self._ended[backend].clear()
        try:
            yield
        finally:
            self._under_way[backend] -= 1
            if not self._under_way[backend]:
                self._ended[backend].set()

    def is_answering(self, backend: str) -> bool:
        """Whether a caller waits for a backend."""
        return self._under_way[backend] > 0

    async def wait(self, backend: str, most_s: float) -> None:
        """Wait until no caller waits for a backend, but no longer than that."""
        if self.is_answering(backend):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended[backend].wait(), most_s)
