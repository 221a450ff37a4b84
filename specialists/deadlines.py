"""How long a call may still wait: the entry's deadlines cut by what the caller grants.

Pure arithmetic on a clock that is passed in; knows nothing of sockets.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from registry.entries import Deadlines

Phase = Literal["connect", "first_token", "between_tokens", "total"]


class Due(Struct, frozen=True):
    """When a wait must end, and the name of the limit that ends it."""

    at_s: float
    phase: Phase


class CallClock(Struct, frozen=True):
    """The limits of one call, all its tries together. Times are seconds of one monotonic clock."""

    deadlines: Deadlines
    ends_at_s: float
    is_callers: bool
    """Whether it is the caller's budget that ends the call, and not the entry's total deadline."""

    @classmethod
    def start(cls, deadlines: Deadlines, budget_ms: float, now_s: float) -> CallClock:
        """Start the clock of a call."""
        is_callers = budget_ms < deadlines.total_ms
        return cls(deadlines, now_s + min(budget_ms, deadlines.total_ms) / 1e3, is_callers)

    def connect(self, now_s: float) -> Due:
        """By when a connection must be there."""
        return self._due(now_s + self.deadlines.connect_ms / 1e3, "connect")

    def first_token(self, sent_at_s: float) -> Due:
        """By when the first token must be here, counted from the request."""
        return self._due(sent_at_s + self.deadlines.first_token_ms / 1e3, "first_token")

    def between_tokens(self, now_s: float) -> Due:
        """By when the next token must be here, counted from the last."""
        return self._due(now_s + self.deadlines.between_tokens_ms / 1e3, "between_tokens")

    def total(self) -> Due:
        """By when all of it must be over."""
        return Due(self.ends_at_s, "total")

    def left_s(self, now_s: float) -> float:
        """Seconds that are left, 0 when there are none."""
        return max(0.0, self.ends_at_s - now_s)

    def _due(self, at_s: float, phase: Phase) -> Due:
        return Due(at_s, phase) if at_s < self.ends_at_s else Due(self.ends_at_s, "total")
