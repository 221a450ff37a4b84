"""One call's way through its chain, as a generator without I/O: attempts out, outcomes in, a conclusion at the end.

Whoever carries the attempts out drives it so:

    steps = escalate(chain, limits)
    attempt = next(steps)
    try:
        while True:
            attempt = steps.send(carry_out(attempt))
    except StopIteration as stop:
        conclusion = stop.value
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal

from msgspec import Struct

from .constraints import dollars
from .plan import Plan

OutcomeKind = Literal["verified", "malformed", "unsure", "failed", "timed_out"]


_ROUNDING_USD = 1e-12
_SAID = {"malformed": "malformed", "unsure": "not believed", "failed": "out of order", "timed_out": "too slow"}


class Step(Struct, frozen=True):
    """A candidate of the chain, with what it is expected to take."""

    candidate: str
    expected_cost_usd: float
    max_cost_usd: float
    expected_latency_ms: float
    last_resort: bool = False
    """Its answer may be given although a check failed: the frontier, or the model that the caller named."""


class Limits(Struct, frozen=True):
    """What the call may still take, all attempts together."""

    budget_ms: float
    budget_usd: float
    serve_unverified: bool = True
    """Give a last resort's answer that was not believed, marked so; False: fail instead."""


class Attempt(Struct, frozen=True):
    """Ask this candidate now, and stop it at these limits. `index` counts attempts, not steps of the chain."""

    index: int
    candidate: str
    budget_ms: float
    budget_usd: float
    reason: str
    """Why it is this candidate's turn, for frames and record."""


class Outcome(Struct, frozen=True):
    """What came of an attempt. `cost_usd` and `latency_ms` are what it really took, failed or not."""

    kind: OutcomeKind
    reason: str = ""
    cost_usd: float = 0.0
    latency_ms: float = 0.0


class Conclusion(Struct, frozen=True):
    """How the call ends. `served_index` is the index of the attempt whose answer is given, None when there is none."""

    status: Literal["verified", "unverified", "failed"]
    served_index: int | None
    escalated: bool
    """More than the chain's first step was needed."""
    reason: str
    spent_usd: float
    spent_ms: float
    skipped: tuple[tuple[str, str], ...] = ()
    """(candidate, reason) of steps that the remaining money or time ruled out."""


def steps_of(plan: Plan, frontier: str, *, named: bool = False) -> tuple[Step, ...]:
    """Return a plan's chain as steps. `named`: the caller asked for the primary by name, so it is a last resort too."""
    estimates = {estimate.candidate: estimate for estimate in plan.estimates}
    return tuple(
        Step(
            candidate=name,
            expected_cost_usd=estimates[name].cost_usd,
            max_cost_usd=estimates[name].max_cost_usd,
            expected_latency_ms=estimates[name].latency_p50_ms,
            last_resort=name == frontier or named,
        )
        for name in plan.chain
    )


class _Course:
    """What has happened so far in one call."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent_usd = 0.0
        self.spent_ms = 0.0
        self.attempts = 0
        self.went_wrong: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.unverified: int | None = None

    @property
    def left_usd(self) -> float:
        return max(0.0, self.limits.budget_usd - self.spent_usd)

    @property
    def left_ms(self) -> float:
        return max(0.0, self.limits.budget_ms - self.spent_ms)

    def obstacle(self, step: Step) -> str:
        """Why the step does not fit what is left; "" when it does."""
        if step.max_cost_usd > self.left_usd + _ROUNDING_USD:
            return f"it may cost up to {dollars(step.max_cost_usd)}, and {dollars(self.left_usd)} is left"
        if self.left_ms <= 0:
            return "no time is left"
        if self.attempts and step.expected_latency_ms > self.left_ms:
            return f"it is expected to take {step.expected_latency_ms:,.0f} ms, and {self.left_ms:,.0f} ms are left"
        return ""

    def attempt(self, step: Step, rest: Sequence[Step]) -> Attempt:
        reason = self.went_wrong[-1] if self.went_wrong else "it is the plan's primary"
        if not self.went_wrong and self.skipped:
            reason = f"{self.skipped[-1][0]} was skipped: {self.skipped[-1][1]}"
        return Attempt(self.attempts, step.candidate, self._time_for(step, rest), self.left_usd, reason)

    def take(self, step: Step, outcome: Outcome) -> None:
        self.spent_usd += max(0.0, outcome.cost_usd)
        self.spent_ms += max(0.0, outcome.latency_ms)
        if outcome.kind in {"malformed", "unsure"} and step.last_resort:
            self.unverified = self.attempts
        if outcome.kind != "verified":
            self.went_wrong.append(f"{step.candidate} was {_SAID[outcome.kind]}{_because(outcome.reason)}")
        self.attempts += 1

    def conclude(self, status: Literal["verified", "unverified", "failed"], served: int | None) -> Conclusion:
        skips = [f"{name} was skipped: {reason}" for name, reason in self.skipped]
        return Conclusion(
            status=status,
            served_index=served,
            escalated=self.attempts + len(self.skipped) > 1,
            reason="; ".join([*self.went_wrong, *skips]),
            spent_usd=self.spent_usd,
            spent_ms=self.spent_ms,
            skipped=tuple(self.skipped),
        )

    def _time_for(self, step: Step, rest: Sequence[Step]) -> float:
        """All that is left, less what the last step will need, if that leaves this one its expected time."""
        reserve = rest[-1].expected_latency_ms if rest else 0.0
        return self.left_ms - reserve if self.left_ms - reserve >= step.expected_latency_ms else self.left_ms


def escalate(chain: Sequence[Step], limits: Limits) -> Generator[Attempt, Outcome, Conclusion]:
    """Yield the attempts of one call and return how it ends.

    A step is tried only if the most it can cost fits the money that is left and, after the first attempt, its expected
    time the time that is left; else it is skipped, with the reason. A verified answer ends the call. When the chain is
    spent, a last resort's answer that was not believed is given as `unverified` if `limits.serve_unverified`; otherwise
    the call has failed: answers of specialists that were not believed are never given.
    """
    course = _Course(limits)
    for position, step in enumerate(chain):
        obstacle = course.obstacle(step)
        if obstacle:
            course.skipped.append((step.candidate, obstacle))
            continue
        outcome = yield course.attempt(step, chain[position + 1 :])
        course.take(step, outcome)
        if outcome.kind == "verified":
            return course.conclude("verified", course.attempts - 1)
    if course.unverified is not None and limits.serve_unverified:
        return course.conclude("unverified", course.unverified)
    return course.conclude("failed", None)


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
