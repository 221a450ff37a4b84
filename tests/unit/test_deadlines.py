import pytest

from registry.entries import Deadlines
from specialists.deadlines import CallClock

ENTRY = Deadlines(connect_ms=1_000, first_token_ms=2_000, between_tokens_ms=500, total_ms=10_000)


def test_each_phase_has_its_own_limit():
    clock = CallClock.start(ENTRY, 60_000, 100.0)
    assert (clock.connect(100.0).at_s, clock.connect(100.0).phase) == (101.0, "connect")
    assert (clock.first_token(100.5).at_s, clock.first_token(100.5).phase) == (102.5, "first_token")
    assert (clock.between_tokens(103.0).at_s, clock.between_tokens(103.0).phase) == (103.5, "between_tokens")
    assert (clock.total().at_s, clock.total().phase) == (110.0, "total")


def test_no_phase_outlasts_the_whole():
    clock = CallClock.start(ENTRY, 60_000, 100.0)
    assert (clock.between_tokens(109.8).at_s, clock.between_tokens(109.8).phase) == (110.0, "total")


@pytest.mark.parametrize(
    ("budget_ms", "ends_at_s", "is_callers"), [(700, 100.7, True), (60_000, 110.0, False), (-5, 99.995, True)]
)
def test_the_smaller_of_budget_and_entry_ends_it(budget_ms, ends_at_s, is_callers):
    clock = CallClock.start(ENTRY, budget_ms, 100.0)
    assert clock.ends_at_s == pytest.approx(ends_at_s)
    assert clock.is_callers is is_callers
    assert clock.connect(100.0).at_s <= clock.ends_at_s


def test_what_is_left_is_never_negative():
    clock = CallClock.start(ENTRY, 1_000, 100.0)
    assert clock.left_s(100.4) == pytest.approx(0.6)
    assert clock.left_s(200.0) == 0.0
