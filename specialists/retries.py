"""Whether to try again, and after how long: full jitter, within the caller's time and a budget of 10 % of the calls.

Pure: the random number is passed in. Only asked before the first byte of an answer.
The budget is a token bucket as in Finagle's RetryBudget: each call pays a tenth of a retry in.
"""

from __future__ import annotations

from registry.errors import BackendError, BackendOverloadedError, BackendTimeoutError

RATIO = 0.1
MINIMUM = 3.0
MOST = 30.0
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0


class RetryBudget:
    """Never more retries than a tenth of the calls, and `MINIMUM` to begin with."""

    def __init__(self, ratio: float = RATIO, minimum: float = MINIMUM, most: float = MOST) -> None:
        self._ratio = ratio
        self._most = most
        self._tokens = minimum

    def on_call(self) -> None:
        """Count a call; its retries are not calls."""
        self._tokens = min(self._most, self._tokens + self._ratio)

    def take(self) -> bool:
        """Take one retry out, if there is one."""
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens -= 1.0
        return True


def worth_retrying(error: BackendError) -> bool:
    """Say whether the same backend may do better at once.

    Not after a deadline (another wait would overrun it), nor where the same request is bound to fail again.
    """
    return error.retryable and not isinstance(error, BackendTimeoutError)


def backoff_s(error: BackendError, tried: int, draw: float) -> float:
    """Return how long to wait before try number `tried` + 1 (`tried` from 1). `draw` is uniform in 0..1.

    Exponential with full jitter (Brooker, AWS, 2015), on top of what a backend asked for.
    """
    wait_s = draw * min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (tried - 1))
    if isinstance(error, BackendOverloadedError):
        wait_s += error.retry_after_s
    return wait_s
