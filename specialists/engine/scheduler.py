"""Decides what each step computes. Pure: no tensors, no clock, no threads.

Every running sequence that decodes gets its token in every step; prompts share what is left of the step's budget,
oldest first, in chunks; a waiting sequence joins as soon as there is a row, memory and budget for it. Nobody is
preempted: a sequence joins only when its longest possible form fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from registry.errors import BackendOverloadedError
from specialists.engine.sequence import Sequence


class Limits(msgspec.Struct, frozen=True):
    """What fits at once."""

    max_running: int
    max_waiting: int
    max_step_tokens: int
    max_cached_tokens: int
    """Of all running sequences together, each counted at its longest."""


class Move(msgspec.Struct, frozen=True):
    """The sequence in row `source` is now in row `target`; `tokens` positions are in use."""

    source: int
    target: int
    tokens: int


class Scheduler:
    """Waiting and running sequences. The row of a running sequence is its place in `running`, without gaps."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. Raises BackendOverloadedError when the queue is full."""
        if len(self.waiting) >= self.limits.max_waiting:
            raise BackendOverloadedError(
                f"{len(self.running)} sequences are running and {len(self.waiting)} waiting; try again later",
                retry_after_s=1.0,
            )
        self.waiting.append(sequence)

    def drop_cancelled(self) -> list[Sequence]:
        """Takes cancelled sequences out of the queue; gives the cancelled running ones, for `remove`."""
        if any(sequence.cancelled for sequence in self.waiting):
            self.waiting = deque(sequence for sequence in self.waiting if not sequence.cancelled)
        return [sequence for sequence in self.running if sequence.cancelled]

    def plan(self, place: Callable[[Sequence], int]) -> list[tuple[Sequence, int]]:
        """The step: (sequence, tokens to compute). `place` is told of each that joins, in its row; it gives the
        tokens already cached.
        """
        steps = [(sequence, 1) for sequence in self.running if sequence.pending == 1]
        budget = self.limits.max_step_tokens - len(steps)
        for sequence in self.running:
            if sequence.pending > 1 and budget > 0:
                budget -= self._grant(sequence, budget, steps)
        while budget > 0 and self._may_join():
            sequence = self.waiting.popleft()
            sequence.row = len(self.running)
            self.running.append(sequence)
            sequence.computed = sequence.cached = place(sequence)
            budget -= self._grant(sequence, budget, steps)
        return steps

    @staticmethod
    def _grant(sequence: Sequence, budget: int, steps: list[tuple[Sequence, int]]) -> int:
        count = min(sequence.pending, budget)
        steps.append((sequence, count))
        return count

    def _may_join(self) -> bool:
        if not self.waiting or len(self.running) >= self.limits.max_running:
            return False
        reserved = sum(sequence.most_tokens for sequence in self.running)
        return reserved + self.waiting[0].most_tokens <= self.limits.max_cached_tokens

    def remove(self, sequence: Sequence) -> Move | None:
        """Ends a running sequence; the last row takes its place, which is the move that the cache must follow."""
        row, last = sequence.row, self.running.pop()
        sequence.row = -1
        if last is sequence:
            return None
        self.running[row] = last
        move = Move(last.row, row, last.computed)
        last.row = row
        return move
