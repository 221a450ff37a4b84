"""Turns a finished call into its record and hands it to the spool, redacted or not at all.

Knows nothing of how the spool is loaded. The redactor fails closed: what it cannot clear is withheld, and the
record says so.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import structs

from observations.records import (
    AttemptRecord,
    CallRecord,
    ContentMode,
    Event,
    FeedbackRecord,
    SignatureRecord,
)
from observations.spool import Spool
from policies.redaction import Redactor, Session, residual_scan
from registry.errors import JourneymanError, RedactionError, StorageError
from registry.identifiers import new_ulid
from specialists.calls import Completion, Message

from .job import Job
from .log import get
from .metrics import Metrics
from .wire.chat import FeedbackRequest

_SIGNATURES_KEPT = 10_000
_WITHHELD = "redaction_failed"

_log = get("recording")


class Recorder:
    """Writes events to the spool. One for each process."""

    def __init__(self, spool: Spool, redactor: Redactor, hash_key: bytes, metrics: Metrics) -> None:
        self._spool = spool
        self._redactor = redactor
        self._hash_key = hash_key
        self._metrics = metrics
        self._signatures_seen: OrderedDict[str, None] = OrderedDict()

    def hash(self, text: str) -> str:
        """A keyed hash: equal texts match, and nobody without the key can guess them."""
        return hmac.digest(self._hash_key, text.encode("utf-8", "surrogatepass"), "sha256").hex()

    def write(self, event: Event) -> bool:
        """Append to the spool. False when it was shed; raises StorageError when it could not be written."""
        try:
            written = self._spool.append(event)
        except StorageError:
            self._metrics.add("journeyman_records_total", "failed")
            raise
        self._metrics.add("journeyman_records_total", "written" if written else "shed")
        return written

    def content(self, job: Job, mode: ContentMode, answer: Completion | None) -> dict[str, Any]:
        """The record's content fields under the tenant's mode."""
        if mode == "none":
            return {"content_mode": mode}
        digest = self.hash("\x1e".join(f"{m.role}\x1f{_text(m)}" for m in job.call.messages))
        if mode == "hash":
            return {"content_mode": mode, "prompt_hash": digest}
        return {"content_mode": mode, "prompt_hash": digest} | self._redacted(job, answer)

    def _redacted(self, job: Job, answer: Completion | None) -> dict[str, Any]:
        def build(session: Session) -> dict[str, Any]:
            fields: dict[str, Any] = {
                "messages": [_redact_message(session, m) for m in job.varying],
                "metadata": session.redact_json(job.metadata) if job.metadata else {},
            }
            return fields | (_redact_answer(session, answer) if answer is not None else {})

        session = self._redactor.session()
        fields = self._cleared(session, build, job.call_id)
        if fields is None:
            return {"withheld": _WITHHELD}
        fields["redactions"] = counts = dict(session.counts)
        for kind, count in counts.items():
            self._metrics.add("journeyman_redactions_total", kind, amount=count)
        return fields

    def answer(self, answer: Completion, mode: ContentMode, call_id: str) -> dict[str, Any]:
        """A shadow's answer as its record may hold it; nothing where the tenant's content is not kept."""
        if mode != "redacted":
            return {}
        return self._cleared(self._redactor.session(), lambda session: _redact_answer(session, answer), call_id) or {}

    def _cleared(
        self, session: Session, build: Callable[[Session], dict[str, Any]], call_id: str
    ) -> dict[str, Any] | None:
        """Redacted fields that passed the second look, or None: a fault in here costs the content, never the call."""
        try:
            fields = build(session)
            missed = residual_scan(msgspec.json.encode(fields).decode(), self._redactor.policy.kinds)
            reason = f"a second look found {', '.join(missed)}" if missed else ""
        except RedactionError as error:
            reason = error.message
        except Exception as error:
            reason = type(error).__name__
        if not reason:
            return fields
        self._metrics.add("journeyman_records_withheld_total", _WITHHELD)
        _log.warning("content withheld", call_id=call_id, reason=reason)
        return None

    def clean(self, text: str) -> str:
        """A caller's or backend's words, redacted; empty when they cannot be."""
        if not text:
            return ""
        try:
            return self._redactor.redact(text).text
        except RedactionError:
            return ""

    def clean_attempts(self, attempts: Iterable[AttemptRecord]) -> tuple[AttemptRecord, ...]:
        """Attempts whose reasons may be stored: a check or a backend may have quoted the answer."""
        return tuple(structs.replace(a, reason=self.clean(a.reason)) if a.reason else a for a in attempts)

    def remember_signature(self, job: Job, mode: ContentMode) -> None:
        """Write the fixed part of a call once for each tenant and signature."""
        key = f"{job.caller.tenant.name}:{job.features.signature}"
        if key in self._signatures_seen:
            return
        if not self.write(self._signature_record(key, job, mode)):
            return
        self._signatures_seen[key] = None
        if len(self._signatures_seen) > _SIGNATURES_KEPT:
            self._signatures_seen.popitem(last=False)

    def _signature_record(self, key: str, job: Job, mode: ContentMode) -> SignatureRecord:
        def build(session: Session) -> dict[str, Any]:
            return {
                "system": session.redact(job.system).text,
                "tools": session.redact_json(list(job.call.tools)) or None,
                "response_format": session.redact_json(job.call.response_format),
                "tool_names": tuple(session.redact(name).text for name in job.tool_names),
            }

        keeps = mode == "redacted"
        fields = (self._cleared(self._redactor.session(), build, job.call_id) if keeps else None) or {}
        return SignatureRecord(
            id=key,
            at_ms=job.at_ms,
            signature=job.features.signature,
            tenant=job.caller.tenant.name,
            content_mode=mode,
            **fields,
        )

    def feedback(self, request: FeedbackRequest, call: CallRecord, mode: ContentMode) -> FeedbackRecord:
        """Write what somebody learned about a call; its words only where the tenant's content is kept."""

        def build(session: Session) -> dict[str, Any]:
            said = {"source": request.source} | (
                {"comment": request.comment, "correction": request.correction} if mode == "redacted" else {}
            )
            return {name: session.redact(text).text for name, text in said.items() if text is not None}

        words = self._cleared(self._redactor.session(), build, call.id) or {}
        record = FeedbackRecord(
            id="fb_" + new_ulid(),
            call_id=call.id,
            at_ms=int(time.time() * 1000),
            tenant=call.tenant,
            outcome=request.outcome,
            score=request.score,
            **words,
        )
        self.write(record)
        return record


def error_code(error: BaseException) -> str:
    """The stable code of an error."""
    return error.code if isinstance(error, JourneymanError) else "internal_error"


def _text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else ""


def _redact_message(session: Session, message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": session.redact(_text(message)).text}
    if message.tool_calls:
        fields["tool_calls"] = [_redact_tool_call(session, c.name, c.arguments) for c in message.tool_calls]
    if message.tool_call_id:
        fields["tool_call_id"] = session.redact(message.tool_call_id).text
    return fields


def _redact_answer(session: Session, answer: Completion) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    text = answer.text if answer.text is not None else answer.refusal
    if text is not None:
        fields["answer_text"] = session.redact_json_text(text) if text[:1] in "{[" else session.redact(text).text
    if answer.tool_calls:
        fields["answer_tool_calls"] = [_redact_tool_call(session, c.name, c.arguments) for c in answer.tool_calls]
    return fields


def _redact_tool_call(session: Session, name: str, arguments: str) -> dict[str, Any]:
    return {"name": session.redact(name).text, "arguments": session.redact_json_text(arguments)}
