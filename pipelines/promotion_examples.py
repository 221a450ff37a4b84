"""Calls of a trial that show where a shadow and what was served differ: fixed and broken, as they were recorded.

The texts are the record's, redacted when it was written; where a tenant's content is not kept or was erased, the id is
all there is. Knows the store's columns; nothing of gates or files.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.state import StatePaths
from observations.store import open_reader
from pipelines.promotion_report import MOST_EXAMPLES, Example, Examples
from policies.agreement import agree
from policies.answers import Answer, AnsweredToolCall
from registry.stage_moves import StageNow

NOT_KEPT: Final = "(the text was not kept)"
_LOOKED_AT: Final = 2_000
"""Calls that are read for a report, the newest first."""
_DIFFERING: Final = """
    SELECT shadow.call_id, shadow.outcome, shadow.agrees, shadow.reference_verified,
           shadow.answer_text, shadow.answer_tool_calls,
           call.messages, call.answer_text, call.answer_tool_calls, said.outcome, said.correction
    FROM slm_shadow AS shadow
    LEFT JOIN slm_observation_raw AS call ON call.id = shadow.call_id AND call.tenant = shadow.tenant
    LEFT JOIN slm_feedback_latest AS said ON said.call_id = shadow.call_id AND said.tenant = shadow.tenant
    WHERE shadow.specialist = ? AND shadow.at_ms >= ? AND shadow.outcome = 'verified'
      AND (shadow.agrees = false OR said.outcome = 'failure')
    ORDER BY shadow.at_ms DESC, shadow.id LIMIT ?
"""
_CALLS: Final = msgspec.json.Decoder(list[AnsweredToolCall])


class _Differing(Struct, frozen=True):
    """A call whose shadow was believed. The order is the query's."""

    call_id: str
    outcome: str
    agrees: bool | None
    reference_verified: bool | None
    shadow_text: str | None
    shadow_tool_calls: str | None
    messages: str | None
    served_text: str | None
    served_tool_calls: str | None
    said_outcome: str | None
    said_correction: str | None

    @property
    def served_right(self) -> bool | None:
        """What feedback said of the answer that was served; without it, whether the checks believed it."""
        if self.said_outcome is not None:
            return self.said_outcome == "success"
        return True if self.reference_verified else None

    @property
    def shadow_right(self) -> bool | None:
        """As right as what was served if it says the same; else by the correction, where there is one."""
        if self.agrees:
            return self.served_right
        if self.served_right:
            return self.agrees
        if self.said_correction is None or (self.shadow_text is None and self.shadow_tool_calls is None):
            return None
        return agree(_answer(self.shadow_text, self.shadow_tool_calls), Answer(self.said_correction))

    def example(self) -> Example:
        """As a report shows it."""
        return Example(
            call_id=self.call_id,
            input=_asked(self.messages),
            served=_told(self.served_text, self.served_tool_calls),
            answered=_told(self.shadow_text, self.shadow_tool_calls),
        )


def examples_of(state: StatePaths, now: StageNow, since_ms: int, wait_s: float = 30.0) -> Examples:
    """Return the newest calls on which a shadow differs from what was served, at most `MOST_EXAMPLES` of each kind.

    None for a canary: of the calls that it answers nobody else's answer is known.
    Raises NotFoundError without a store, StorageError when it cannot be read.
    """
    if now.stage != "shadow":
        return Examples()
    with contextlib.closing(open_reader(state, wait_s)) as store:
        rows = store.execute(_DIFFERING, [now.specialist, since_ms, _LOOKED_AT]).fetchall()
    calls = [_Differing(*row) for row in rows]
    fixed = [call for call in calls if call.shadow_right and call.served_right is False]
    broken = [call for call in calls if call.served_right and call.shadow_right is False]
    return Examples(*([call.example() for call in kind[:MOST_EXAMPLES]] for kind in (fixed, broken)))


def _answer(text: str | None, tool_calls: str | None) -> Answer:
    return Answer(text, tuple(_CALLS.decode(tool_calls)) if tool_calls else ())


def _asked(messages: str | None) -> str:
    """The last thing that the caller's user said."""
    turns: list[dict[str, Any]] = msgspec.json.decode(messages) if messages else []
    said = [turn.get("content") for turn in turns if turn.get("role") == "user"]
    return str(said[-1]) if said and said[-1] else NOT_KEPT


def _told(text: str | None, tool_calls: str | None) -> str:
    """An answer as one text."""
    made = _CALLS.decode(tool_calls) if tool_calls else []
    lines = [*([text] if text else []), *(f"{call.name} {call.arguments}" for call in made)]
    return "\n".join(lines) or NOT_KEPT
