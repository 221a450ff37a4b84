"""What the record says of a specialist's trial: its shadow answers, or the live calls of its canary, as outcomes.

A call counts once, from the moment on at which the specialist came to its step. A shadow answer is judged by a person's
word on the call where there is one (`shadow_rows`), else by whether it says what was served. From `LEAST_JUDGED` calls
with a person's word on, those alone say what is right: an answer that nobody judged is wrong at a rate that nobody
knows, and agreeing with it proves nothing. Form, time, money and escalations are counted over all calls. Knows the
store; decides nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from observations.loading import prepare_store
from observations.migrations import MIGRATIONS, version_of
from observations.records import AttemptRecord
from observations.state import StatePaths
from observations.store import open_reader
from pipelines.shadow_rows import SHADOWS, ShadowRow
from policies.promotion_trial import ShadowOutcome, TrialState
from registry.ledger import History
from registry.stage_moves import StageNow

LEAST_JUDGED: Final = 100
"""Calls of a trial on which there is a person's word, from which on only these say what is right."""

_CANARIES: Final = """
    SELECT call.id, call.attempts, said.outcome
    FROM slm_observation_raw AS call
    LEFT JOIN slm_feedback_latest AS said ON said.call_id = call.id AND said.tenant = call.tenant
    WHERE call.at_ms >= ? AND call.requested_model = 'auto' AND contains(call.attempts, ?)
    ORDER BY call.at_ms, call.id
"""
_ATTEMPTS: Final = msgspec.json.Decoder(tuple[AttemptRecord, ...])


def trial_of(state: StatePaths, now: StageNow, since_ms: int, wait_s: float = 30.0) -> TrialState:
    """Return the trial of the step that a specialist is in; empty when nothing was recorded of it yet.

    Raises NotFoundError without a store, StorageError when it cannot be read.
    """
    trial = TrialState(specialist=now.specialist, stage=now.stage, share=_share(now))
    rows = shadow_outcomes if now.stage == "shadow" else _canary_outcomes
    for outcome in rows(state, now.specialist, since_ms, wait_s):
        trial.observe(outcome)
    return trial


def step_began_ms(history: History, specialist: str) -> int:
    """Return when the specialist came to the place where it is: the time of its last move."""
    moved = [s.entry.at_ms for s in history.entries if any(move.specialist == specialist for move in s.entry.moves)]
    return max(moved, default=0)


def _share(now: StageNow) -> float:
    return 0.0 if now.stage == "shadow" else now.place.share


def _rows(state: StatePaths, query: str, values: list[Any], wait_s: float) -> Iterator[tuple[Any, ...]]:
    with contextlib.closing(open_reader(state, wait_s)) as store:
        is_old = version_of(store) < len(MIGRATIONS)
    if is_old:  # no loader of this release has run yet
        prepare_store(state)
    with contextlib.closing(open_reader(state, wait_s)) as store:
        cursor = store.execute(query, values)
        while batch := cursor.fetchmany(2_048):
            yield from batch


def shadow_outcomes(state: StatePaths, specialist: str, since_ms: int, wait_s: float = 30.0) -> Iterator[ShadowOutcome]:
    """Yield a shadow's outcomes from a moment on, the oldest first. Raises NotFoundError, StorageError."""
    rows = [ShadowRow(*row) for row in _rows(state, SHADOWS, [specialist, since_ms], wait_s)]
    judged_alone = sum(row.is_judged for row in rows) >= LEAST_JUDGED
    return (row.outcome_of_chain(judged_alone=judged_alone) for row in rows)


def _canary_outcomes(state: StatePaths, specialist: str, since_ms: int, wait_s: float) -> Iterator[ShadowOutcome]:
    for call_id, attempts, said in _rows(state, _CANARIES, [since_ms, specialist], wait_s):
        mine = next((a for a in _ATTEMPTS.decode(attempts) if a.candidate == specialist), None)
        if mine is None:
            continue
        believed = mine.outcome == "verified"
        yield ShadowOutcome(
            call_id=call_id,
            well_formed=mine.outcome in ("verified", "unsure"),
            escalated=not believed,
            accepted_wrong=None if said is None or not believed else said == "failure",
        )
