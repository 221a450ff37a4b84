import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import BudgetLimit, Ledger, window_id
from registry.errors import BudgetExceededError

NOON = 1_795_262_400_000  # 2026-11-21T12:00:00Z
DAY_MS = 86_400_000
DAILY = BudgetLimit(limit_usd=1.0)


def test_money_is_reserved_then_settled():
    ledger = Ledger({"shop": [DAILY]})
    first = ledger.reserve("shop", 0.7, NOON)
    assert ledger.left_usd("shop", NOON) == pytest.approx(0.3)
    with pytest.raises(BudgetExceededError):
        ledger.reserve("shop", 0.4, NOON)
    ledger.settle(first, 0.1)
    assert ledger.left_usd("shop", NOON) == pytest.approx(0.9)
    assert ledger.spent_usd("shop", "day", NOON) == pytest.approx(0.1)
    ledger.reserve("shop", 0.4, NOON)


def test_the_refusal_says_whose_budget_and_what_is_left():
    ledger = Ledger({"shop": [DAILY]})
    ledger.settle(ledger.reserve("shop", 0.75, NOON), 0.75)
    with pytest.raises(BudgetExceededError, match=r"`shop` for this day \(2026-11-21, UTC\) is \$1.00; \$0.25 is left"):
        ledger.reserve("shop", 0.5, NOON)


def test_a_second_settlement_and_a_release_change_nothing_more():
    ledger = Ledger({"shop": [DAILY]})
    held = ledger.reserve("shop", 0.5, NOON)
    ledger.settle(held, 0.2)
    ledger.settle(held, 0.2)
    ledger.release(held)
    assert ledger.spent_usd("shop", "day", NOON) == pytest.approx(0.2)
    given_back = ledger.reserve("shop", 0.5, NOON)
    ledger.release(given_back)
    assert ledger.left_usd("shop", NOON) == pytest.approx(0.8)


def test_a_new_day_starts_anew_and_the_month_goes_on():
    ledger = Ledger({"shop": [DAILY, BudgetLimit(window="month", limit_usd=1.5)]})
    ledger.settle(ledger.reserve("shop", 1.0, NOON), 1.0)
    with pytest.raises(BudgetExceededError, match="this day"):
        ledger.reserve("shop", 0.1, NOON)
    ledger.settle(ledger.reserve("shop", 0.4, NOON + DAY_MS), 0.4)
    with pytest.raises(BudgetExceededError, match="this month"):
        ledger.reserve("shop", 0.2, NOON + DAY_MS)
    ledger.reserve("shop", 1.0, NOON + 30 * DAY_MS)


def test_a_call_across_midnight_is_settled_where_it_was_reserved():
    ledger = Ledger({"shop": [DAILY]})
    late = ledger.reserve("shop", 0.5, NOON)
    ledger.reserve("shop", 0.1, NOON + DAY_MS)
    ledger.settle(late, 0.5)
    assert ledger.spent_usd("shop", "day", NOON + DAY_MS) == 0.0
    assert ledger.left_usd("shop", NOON + DAY_MS) == pytest.approx(0.9)


def test_all_accounts_pay_or_none():
    ledger = Ledger({"key": [BudgetLimit(limit_usd=5)], "tenant": [DAILY]})
    ledger.reserve(("key", "tenant"), 0.8, NOON)
    with pytest.raises(BudgetExceededError, match="`tenant`"):
        ledger.reserve(("key", "tenant"), 0.8, NOON)
    assert ledger.left_usd("key", NOON) == pytest.approx(4.2)


def test_without_limits_everything_goes():
    ledger = Ledger()
    ledger.settle(ledger.reserve("anyone", 1e6, NOON), 1e6)
    assert ledger.left_usd("anyone", NOON) == float("inf")


def test_nonsense_amounts_are_refused():
    for amount in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            Ledger().reserve("shop", amount, NOON)


def test_windows_are_utc():
    assert window_id("day", NOON + DAY_MS // 2 - 1) == "2026-11-21"
    assert window_id("day", NOON + DAY_MS // 2) == "2026-11-22"
    assert window_id("month", NOON) == "2026-11"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=40))
def test_calls_that_keep_to_their_reservation_never_pass_the_limit(calls):
    ledger, held = Ledger({"shop": [DAILY]}), []
    for amount, share, settle_now in calls:
        try:
            held.append((ledger.reserve("shop", amount, NOON), amount * share))
        except BudgetExceededError:
            continue
        if settle_now:
            ledger.settle(*held.pop(0))
    for reservation, actual in held:
        ledger.settle(reservation, actual)
    assert ledger.spent_usd("shop", "day", NOON) <= 1.0 + 1e-9


def test_what_was_spent_before_a_restart_counts_in_the_windows_that_still_run():
    ledger = Ledger({"a": [BudgetLimit(limit_usd=1.0), BudgetLimit(window="month", limit_usd=3.0)]})
    now = 1_795_262_400_000  # 2026-11-21
    ledger.charge("a", 0.75, now - 1_000, now)
    ledger.charge("a", 1.5, now - 3 * 86_400_000, now)
    ledger.charge("a", 9.0, now - 40 * 86_400_000, now)
    ledger.charge("nobody", 9.0, now, now)
    assert ledger.spent_usd("a", "month", now) >= 1.5
    with pytest.raises(BudgetExceededError):
        ledger.reserve("a", 1.1, now)
