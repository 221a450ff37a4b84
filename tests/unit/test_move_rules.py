"""Promotions, demotions and rollbacks as moves."""

from __future__ import annotations

import pytest

from registry.errors import BadInputError
from registry.stage_moves import CANARY_SHARES, Move, Place, StageNow, after_moves, demotion, promotion, rollback
from registry.stages import STAGES

A, B = "sorter@" + "a" * 12, "sorter@" + "b" * 12


class Life:
    """Stages that follow the moves made."""

    def __init__(self, *specialists: str) -> None:
        self.seq = 0
        self.stages: dict[str, StageNow] = {}
        for specialist in specialists:
            self.make((Move(specialist, None, "candidate"),))

    def make(self, moves: tuple[Move, ...], undoing: bool = False) -> None:
        self.seq += 1
        self.stages = after_moves(self.stages, moves, self.seq, undoing=undoing)

    def promote(self, specialist: str, *to: object) -> None:
        self.make(promotion(self.stages, specialist, *to))

    def demote(self, specialist: str, *to: object) -> None:
        self.make(demotion(self.stages, specialist, *to))

    def rollback(self, specialist: str) -> int:
        moves, undoes = rollback(self.stages, specialist)
        self.make(moves, undoing=True)
        return undoes

    def raise_to_active(self, specialist: str) -> None:
        while self.stages[specialist].stage != "active":
            self.promote(specialist)

    def __getitem__(self, specialist: str) -> str:
        return str(self.stages[specialist].place)


def test_a_promotion_takes_every_step_on_the_way_up() -> None:
    life, seen = Life(A), []
    while life[A] != "active":
        life.promote(A)
        seen.append(life[A])
    shares = [f"canary at {100 * share:g} % of calls" for share in CANARY_SHARES]
    assert seen == ["shadow", *shares, "active"]
    with pytest.raises(BadInputError, match="active already"):
        life.promote(A)


def test_steps_may_be_left_out_only_within_the_table() -> None:
    life = Life(A)
    with pytest.raises(BadInputError, match=r"is candidate and cannot become active\. From here: deprecated, shadow"):
        life.promote(A, "active")
    life.promote(A, "shadow")
    with pytest.raises(BadInputError, match=r"cannot become active\. From here: canary, candidate, deprecated"):
        life.promote(A, "active")
    life.promote(A, "canary", 0.25)
    assert life[A] == "canary at 25 % of calls"
    life.promote(A)
    assert life[A] == "canary at 50 % of calls"
    life.promote(A, "active")
    assert life[A] == "active"


@pytest.mark.parametrize(
    ("to", "share", "said"),
    [
        ("shadow", None, "is no promotion"),
        ("canary", 0.05, "is no promotion"),
        ("canary", 0.1, "is no promotion"),
        ("canary", 0.0, "above 0 and at most 1"),
        ("canary", float("nan"), "above 0 and at most 1"),
        ("active", 0.5, "only a canary has a share"),
    ],
)
def test_what_is_no_promotion_is_refused(to: str, share: float | None, said: str) -> None:
    life = Life(A)
    life.promote(A)
    life.promote(A, "canary", 0.1)
    with pytest.raises(BadInputError, match=said):
        life.promote(A, to, share)


def test_a_demotion_takes_it_out_of_service_at_once() -> None:
    life = Life(A)
    life.raise_to_active(A)
    life.demote(A)
    assert life[A] == "shadow"
    life.demote(A)
    assert life[A] == "candidate"
    life.demote(A)
    assert life[A] == "deprecated"
    with pytest.raises(BadInputError, match="nothing is below"):
        life.demote(A)
    life.promote(A)
    assert life[A] == "shadow"


def test_a_demotion_may_go_to_a_smaller_share() -> None:
    life = Life(A)
    life.raise_to_active(A)
    life.demote(A, "canary", 0.5)
    life.demote(A, None, 0.01)
    assert life[A] == "canary at 1 % of calls"
    with pytest.raises(BadInputError, match="is no demotion"):
        life.demote(A, "canary", 0.1)


def test_a_new_version_displaces_the_active_one_and_a_rollback_brings_it_back() -> None:
    life = Life(A, B)
    life.raise_to_active(A)
    life.raise_to_active(B)
    assert (life[A], life[B]) == ("deprecated", "active")
    assert life.stages[A].displaced_by == B
    life.rollback(B)
    assert (life[A], life[B]) == ("active", "shadow")
    assert life.stages[A].displaced_by is None


def test_swaps_may_be_repeated_without_end() -> None:
    life = Life(A, B)
    life.raise_to_active(A)
    life.promote(B)
    for _ in range(5):
        life.promote(B, "canary", 1.0)
        life.promote(B)
        assert (life[A], life[B]) == ("deprecated", "active")
        life.rollback(B)
        assert (life[A], life[B]) == ("active", "shadow")


def test_a_rollback_of_a_canary_goes_back_to_where_it_did_not_serve_and_names_the_entry() -> None:
    life = Life(A)
    life.promote(A)
    life.promote(A)
    entered = life.seq
    life.promote(A)
    assert life.rollback(A) == entered
    assert life[A] == "shadow"


def test_a_rollback_without_a_version_before_it_leaves_the_callers_to_the_frontier() -> None:
    life = Life(A)
    life.raise_to_active(A)
    life.rollback(A)
    assert life[A] == "shadow"


def test_a_rollback_never_brings_back_what_was_taken_down() -> None:
    life = Life(A)
    life.raise_to_active(A)
    life.demote(A)
    with pytest.raises(
        BadInputError, match="its last move was from active to shadow, so there is no promotion to undo"
    ):
        life.rollback(A)
    life.promote(A)
    life.rollback(A)
    with pytest.raises(BadInputError, match="no promotion to undo"):
        life.rollback(A)


def test_a_rollback_undoes_a_promotion_that_did_not_reach_callers_yet() -> None:
    life = Life(A)
    with pytest.raises(BadInputError, match="it has not moved yet"):
        life.rollback(A)
    life.promote(A)
    life.rollback(A)
    assert life[A] == "candidate"


def test_a_displaced_version_is_forgotten_when_its_successor_is_demoted_by_hand() -> None:
    life = Life(A, B)
    life.raise_to_active(A)
    life.raise_to_active(B)
    life.demote(B)
    assert life.stages[A].displaced_by is None and life[A] == "deprecated"


def test_a_name_has_one_canary_and_one_active_version() -> None:
    life = Life(A, B)
    life.promote(A)
    life.promote(A)
    life.promote(B)
    with pytest.raises(BadInputError, match=f"{A} is canary at 1 % of calls under the name sorter: move it first"):
        life.promote(B)
    life.raise_to_active(A)
    life.promote(B)
    assert (life[A], life[B]) == ("active", "canary at 1 % of calls")


def test_other_names_do_not_stand_in_the_way() -> None:
    other = "labels@" + "c" * 12
    life = Life(A, other)
    life.raise_to_active(A)
    life.raise_to_active(other)
    assert (life[A], life[other]) == ("active", "active")


def test_every_stage_is_of_some_height() -> None:
    for stage in STAGES:
        assert str(Place(stage, 0.5))
