import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import (
    BackendOverloadedError,
    BackendRejectedError,
    BackendTimeoutError,
    BackendUnavailableError,
)
from specialists.retries import LONGEST_WAIT_S, MINIMUM, RetryBudget, backoff_s, worth_retrying


@given(st.lists(st.booleans(), max_size=2000))
def test_retries_never_exceed_a_tenth_of_the_calls_and_the_minimum(moves):
    budget, calls, retries = RetryBudget(), 0, 0
    for is_call in moves:
        if is_call:
            budget.on_call()
            calls += 1
        else:
            retries += budget.take()
        assert retries <= 0.1 * calls + MINIMUM


def test_ten_calls_pay_for_one_retry():
    budget = RetryBudget(minimum=0.0)
    for _ in range(9):
        budget.on_call()
        assert not budget.take()
    budget.on_call()
    assert budget.take()


def test_a_quiet_day_saves_up_no_storm():
    budget = RetryBudget()
    for _ in range(100_000):
        budget.on_call()
    assert sum(budget.take() for _ in range(1000)) == 30


def test_what_is_worth_another_try():
    assert worth_retrying(BackendUnavailableError("reset"))
    assert worth_retrying(BackendOverloadedError("busy"))
    assert not worth_retrying(BackendTimeoutError("late"))
    assert not worth_retrying(BackendRejectedError("bad request"))


@pytest.mark.parametrize("tried", [1, 2, 3, 10, 1000])
def test_the_wait_grows_with_full_jitter_up_to_its_limit(tried):
    error = BackendUnavailableError("reset")
    assert backoff_s(error, tried, 0.0) == 0.0
    assert backoff_s(error, tried, 1.0) == min(LONGEST_WAIT_S, 0.05 * 2.0 ** min(tried - 1, 50))


def test_a_backend_gets_the_patience_it_asked_for():
    assert backoff_s(BackendOverloadedError("busy", retry_after_s=3.0), 1, 0.0) == 3.0
