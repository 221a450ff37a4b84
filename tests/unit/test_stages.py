"""A specialist's life."""

from __future__ import annotations

from itertools import product

import pytest

from registry.stages import MOVES, SERVING, STAGES, may_move, serves_callers


def test_every_stage_is_in_the_table_and_moves_to_known_ones() -> None:
    assert set(MOVES) == set(STAGES)
    assert all(after in STAGES for moves in MOVES.values() for after in moves)


def test_nothing_reaches_callers_but_through_shadow_and_canary() -> None:
    into_serving = {(b, a) for b, a in product(STAGES, STAGES) if a in SERVING and b not in SERVING and may_move(b, a)}
    assert into_serving == {("shadow", "canary")}
    assert not may_move("candidate", "active")


def test_whatever_serves_can_be_taken_off_at_once() -> None:
    for stage in SERVING:
        assert may_move(stage, "shadow")
        assert may_move(stage, "deprecated")


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_moves_to_itself_and_none_is_a_dead_end(stage: str) -> None:
    assert not may_move(stage, stage)
    assert MOVES[stage]


def test_only_canary_and_active_answer_callers() -> None:
    assert [stage for stage in STAGES if serves_callers(stage)] == ["canary", "active"]
