"""Carries out one plan: asks, checks, escalates, and tells what happens as frames.

What to do next is decided by policies.escalation; this module only does it. Knows nothing of HTTP or of records.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from msgspec import Struct, structs

from observations.records import AttemptRecord
from policies.answers import Answer, AnsweredToolCall
from policies.contenders import Contender
from policies.escalation import Attempt, Conclusion, Limits, Outcome, escalate, steps_of
from policies.plan import Plan
from policies.verify import Verifier
from registry.catalog import AUTO
from registry.errors import BackendError, BackendTimeoutError, JourneymanError, VerificationFailedError
from specialists.backend import Backend
from specialists.calls import Call, Completion, Delta, ToolCallDelta, Usage
from specialists.collecting import Collector
from specialists.templates import read_answer, render

from .frames import AttemptFrame, TokenFrame
from .job import Job
from .roster import Roster

Observe = Callable[[AttemptRecord, str, str], None]


class Means(Struct, frozen=True):
    """What it takes to carry out plans."""

    roster: Roster
    verifier: Verifier
    observe: Observe
    """Told of every attempt that has ended, with its cluster and its call's id."""
    serve_unverified: bool = True


class Reply(Struct):
    """What one attempt brought: the answer as far as it came, and its times."""

    completion: Completion | None = None
    error: JourneymanError | None = None
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    streamed: bool = False
    """Whether the caller has already seen it."""


class Execution:
    """One run of one plan. After `run` is exhausted, `reply` and `conclusion` hold the result.

    It keeps the contenders and backends that the plan was made of: an edit of the registry ends no call.
    """

    def __init__(self, job: Job, plan: Plan, means: Means) -> None:
        self._job = job
        self._plan = plan
        self._frontier = means.roster.catalog.frontier.model_name
        self._contenders = means.roster.contenders
        self._thresholds = {name: means.roster.threshold(self._contenders[name]) for name in plan.chain}
        self._backends = means.roster.backends()
        self._lulls = means.roster.lulls
        self._verifier = means.verifier
        self._observe = means.observe
        self._serve_unverified = means.serve_unverified
        self._replies: list[Reply] = []
        self._asking: tuple[Contender, float, Collector | None] | None = None
        self.attempts: list[AttemptRecord] = []
        self.conclusion: Conclusion | None = None

    def served(self) -> tuple[Reply, AttemptRecord]:
        """The reply that the caller gets. Raises what a caller should hear when there is none."""
        assert self.conclusion is not None
        index = self.conclusion.served_index
        if index is not None:
            return self._replies[index], self.attempts[index]
        errors = [reply.error for reply in self._replies if reply.error is not None]
        if errors and len(errors) == len(self._replies):
            raise errors[-1]
        raise VerificationFailedError(f"No answer was believed: {self.conclusion.reason}.")

    async def run(self) -> AsyncGenerator[AttemptFrame | TokenFrame, None]:
        """Drive the escalation to its end."""
        chain = steps_of(self._plan, self._frontier, named=self._job.model != AUTO)
        steps = escalate(chain, self._limits())
        attempt = self._next(steps, None)
        while attempt is not None:
            yield AttemptFrame(attempt.index, attempt.candidate, "started", reason=attempt.reason)
            async for token in self._ask(attempt):
                yield token
            outcome = self._judge(attempt)
            yield _finished(attempt, outcome)
            attempt = self._next(steps, outcome)
        for frame in self._held_back():
            yield frame

    def _next(self, steps: Generator[Attempt, Outcome, Conclusion], outcome: Outcome | None) -> Attempt | None:
        """The next attempt, or None and the conclusion."""
        try:
            return next(steps) if outcome is None else steps.send(outcome)
        except StopIteration as stop:
            self.conclusion = stop.value
            return None

    def abandon(self) -> None:
        """Account for an attempt that was cut off because the caller went: only what came is billed."""
        if self._asking is None:
            return
        contender, started_s, collector = self._asking
        self._asking = None
        completion = collector.completion() if collector else Completion(text=None)
        reply = Reply(completion=completion, latency_ms=_ms_since(started_s))
        self.attempts.append(self._attempt_record(contender, reply, "failed", "the caller went away"))

    def _limits(self) -> Limits:
        terms = self._plan.terms
        left_ms = max(1.0, terms.latency_budget_ms - self._job.elapsed_ms())
        return Limits(left_ms, terms.max_cost_usd, self._serve_unverified)

    def _is_live(self, attempt: Attempt, contender: Contender) -> bool:
        """Whether the caller may see the answer while it comes: only where no check could still take it back."""
        is_last_resort = attempt.candidate == self._frontier or self._job.model != AUTO
        return (
            self._job.stream and is_last_resort and self._serve_unverified and self._thresholds[contender.name] is None
        )

    async def _ask(self, attempt: Attempt) -> AsyncGenerator[TokenFrame, None]:
        contender = self._contenders[attempt.candidate]
        backend = self._backends[contender.backend]
        live = self._is_live(attempt, contender)
        started_s = time.monotonic()
        reply = Reply(streamed=live)
        collector = Collector() if live else None
        self._asking = (contender, started_s, collector)
        self._replies.append(reply)
        try:
            call = call_for(contender, self._job.call)
            with self._lulls.answering(contender.backend):
                if collector is None:
                    completion = await backend.complete(call, attempt.budget_ms)
                else:
                    async for token in self._stream(backend, call, attempt, reply, collector):
                        yield token
                    completion = collector.completion()
            reply.completion = read_answer(contender.template, completion) if contender.template else completion
        except BackendError as error:
            reply.error = error
            if collector is not None and reply.first_token_ms is not None:
                reply.completion = collector.completion()
        reply.latency_ms = _ms_since(started_s)
        self._asking = None

    async def _stream(
        self, backend: Backend, call: Call, attempt: Attempt, reply: Reply, collector: Collector
    ) -> AsyncGenerator[TokenFrame, None]:
        started_s = time.monotonic()
        deltas = backend.stream(call, attempt.budget_ms)
        try:
            async for delta in deltas:
                if reply.first_token_ms is None and (delta.text or delta.tool_calls or delta.refusal):
                    reply.first_token_ms = _ms_since(started_s)
                collector.add(delta)
                if delta.text or delta.tool_calls or delta.refusal or delta.logprobs:
                    yield TokenFrame(delta, attempt.candidate)
        finally:
            await deltas.aclose()

    def _judge(self, attempt: Attempt) -> Outcome:
        reply = self._replies[-1]
        contender = self._contenders[attempt.candidate]
        kind, reason = self._verdict(contender, reply)
        record = self._attempt_record(contender, reply, kind, reason)
        self.attempts.append(record)
        self._observe(record, self._plan.cluster_id, self._job.call_id)
        if reply.error is not None and reply.streamed and reply.first_token_ms is not None:
            raise reply.error  # the caller has seen a part: nothing else may follow it
        return Outcome(kind=kind, reason=reason, cost_usd=record.cost_usd, latency_ms=reply.latency_ms)

    def _verdict(self, contender: Contender, reply: Reply) -> tuple[Any, str]:
        if isinstance(reply.error, BackendTimeoutError):
            return "timed_out", reply.error.message
        if reply.error is not None or reply.completion is None:
            return "failed", reply.error.message if reply.error else "no answer"
        threshold = self._thresholds[contender.name]
        verdict = self._verifier.verify(answer_of(reply.completion), self._job.expectation, threshold)
        return verdict.outcome, verdict.reason

    def _attempt_record(self, contender: Contender, reply: Reply, outcome: Any, reason: str) -> AttemptRecord:
        completion = reply.completion
        usage = completion.usage if completion else Usage()
        return AttemptRecord(
            candidate=contender.name,
            backend=contender.backend,
            outcome=outcome,
            reason=reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            usage_estimated=usage.estimated,
            cost_usd=contender.prices.cost_usd(usage.prompt_tokens, usage.completion_tokens),
            latency_ms=reply.latency_ms,
            first_token_ms=reply.first_token_ms,
            confidence=confidence_of(completion) if completion else None,
            threshold=_finite(self._thresholds[contender.name]),
            finish_reason=completion.finish_reason if completion else "",
        )

    def _held_back(self) -> list[TokenFrame]:
        """What was kept from the caller until it was checked."""
        assert self.conclusion is not None
        index = self.conclusion.served_index
        if not self._job.stream or index is None or self._replies[index].streamed:
            return []
        completion = self._replies[index].completion
        assert completion is not None
        return [TokenFrame(delta, self.attempts[index].candidate) for delta in _deltas(completion)]


