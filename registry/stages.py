"""A specialist's life: the stages and the moves between them, as one table."""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["candidate", "shadow", "canary", "active", "deprecated"]

STAGES: tuple[Stage, ...] = get_args(Stage)

MOVES: dict[Stage, frozenset[Stage]] = {
    "candidate": frozenset({"shadow", "deprecated"}),
    "shadow": frozenset({"canary", "candidate", "deprecated"}),
    "canary": frozenset({"active", "shadow", "deprecated"}),
    "active": frozenset({"shadow", "canary", "deprecated"}),
    "deprecated": frozenset({"shadow"}),
}

SERVING: frozenset[Stage] = frozenset({"canary", "active"})


def may_move(before: Stage, after: Stage) -> bool:
    """Say whether the table allows the move."""
    return after in MOVES[before]


def serves_callers(stage: Stage) -> bool:
    """Say whether a specialist in this stage may answer a caller."""
    return stage in SERVING
