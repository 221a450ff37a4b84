"""How each candidate conducts itself lately: belief, formatting, speed, length. In memory, O(1) an update.

Beliefs are Beta posteriors for a (candidate, cluster): a prior worth `PRIOR_CALLS` calls, then counts that fade so that
the last `MEMORY_CALLS` or so speak. Speeds are moving averages that go back to the registry's figures when nothing is
heard for a while: a candidate that was slow once, and is therefore not asked, gets another chance. How good the
answers are is the bandit's business. The caller brings the clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, Literal, TypeVar

from msgspec import Struct

OutcomeKind = Literal["verified", "malformed", "unsure", "failed", "timed_out"]

K = TypeVar("K")
V = TypeVar("V")

UNMEASURED_BELIEF: Final = 0.9
PRIOR_CALLS: Final = 20.0
MEMORY_CALLS: Final = 500.0
SPEED_SHARE: Final = 0.1
"""Weight of the newest call in a speed's moving average."""
SPEED_HALF_LIFE_MS: Final = 300_000.0
"""Silence after which a speed is half-way back to its prior."""

_MINUTES: Final = 60
_LEAST_MS: Final = 0.01
_MS_PER_MINUTE: Final = 60_000


class Speed(Struct, frozen=True):
    """How fast a candidate answers."""

    first_token_ms: float
    tokens_per_s: float


class _Beta:
    """Faded counts of yes and no."""

    __slots__ = ("no", "yes")

    def __init__(self) -> None:
        self.yes = 0.0
        self.no = 0.0

    def count(self, yes: bool) -> None:
        fade = 1.0 - 1.0 / MEMORY_CALLS
        self.yes = self.yes * fade + yes
        self.no = self.no * fade + (not yes)

    def mean(self, prior: float) -> float:
        return (self.yes + prior * PRIOR_CALLS) / (self.yes + self.no + PRIOR_CALLS)


class _Belief:
    """What is known of one candidate in one cluster."""

    __slots__ = ("believed", "output_tokens")

    def __init__(self) -> None:
        self.believed = _Beta()
        self.output_tokens: float | None = None


class _LastHour:
    """Calls and malformed answers in 60 minute-long buckets."""

    __slots__ = ("bad", "calls", "malformed", "minute", "total")

    def __init__(self) -> None:
        self.calls = [0] * _MINUTES
        self.malformed = [0] * _MINUTES
        self.total = 0
        self.bad = 0
        self.minute = 0

    def advance(self, now_ms: int) -> None:
        """Empty the buckets whose minute has passed, each once: O(1) on average. A clock gone back does nothing."""
        minute = now_ms // _MS_PER_MINUTE
        for passed in range(max(self.minute + 1, minute - _MINUTES + 1), minute + 1):
            slot = passed % _MINUTES
            self.total -= self.calls[slot]
            self.bad -= self.malformed[slot]
            self.calls[slot] = self.malformed[slot] = 0
        self.minute = max(self.minute, minute)

    def count(self, malformed: bool, now_ms: int) -> None:
        self.advance(now_ms)
        slot = self.minute % _MINUTES
        self.calls[slot] += 1
        self.total += 1
        self.malformed[slot] += malformed
        self.bad += malformed


class _Pace:
    """Moving averages of a candidate's speed. Without a first token's time, all of the time counts as the tokens'."""

    __slots__ = ("first_token_ms", "heard_ms", "ms_per_token")

    def __init__(self) -> None:
        self.first_token_ms: float | None = None
        self.ms_per_token: float | None = None
        self.heard_ms = 0

    def hear(self, first_token_ms: float | None, latency_ms: float, tokens: int, now_ms: int) -> None:
        if now_ms - self.heard_ms > 4 * SPEED_HALF_LIFE_MS:
            self.first_token_ms = self.ms_per_token = None
        if first_token_ms is not None:
            self.first_token_ms = _moved(self.first_token_ms, min(first_token_ms, latency_ms))
        before_ms = first_token_ms if first_token_ms is not None else self.first_token_ms or 0.0
        self.ms_per_token = _moved(self.ms_per_token, max(latency_ms - before_ms, _LEAST_MS) / tokens)
        self.heard_ms = max(now_ms, self.heard_ms)