def call_for(contender: Contender, call: Call) -> Call:
    """The call as this contender should be asked it."""
    needs_logprobs = call.logprobs or contender.threshold is not None or contender.candidate.kind == "specialist"
    call = structs.replace(call, model=contender.upstream, logprobs=needs_logprobs)
    return render(contender.template, call) if contender.template else call


def _deltas(completion: Completion) -> list[Delta]:
    deltas = []
    if completion.text or completion.refusal or completion.logprobs:
        deltas.append(Delta(text=completion.text or "", refusal=completion.refusal or "", logprobs=completion.logprobs))
    for index, call in enumerate(completion.tool_calls):
        piece = ToolCallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments)
        deltas.append(Delta(tool_calls=(piece,)))
    return deltas


def answer_of(completion: Completion) -> Answer:
    """The completion as the checks see it."""
    return Answer(
        text=completion.text,
        tool_calls=tuple(AnsweredToolCall(c.name, c.arguments) for c in completion.tool_calls),
        finish_reason=completion.finish_reason,
        refusal=completion.refusal,
        confidence=confidence_of(completion),
        unreadable=completion.unreadable,
    )


def confidence_of(completion: Completion) -> float | None:
    """Sum of its token log-probabilities; None when the backend gave none."""
    return sum(t.logprob for t in completion.logprobs) if completion.logprobs else None


def _finite(threshold: float | None) -> float | None:
    return threshold if threshold is not None and math.isfinite(threshold) else None


def _finished(attempt: Attempt, outcome: Outcome) -> AttemptFrame:
    return AttemptFrame(
        index=attempt.index,
        candidate=attempt.candidate,
        state="finished",
        outcome=outcome.kind,
        reason=outcome.reason,
        cost_usd=outcome.cost_usd,
        latency_ms=outcome.latency_ms,
    )


def _ms_since(started_s: float) -> float:
    return (time.monotonic() - started_s) * 1000.0
