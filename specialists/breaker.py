"""A circuit breaker: after so many failures in a row, a backend is left alone for a while, then tried by one call.

Pure: time is passed in. What counts as a failure is the caller's to say.
"""

from __future__ import annotations

from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Closed -> open after `failures` in a row -> half open after `open_ms`: one probe decides. Times are seconds."""

    def __init__(self, failures: int, open_ms: float) -> None:
        self._most = failures
        self._open_s = open_ms / 1e3
        self._in_a_row = 0
        self._opened_at_s: float | None = None
        self._has_probe = False

    def state(self, now_s: float) -> State:
        """What it believes now."""
        if self._opened_at_s is None:
            return "closed"
        return "open" if now_s - self._opened_at_s < self._open_s else "half_open"

    def wait_s(self, now_s: float) -> float:
        """Seconds until it lets a probe through; 0 when it does now."""
        if self._opened_at_s is None:
            return 0.0
        return max(0.0, self._opened_at_s + self._open_s - now_s)

    def admit(self, now_s: float) -> bool:
        """Say whether a call may go. A call let through must report success, failure or `dropped`."""
        state = self.state(now_s)
        if state == "half_open" and not self._has_probe:
            self._has_probe = True
            return True
        return state == "closed"

    def succeeded(self) -> None:
        """The backend answered, be it with a refusal of the request."""
        self._in_a_row = 0
        self._opened_at_s = None
        self._has_probe = False

    def failed(self, now_s: float) -> None:
        """The backend did not answer as it should."""
        self._in_a_row += 1
        if self._in_a_row >= self._most or self._has_probe:
            self._opened_at_s = now_s
        self._has_probe = False

    def dropped(self) -> None:
        """The call ended without saying anything about the backend: its caller left, or granted too little time."""
        self._has_probe = False