class ConductBook:
    """The book: the last `max_candidates` candidates, and the last `max_beliefs` pairs of candidate and cluster."""

    def __init__(self, max_candidates: int = 1_000, max_beliefs: int = 20_000) -> None:
        self._max_candidates = max_candidates
        self._max_beliefs = max_beliefs
        self._beliefs: OrderedDict[tuple[str, str], _Belief] = OrderedDict()
        self._hours: OrderedDict[str, _LastHour] = OrderedDict()
        self._paces: OrderedDict[str, _Pace] = OrderedDict()

    def observe(self, candidate: str, cluster: str, kind: OutcomeKind, now_ms: int, output_tokens: int = 0) -> None:
        """Count one attempt. Failures and time-outs say nothing about answers: they are the breaker's business."""
        if kind in {"failed", "timed_out"}:
            return
        belief = self._belief(candidate, cluster)
        belief.believed.count(kind == "verified")
        if output_tokens > 0:
            before = belief.output_tokens
            belief.output_tokens = output_tokens if before is None else before + SPEED_SHARE * (output_tokens - before)
        hour = self._hours.get(candidate)
        if hour is None:
            hour = _kept(self._hours, candidate, _LastHour(), self._max_candidates)
        self._hours.move_to_end(candidate)
        hour.count(kind == "malformed", now_ms)

    def observe_speed(
        self, candidate: str, first_token_ms: float | None, latency_ms: float, output_tokens: int, now_ms: int = 0
    ) -> None:
        """Count one answer's speed; `first_token_ms` is None when it was not streamed. Nonsense is ignored."""
        if not 0 < latency_ms < math.inf or output_tokens < 1:
            return
        if first_token_ms is not None and not 0 <= first_token_ms < math.inf:
            return
        pace = self._paces.get(candidate)
        if pace is None:
            pace = _kept(self._paces, candidate, _Pace(), self._max_candidates)
        self._paces.move_to_end(candidate)
        pace.hear(first_token_ms, latency_ms, output_tokens, now_ms)

    def p_believed(self, candidate: str, cluster: str, prior: float | None = None) -> float:
        """Return predicted P(its answer passes verification)."""
        prior = UNMEASURED_BELIEF if prior is None else prior
        belief = self._beliefs.get((candidate, cluster))
        return prior if belief is None else belief.believed.mean(prior)

    def trials(self, candidate: str, cluster: str) -> float:
        """Return how many answers were checked, old ones counting less."""
        belief = self._beliefs.get((candidate, cluster))
        return 0.0 if belief is None else belief.believed.yes + belief.believed.no

    def output_tokens(self, candidate: str, cluster: str) -> int | None:
        """Return the usual length of its answers in the cluster; None when none was seen."""
        belief = self._beliefs.get((candidate, cluster))
        return None if belief is None or belief.output_tokens is None else round(belief.output_tokens)

    def formatting(self, candidate: str, now_ms: int) -> tuple[float, int]:
        """Return (share of malformed answers, calls) of the last hour."""
        hour = self._hours.get(candidate)
        if hour is None:
            return 0.0, 0
        hour.advance(now_ms)
        return (hour.bad / hour.total if hour.total else 0.0), hour.total

    def speed(self, candidate: str, prior: Speed | None = None, now_ms: int | None = None) -> Speed | None:
        """Return the speed to expect: lately measured, going back to the prior as silence grows; None: nobody knows.

        Without a prior and the time, what was measured last holds for ever.
        """
        pace = self._paces.get(candidate)
        if pace is None or pace.ms_per_token is None:
            return prior
        measured = Speed(pace.first_token_ms or 0.0, 1000.0 / pace.ms_per_token)
        if prior is None or now_ms is None:
            return measured
        trust = 0.5 ** (max(0, now_ms - pace.heard_ms) / SPEED_HALF_LIFE_MS)
        prior_ms_per_token = 1000.0 / prior.tokens_per_s
        return Speed(
            first_token_ms=prior.first_token_ms + trust * (measured.first_token_ms - prior.first_token_ms),
            tokens_per_s=1000.0 / (prior_ms_per_token + trust * (pace.ms_per_token - prior_ms_per_token)),
        )

    def _belief(self, candidate: str, cluster: str) -> _Belief:
        key = (candidate, cluster)
        belief = self._beliefs.get(key)
        if belief is None:
            return _kept(self._beliefs, key, _Belief(), self._max_beliefs)
        self._beliefs.move_to_end(key)
        return belief


def _kept(book: OrderedDict[K, V], key: K, value: V, capacity: int) -> V:
    book[key] = value
    if len(book) > capacity:
        book.popitem(last=False)
    return value


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + SPEED_SHARE * (value - average)
