"""Mirrors live calls to specialists in shadow, silently: off the caller's path, and the first to be shed under load.

What a shadow answers is checked as a live answer would be and compared with what was served; the comparison is recorded
and calibrates the shadow's threshold. Nobody sees the answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from msgspec import Struct

from observations.records import CallRecord, ShadowRecord
from policies.agreement import agree
from policies.confidence_book import JudgedAnswer
from policies.constraints import luck_of
from policies.contenders import Contender
from policies.plan import TaskFeatures
from policies.verify import Verifier
from registry.errors import BackendError, BackendTimeoutError, JourneymanError, StorageError
from specialists.calls import Completion
from specialists.templates import read_answer

from .beliefs import Beliefs
from .execution import answer_of, call_for, confidence_of
from .job import Job
from .log import get
from .metrics import Metrics
from .recording import Recorder
from .roster import Roster

QUEUED: Final = 32
"""Calls that wait for a shadow; more are left out."""
SHADOW_BUDGET_MS: Final = 60_000.0
PATIENCE_S: Final = 2.0
"""How long a mirrored call lets callers' go first; a backend that is never free is still shadowed, slowly."""

_log = get("shadowing")


class Served(Struct, frozen=True):
    """What the caller got."""

    record: CallRecord
    completion: Completion


class ShadowParts(Struct, frozen=True):
    """What mirroring needs of the gateway."""

    roster: Roster
    verifier: Verifier
    recorder: Recorder
    beliefs: Beliefs
    metrics: Metrics


class _Mirrored(Struct, frozen=True):
    job: Job
    served: Served
    contender: Contender


class Mirror:
    """One for each process. `offer` is called with every answered call and never waits or raises."""

    def __init__(self, parts: ShadowParts, share: float, max_in_flight: int) -> None:
        self._parts = parts
        self._share = share
        self._workers = max_in_flight
        self._queue: asyncio.Queue[_Mirrored] = asyncio.Queue(QUEUED)

    def offer(self, job: Job, served: Served) -> None:
        """Mirror a call to every shadow that it concerns, as far as there is room."""
        for contender in self._parts.roster.contenders.values():
            if not self._concerns(contender, job.features, served.record):
                continue
            if not is_drawn(job.call_id, contender.name, self._share):
                continue
            try:
                self._queue.put_nowait(_Mirrored(job, served, contender))
            except asyncio.QueueFull:
                self._parts.metrics.add("journeyman_shadow_total", contender.name, "shed")

    def _concerns(self, contender: Contender, features: TaskFeatures, record: CallRecord) -> bool:
        """A shadow, or a canary that did not answer this call itself, whose task this is and which is ready."""
        candidate = contender.candidate
        if candidate.kind != "specialist" or candidate.stage not in ("shadow", "canary"):
            return False
        if record.cluster not in candidate.clusters or any(a.candidate == contender.name for a in record.attempts):
            return False
        if candidate.template_signature is not None and candidate.template_signature != features.signature:
            return False
        return self._is_ready(contender)

    def _is_ready(self, contender: Contender) -> bool:
        adapters = self._parts.roster.adapter_sets().get(contender.backend)
        return adapters is not None and adapters.ready(contender.name)

    async def run(self) -> None:
        """Answer mirrored calls, a few at once, until cancelled."""
        await asyncio.gather(*(self._work() for _ in range(self._workers)))

    async def _work(self) -> None:
        while True:
            mirrored = await self._queue.get()
            try:
                await self._answer(mirrored)
            except JourneymanError as error:
                _log.warning("shadow lost", call_id=mirrored.job.call_id, reason=error.message)
            except Exception:
                _log.exception("shadow lost", call_id=mirrored.job.call_id)

    async def _answer(self, mirrored: _Mirrored) -> None:
        job, contender, parts = mirrored.job, mirrored.contender, self._parts
        await parts.roster.lulls.wait(contender.backend, PATIENCE_S)
        backend = parts.roster.backends().get(contender.backend)
        if backend is None or not self._is_ready(contender):  # gone, or its place was given away while this waited
            parts.metrics.add("journeyman_shadow_total", contender.name, "shed")
            return
        started_s = time.monotonic()
        completion: Completion | None = None
        outcome, reason = "failed", ""
        threshold = parts.roster.threshold(contender)
        try:
            raw = await backend.complete(call_for(contender, job.call), SHADOW_BUDGET_MS)
            completion = read_answer(contender.template, raw) if contender.template else raw
            verdict = parts.verifier.verify(answer_of(completion), job.expectation, threshold)
            outcome, reason = verdict.outcome, verdict.reason
        except BackendTimeoutError as error:
            outcome, reason = "timed_out", error.message
        except BackendError as error:
            reason = error.message
        latency_ms = (time.monotonic() - started_s) * 1000.0
        record = self._record(mirrored, completion, (outcome, reason, threshold), latency_ms)
        parts.metrics.add("journeyman_shadow_total", contender.name, outcome)
        self._calibrate(record)
        try:
            parts.recorder.write(record)
        except StorageError as error:
            _log.error("record lost", call_id=job.call_id, reason=error.message)

    def _record(
        self,
        mirrored: _Mirrored,
        completion: Completion | None,
        judged: tuple[str, str, float | None],
        latency_ms: float,
    ) -> ShadowRecord:
        outcome, reason, threshold = judged
        job, contender, call = mirrored.job, mirrored.contender, mirrored.served.record
        mode = job.caller.tenant.content_mode
        usage = completion.usage if completion else None
        same = None
        if completion is not None and outcome != "malformed":
            same = agree(answer_of(completion), answer_of(mirrored.served.completion))
        return ShadowRecord(
            id=f"{call.id}:{contender.name}",
            at_ms=call.at_ms,
            call_id=call.id,
            specialist=contender.name,
            tenant=call.tenant,
            cluster=call.cluster,
            outcome=outcome,  # type: ignore[arg-type]
            reason=self._parts.recorder.clean(reason),
            agrees=False if outcome == "malformed" else same,
            confidence=confidence_of(completion) if completion else None,
            threshold=threshold if threshold is not None and threshold < float("inf") else None,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            cost_usd=contender.prices.cost_usd(usage.prompt_tokens, usage.completion_tokens) if usage else 0.0,
            latency_ms=latency_ms,
            reference=call.served_by,
            reference_verified=call.outcome == "verified",
            reference_cost_usd=call.cost_usd,
            reference_latency_ms=call.latency_ms,
            content_mode=mode,
            **(self._parts.recorder.answer(completion, mode, call.id) if completion else {}),
        )

    def _calibrate(self, record: ShadowRecord) -> None:
        """A comparison with a believed answer is a judgement, whatever the shadow's confidence was."""
        if record.agrees is None or not record.reference_verified or record.outcome in ("failed", "timed_out"):
            return
        score = None if record.outcome == "malformed" else record.confidence
        answer = JudgedAnswer(id=record.call_id, at_ms=int(time.time() * 1000), score=score, right=record.agrees)
        self._parts.beliefs.compared(record.specialist, answer)


def is_drawn(call_id: str, specialist: str, share: float) -> bool:
    """Whether a call is among the share that is mirrored: the same for the same call and specialist."""
    return luck_of(f"shadow of {specialist}", call_id) < share
