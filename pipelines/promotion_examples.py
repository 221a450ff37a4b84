"""Calls of a trial that show where a shadow and what was served differ: fixed and broken, as they were recorded.

The texts are the record's, redacted when it was written; where a tenant's content is not kept or was erased, the id is
all there is. Knows the store's columns; nothing of gates or files.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any, Final

import msgspec

from observations.state import StatePaths
from observations.store import open_reader
from pipelines.promotion_report import MOST_EXAMPLES, Example, Examples
from pipelines.trials import shadow_outcomes
from policies.answers import AnsweredToolCall
from registry.stage_moves import StageNow

NOT_KEPT: Final = "(the text was not kept)"
_TEXTS: Final = """
    SELECT shadow.call_id, call.messages, call.answer_text, call.answer_tool_calls,
           shadow.answer_text, shadow.answer_tool_calls
    FROM slm_shadow AS shadow
    LEFT JOIN slm_observation_raw AS call ON call.id = shadow.call_id AND call.tenant = shadow.tenant
    WHERE shadow.specialist = ? AND shadow.at_ms >= ? AND shadow.call_id IN (SELECT unnest(?))
"""
_CALLS: Final = msgspec.json.Decoder(list[AnsweredToolCall])


def examples_of(state: StatePaths, now: StageNow, since_ms: int, wait_s: float = 30.0) -> Examples:
    """Return the newest calls on which a shadow is right and what was served wrong, and the other way round.

    They are judged as in the trial; at most `MOST_EXAMPLES` of each kind. None for a canary: of the calls that it
    answers nobody else's answer is known. Raises NotFoundError without a store, StorageError when it cannot be read.
    """
    if now.stage != "shadow":
        return Examples()
    fixed: deque[str] = deque(maxlen=MOST_EXAMPLES)
    broken: deque[str] = deque(maxlen=MOST_EXAMPLES)
    for outcome in shadow_outcomes(state, now.specialist, since_ms, wait_s):
        if outcome.success is None or outcome.reference_success is None:
            continue
        if outcome.success != outcome.reference_success:
            (fixed if outcome.success else broken).appendleft(outcome.call_id)
    if not fixed and not broken:
        return Examples()
    with contextlib.closing(open_reader(state, wait_s)) as store:
        rows = store.execute(_TEXTS, [now.specialist, since_ms, [*fixed, *broken]]).fetchall()
    found = {row[0]: _example(*row) for row in rows}
    return Examples(*([found[call_id] for call_id in kind if call_id in found] for kind in (fixed, broken)))


def _example(call_id: str, messages: str | None, *answers: str | None) -> Example:
    served, shadow = answers[:2], answers[2:]
    return Example(call_id=call_id, input=_asked(messages), served=_told(*served), answered=_told(*shadow))


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
