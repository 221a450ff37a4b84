"""The one request path: admit, classify, plan, execute, settle, record. Every route goes through here.

Knows nothing of HTTP: it takes a Job and yields frames.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct, structs

from observations.records import AttemptRecord, CallRecord, PlanRecord
from policies.access import tier_for
from policies.budget import Reservation
from policies.classify import ClassifyInput
from policies.plan import PlanRequest
from policies.planner import plan
from policies.terms import PlannerPolicy, terms_of
from policies.two_stage import TwoStageClassifier
from policies.verify import Verifier
from registry.errors import StorageError
from registry.identifiers import UNKNOWN_CLUSTER
from specialists.contexts import json_keys_of

from .beliefs import Beliefs
from .decision import Decision
from .demoting import Demoter
from .execution import Execution, Means, Reply
from .frames import AnswerFrame, Frame, PlanFrame
from .job import Job
from .limits import Limits
from .log import get
from .plan_recording import plan_record
from .plans import PlanBook
from .recording import Recorder, error_code
from .roster import Roster
from .shadowing import Mirror, Served
from .telemetry import Telemetry

_log = get("gateway")


class Policies(Struct, frozen=True):
    """The operators' policies in force, and their digest."""

    planner: PlannerPolicy
    classifier: TwoStageClassifier
    digest: str


class Parts(Struct, frozen=True):
    """What a gateway is made of."""

    roster: Roster
    policies: Policies
    recorder: Recorder
    telemetry: Telemetry
    book: PlanBook
    limits: Limits
    beliefs: Beliefs
    mirror: Mirror | None = None
    demoter: Demoter | None = None


