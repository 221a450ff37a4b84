"""How much at once, how often and for how much: calls in flight, rates and budgets, by tenant."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import structs

from observations.spending import Spending
from policies.access import RateLimiter, Tenant, budget_limits
from policies.budget import Ledger, Reservation
from registry.errors import RateLimitedError

from .job import Job
from .metrics import Metrics


class Limits:
    """Counts and refuses; one for each process."""

    def __init__(self, max_in_flight: int, metrics: Metrics) -> None:
        self._max_in_flight = max_in_flight
        self._metrics = metrics
        self._in_flight = 0
        self._rates = RateLimiter()
        self._feedback_rates = RateLimiter()
        self._ledger = Ledger()
        self._known: set[str] = set()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place while a call is answered. Raises RateLimitedError."""
        if self._in_flight >= self._max_in_flight:
            raise RateLimitedError(f"{self._max_in_flight} calls are being answered already; try again shortly.")
        self._move(1)
        try:
            yield
        finally:
            self._move(-1)

    def rate(self, job: Job) -> None:
        """Take one request and the most tokens it can use from its tenant's rates. Raises RateLimitedError."""
        self._rates.admit((job.caller.tenant,), _most_tokens(job), job.started_s)

    def rate_feedback(self, tenant: Tenant) -> None:
        """Take one word on an answer from its tenant's rate of requests, which calls have too. Raises RateLimitedError.

        Each has its own: one word on every call is what is wished for, and takes no call's place.
        """
        if tenant.requests_per_minute is not None:
            without_tokens = structs.replace(tenant, tokens_per_minute=None)
            self._feedback_rates.admit((without_tokens,), 0.0, time.monotonic())

    def reserve(self, tenant: Tenant, amount_usd: float, now_ms: int) -> Reservation:
        """Set the most that a call can cost aside. Raises BudgetExceededError."""
        self._know(tenant)
        return self._ledger.reserve(tenant.name, amount_usd, now_ms)

    def remember(self, tenant: Tenant, spent: Spending, now_ms: int) -> None:
        """Count what was spent before this process started."""
        self._know(tenant)
        self._ledger.charge(tenant.name, spent.usd, spent.at_ms, now_ms)

    def give_back(self, job: Job, used_tokens: int) -> None:
        """Return what a call was let in with and did not use."""
        self._rates.correct((job.caller.tenant,), _most_tokens(job) - used_tokens)

    def settle(self, reservation: Reservation, actual_usd: float) -> None:
        """Turn a reservation into what the call cost."""
        self._ledger.settle(reservation, actual_usd)

    def _know(self, tenant: Tenant) -> None:
        if tenant.name not in self._known:
            self._known.add(tenant.name)
            self._ledger.set_limits(tenant.name, budget_limits(tenant))

    def _move(self, step: int) -> None:
        self._in_flight += step
        self._metrics.set("journeyman_calls_in_flight", value=self._in_flight)


def _most_tokens(job: Job) -> int:
    return job.features.prompt_tokens + job.features.max_tokens
