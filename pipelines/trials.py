"""What the record says of a specialist's trial: its shadow answers, or the live calls of its canary, as outcomes.

A call counts once, from the moment on at which the specialist came to its step. Knows the store; decides nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from observations.records import AttemptRecord
from observations.state import StatePaths
from observations.store import open_reader
from policies.promotion_trial import ShadowOutcome, TrialState
from registry.ledger import History
from registry.stage_moves import StageNow

_SHADOWS: Final = """
    SELECT call_id, outcome, agrees, cost_usd, latency_ms, reference_verified, reference_cost_usd, reference_latency_ms
    FROM slm_shadow WHERE specialist = ? AND at_ms >= ? ORDER BY at_ms, id
"""
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
    rows = _shadow_outcomes if now.stage == "shadow" else _canary_outcomes
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
        cursor = store.execute(query, values)
        while batch := cursor.fetchmany(2_048):
            yield from batch


def _shadow_outcomes(state: StatePaths, specialist: str, since_ms: int, wait_s: float) -> Iterator[ShadowOutcome]:
    for row in _rows(state, _SHADOWS, [specialist, since_ms], wait_s):
        yield shadow_outcome(row)


def shadow_outcome(row: tuple[Any, ...]) -> ShadowOutcome:
    """Return a row of slm_shadow as an outcome of the chain that it stands for."""
    call_id, outcome, agrees, cost_usd, latency_ms, reference_verified, reference_usd, reference_ms = row
    believed = outcome == "verified"
    reference_right = True if reference_verified else None
    return ShadowOutcome(
        call_id=call_id,
        well_formed=outcome in ("verified", "unsure"),
        success=agrees if believed else reference_right,
        reference_success=reference_right,
        latency_ms=latency_ms + (0.0 if believed else reference_ms),
        reference_latency_ms=reference_ms,
        cost_usd=cost_usd + (0.0 if believed else reference_usd),
        reference_cost_usd=reference_usd,
        escalated=not believed,
        accepted_wrong=(None if agrees is None else not agrees) if believed else False,
    )


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