class Gateway:
    """Answers jobs. One for each process; every part it needs is given to it."""

    def __init__(self, parts: Parts, *, require_record: bool = False) -> None:
        self._roster = parts.roster
        self._policies = parts.policies
        self._recorder = parts.recorder
        self._telemetry = parts.telemetry
        self._book = parts.book
        self._verifier = Verifier(check_truncated_text=parts.policies.planner.check_truncated_text)
        self._means = Means(
            roster=parts.roster,
            verifier=self._verifier,
            observe=parts.telemetry.attempted,
            serve_unverified=parts.policies.planner.serve_unverified,
        )
        self._limits = parts.limits
        self._beliefs = parts.beliefs
        self._mirror = parts.mirror
        self._demoter = parts.demoter
        self._require_record = require_record

    def check(self, job: Job) -> None:
        """Refuse a call whose demands nobody could meet (a schema that is not one)."""
        self._verifier.check_expectation(job.expectation)

    def decide(self, job: Job) -> Decision:
        """Classify and plan. Raises NoCandidateError, InvalidRequestError."""
        started_s = time.perf_counter()
        seen = self._policies.classifier.classify(
            ClassifyInput(
                signature=job.features.signature,
                system=job.system,
                text=job.text,
                tool_names=job.tool_names,
                task_type=job.hints.task_type,
                json_keys=json_keys_of(job.call.response_format),
            )
        )
        key_tier = tier_for(job.caller.tenant, job.hints.user_tier)
        terms = terms_of(job.hints, self._policies.planner, key_tier)
        features = self._roster.sharpened(job.features, seen.cluster)
        context = self._beliefs.context(job.text, seen.cluster)
        candidates = self._roster.candidates(features, context, seen.cluster, job.at_ms, job.model)
        request = PlanRequest(
            features=features,
            cluster_id=seen.cluster,
            cluster_matched=seen.source != "none",
            terms=terms,
            asked_for=job.model,
            call_id=job.call_id,
        )
        made = plan(request, candidates, self._policies.planner, self._beliefs.chance(job.call_id))
        self._beliefs.decided(job.call_id, context, made)
        decision_ms = (time.perf_counter() - started_s) * 1000.0
        self._telemetry.decided(made, seen.source, decision_ms)
        return Decision(seen, made, tuple(candidates), key_tier, decision_ms)

    async def answer(self, job: Job) -> AsyncGenerator[Frame, None]:
        """Answer one job. Every way out leaves a record: answered, failed, or the caller gone."""
        run = _Run(job)
        try:
            run.decision = self.decide(job)
            run.reservation = self._limits.reserve(
                job.caller.tenant, run.decision.plan.expected_cost_range[1], job.at_ms
            )
            run.execution = Execution(job, run.decision.plan, self._means)
            yield PlanFrame(job.plan_id, run.decision.plan)
            async for frame in run.execution.run():
                yield frame
            yield self._finish(run)
        except (GeneratorExit, asyncio.CancelledError):
            self._leave(run, "cancelled", "caller_gone")
            raise
        except Exception as error:
            self._leave(run, "failed", error_code(error))
            raise
        finally:
            self._pay(run)

    def _finish(self, run: _Run) -> AnswerFrame:
        assert run.execution is not None and run.decision is not None
        reply, attempt = run.execution.served()
        assert reply.completion is not None
        frontier_usd = self._frontier_cost(run.job, reply)
        record = self._record(run, "verified" if attempt.outcome == "verified" else "unverified", reply, attempt)
        record = structs.replace(record, frontier_cost_usd=frontier_usd)
        self._settle(run, record)
        if self._mirror is not None:
            self._mirror.offer(run.job, Served(record, reply.completion))
        return AnswerFrame(
            completion=reply.completion,
            served_by=attempt.candidate,
            verified=attempt.outcome == "verified",
            escalated=record.escalated,
            cost_usd=record.cost_usd,
            saved_usd=frontier_usd - record.cost_usd,
            latency_ms=record.latency_ms,
            first_token_ms=record.first_token_ms,
            attempts=len(record.attempts),
            outcome=record.outcome,
        )

    def _frontier_cost(self, job: Job, reply: Reply) -> float:
        """The whole prompt and this answer at the frontier's prices."""
        assert reply.completion is not None
        usage = reply.completion.usage
        prompt = max(usage.prompt_tokens, job.features.prompt_tokens)
        return self._roster.catalog.frontier.prices.cost_usd(prompt, usage.completion_tokens)

    def _leave(self, run: _Run, outcome: Any, code: str) -> None:
        """Record a call that was not answered; never lets its own trouble hide the cause."""
        if run.settled:
            return
        if run.execution is not None:
            run.execution.abandon()
        try:
            self._settle(run, structs.replace(self._record(run, outcome, None, None), error_code=code))
        except StorageError as error:
            _log.error("record lost", call_id=run.job.call_id, reason=error.message)
        except Exception:
            _log.exception("record lost", call_id=run.job.call_id)

    def _pay(self, run: _Run) -> None:
        """Settle budget and rates, once, whatever became of the call: nothing stays set aside."""
        if run.paid:
            return
        run.paid = True
        attempts = run.execution.attempts if run.execution else []
        if run.reservation is not None:
            self._limits.settle(run.reservation, sum(a.cost_usd for a in attempts))
        self._limits.give_back(run.job, sum(a.prompt_tokens + a.completion_tokens for a in attempts))

    def _record(self, run: _Run, outcome: Any, reply: Reply | None, served: AttemptRecord | None) -> CallRecord:
        job, decision = run.job, run.decision
        attempts = tuple(run.execution.attempts) if run.execution else ()
        completion = reply.completion if reply else None
        content = self._recorder.content(job, run.job.caller.tenant.content_mode, completion)
        return CallRecord(
            id=job.call_id,
            at_ms=job.at_ms,
            route=job.route,
            tenant=job.caller.tenant.name,
            key_id=job.caller.key_id,
            end_user=self._recorder.hash(job.end_user) if job.end_user else "",
            streamed=job.stream,
            requested_model=job.requested_model,
            signature=job.features.signature,
            cluster=decision.classification.cluster if decision else UNKNOWN_CLUSTER,
            cluster_source=decision.classification.source if decision else "none",
            task_type=self._recorder.clean(job.hints.task_type or ""),
            hint_agrees=decision.classification.hint_agrees if decision else None,
            plan=self._plan_record(job, decision) if decision else None,
            attempts=self._recorder.clean_attempts(attempts),
            served_by=served.candidate if served else "",
            frontier=self._roster.catalog.frontier.model_name,
            outcome=outcome,
            finish_reason=served.finish_reason if served else "",
            prompt_tokens=sum(a.prompt_tokens for a in attempts),
            completion_tokens=sum(a.completion_tokens for a in attempts),
            cost_usd=sum(a.cost_usd for a in attempts),
            latency_ms=job.elapsed_ms(),
            first_token_ms=served.first_token_ms if served else None,
            decision_ms=decision.decision_ms if decision else 0.0,
            escalated=_escalated(run.execution),
            **content,
        )

    def _plan_record(self, job: Job, decision: Decision) -> PlanRecord:
        return plan_record(job, decision, self._roster.catalog.digest, self._policies.digest)

    def _settle(self, run: _Run, record: CallRecord) -> None:
        """Everything that must happen once a call's end is known, before its last byte goes out."""
        run.settled = True
        self._pay(run)
        self._telemetry.ended(record)
        if self._demoter is not None and run.decision is not None:
            self._demoter.answered(record.id, record.attempts, run.decision.plan)
        self._book.keep(record)
        try:
            self._recorder.remember_signature(run.job, run.job.caller.tenant.content_mode)
            if not self._recorder.write(record) and self._require_record:
                raise StorageError("The spool is full; records are being shed.")
        except StorageError as error:
            _log.error("record lost", call_id=record.id, reason=error.message)
            if self._require_record:
                raise


def _escalated(execution: Execution | None) -> bool:
    if execution is None:
        return False
    return execution.conclusion.escalated if execution.conclusion else len(execution.attempts) > 1


class _Run:
    """What is known of a call while it is answered."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.decision: Decision | None = None
        self.reservation: Reservation | None = None
        self.execution: Execution | None = None
        self.settled = False
        self.paid = False
