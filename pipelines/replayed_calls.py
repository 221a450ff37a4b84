"""What a replay finds in the record and leaves there: which calls were asked already, and a record for each answer.

Knows the store's columns and how an answer is judged; nothing of engines.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct, field

from observations.loading import load_once, prepare_store
from observations.records import ShadowRecord
from observations.state import StatePaths
from observations.store import open_reader
from pipelines.asking import FAILED, TIMED_OUT
from pipelines.evaluation import Answered, judge
from pipelines.render import Example, Shape, answer_of
from policies.agreement import agree
from policies.redaction import Redactor
from policies.verify import Verifier
from registry.entries import Prices, TemplateEntry
from registry.errors import RedactionError, StoreLockedError
from specialists.calls import Completion
from specialists.templates import read_answer

LOAD_WAIT_S: Final = 120.0
_NO_ANSWER: Final[dict[str, Literal["failed", "timed_out"]]] = {FAILED: "failed", TIMED_OUT: "timed_out"}
_ASKED: Final = "SELECT id, call_id, at_ms FROM slm_shadow WHERE specialist = ?"
_ORIGINS: Final = """
    SELECT id, tenant, messages IS NOT NULL AND content_mode = 'redacted'
    FROM slm_observation_raw WHERE id IN (SELECT unnest(?))
"""


class Asked(Struct, frozen=True):
    """Which calls a specialist was asked as a shadow."""

    since_ms: int
    """When it came to the stage that it is in."""
    since: frozenset[str] = frozenset()
    """Calls that count in this stage."""
    ids: frozenset[str] = frozenset()
    """Of all its records, also of stages before."""

    def new_id(self, call_id: str, specialist: str) -> str:
        """Return a record's id: as of a mirrored call, but where one from a stage before has that already."""
        plain = f"{call_id}:{specialist}"
        return f"{plain}:{self.since_ms}" if plain in self.ids else plain


class Origin(Struct, frozen=True):
    """Whose call it was, and whether its text is still kept."""

    tenant: str = "default"
    kept: bool = False


def load_recorded(state: StatePaths, wait_s: float = LOAD_WAIT_S) -> None:
    """Bring the store to the newest schema and load what is sealed, taking turns with a running gateway's loader.

    Raises StoreLockedError when it cannot get in within `wait_s`, StorageError.
    """
    ends_s = time.monotonic() + wait_s
    for step in (prepare_store, load_once):
        while True:
            try:
                step(state)
                break
            except StoreLockedError:
                if time.monotonic() >= ends_s:
                    raise


def asked_before(state: StatePaths, specialist: str, since_ms: int) -> Asked:
    """Return what a specialist was asked already. Raises NotFoundError without a store, StorageError."""
    with contextlib.closing(open_reader(state, LOAD_WAIT_S)) as store:
        rows = store.execute(_ASKED, [specialist]).fetchall()
    since = frozenset(call_id for _, call_id, at_ms in rows if at_ms >= since_ms)
    return Asked(since_ms, since, frozenset(row[0] for row in rows))


def origins_of(state: StatePaths, call_ids: Sequence[str]) -> dict[str, Origin]:
    """Return where calls came from, as far as they are on record. Raises NotFoundError, StorageError."""
    with contextlib.closing(open_reader(state, LOAD_WAIT_S)) as store:
        rows = store.execute(_ORIGINS, [list(call_ids)]).fetchall()
    return {call_id: Origin(tenant, bool(kept)) for call_id, tenant, kept in rows}


class ReplayRecorder(Struct, frozen=True, kw_only=True):
    """Makes the records of one replay."""

    specialist: str
    cluster: str
    template: TemplateEntry
    shapes: dict[str, Shape]
    threshold: float | None
    """Least sum of log-probabilities that is believed; None: confidence is not checked."""
    prices: Prices
    asked: Asked
    origins: dict[str, Origin]
    verifier: Verifier = field(default_factory=Verifier)
    redactor: Redactor = field(default_factory=Redactor)

    def record(self, example: Example, answered: Answered) -> ShadowRecord:
        """Return an answer as it is recorded: checked as live, beside what was served, and judged if a person was."""
        origin = self.origins.get(example.call_id, Origin())
        outcome, reason = self._outcome(example, answered)
        usage = answered.completion.usage
        fields = self._content(answered.completion, reason) if origin.kept else {"content_mode": "none"}
        return ShadowRecord(
            id=self.asked.new_id(example.call_id, self.specialist),
            at_ms=answered.asked_at_ms,  # not when it answered: a trial's order must say nothing of the answers
            call_id=example.call_id,
            specialist=self.specialist,
            tenant=origin.tenant,
            cluster=self.cluster,
            outcome=outcome,
            agrees=self._agrees(example, answered, outcome),
            confidence=answered.confidence,
            threshold=self.threshold,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cost_usd=self.prices.cost_usd(usage.prompt_tokens, usage.completion_tokens),
            latency_ms=answered.latency_ms,
            reference=example.served_by,
            reference_verified=example.answer_source != "correction",
            reference_cost_usd=example.cost_usd,
            reference_latency_ms=example.latency_ms,
            source="replay",
            right=self._right(example, answered) if example.is_judged else None,
            reference_right=example.answer_source == "feedback" if example.is_judged else None,
            **fields,
        )

    def _outcome(
        self, example: Example, answered: Answered
    ) -> tuple[Literal["verified", "malformed", "unsure", "failed", "timed_out"], str]:
        no_answer = _NO_ANSWER.get(answered.completion.finish_reason)
        if no_answer is not None:
            return no_answer, answered.completion.refusal or ""
        answer = answer_of(answered.completion, answered.confidence)
        verdict = self.verifier.verify(answer, self.shapes[example.shape].expectation(), self.threshold)
        return verdict.outcome, verdict.reason

    def _agrees(self, example: Example, answered: Answered, outcome: str) -> bool | None:
        """Whether it says what was served. A corrected example holds the correction: who says that, says otherwise."""
        if outcome in ("malformed", "failed", "timed_out"):
            return False if outcome == "malformed" else None
        wanted = read_answer(self.template, Completion(example.completion))
        same = agree(answer_of(answered.completion), answer_of(wanted))
        if example.answer_source == "correction":
            return False if same else None
        return same

    def _right(self, example: Example, answered: Answered) -> bool:
        """As the evaluation counts: free text is right word for word."""
        judged = judge(example, answered, self.template, self.shapes[example.shape], self.verifier)
        return judged.exact and judged.well_formed

    def _content(self, completion: Completion, reason: str) -> dict[str, Any]:
        """What was said, redacted as a live shadow's answer; nothing of it where it cannot be.

        The input was redacted when it was recorded, but a model may say what stands nowhere in it, and a reason quotes.
        """
        session = self.redactor.session()
        text = completion.text
        try:
            calls = [
                {"name": session.redact(call.name).text, "arguments": session.redact_json_text(call.arguments)}
                for call in completion.tool_calls
            ]
            said = session.redact_json_text(text) if text and text[0] in "{[" else session.redact(text or "").text
            why = session.redact(reason).text
        except RedactionError:
            return {}
        return {"answer_text": None if text is None else said, "answer_tool_calls": calls or None, "reason": why}
