from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from specialists.breaker import Breaker


def failed_breaker(failures=3, open_ms=1000, now_s=10.0):
    breaker = Breaker(failures, open_ms)
    for _ in range(failures):
        assert breaker.admit(now_s)
        breaker.failed(now_s)
    return breaker


def test_it_opens_after_failures_in_a_row_and_says_for_how_long():
    breaker = failed_breaker()
    assert not breaker.admit(10.5)
    assert breaker.state(10.5) == "open"
    assert breaker.wait_s(10.25) == 0.75


def test_a_success_in_between_starts_the_count_anew():
    breaker = Breaker(3, 1000)
    for _ in range(10):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.admit(0.0)


def test_half_open_lets_exactly_one_probe_through():
    breaker = failed_breaker()
    assert breaker.admit(11.0)
    assert [breaker.admit(11.0) for _ in range(5)] == [False] * 5
    breaker.succeeded()
    assert [breaker.admit(11.0) for _ in range(5)] == [True] * 5


def test_a_failed_probe_opens_it_for_the_whole_time_again():
    breaker = failed_breaker()
    assert breaker.admit(11.0)
    breaker.failed(11.5)
    assert not breaker.admit(12.4)
    assert breaker.admit(12.5)


def test_a_probe_whose_caller_left_makes_room_for_the_next():
    breaker = failed_breaker()
    assert breaker.admit(11.0)
    breaker.dropped()
    assert breaker.admit(11.0)


def test_dropped_calls_never_open_it():
    breaker = Breaker(1, 1000)
    for _ in range(100):
        breaker.dropped()
    assert breaker.state(0.0) == "closed"


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "drop"]), st.floats(0.01, 2.0)), max_size=60))
def test_it_never_stays_shut_longer_than_its_time(moves):
    breaker, now = Breaker(2, 1000), 0.0
    for move, step in moves:
        now += step
        if breaker.admit(now):
            {"ok": breaker.succeeded, "fail": partial(breaker.failed, now), "drop": breaker.dropped}[move]()
    assert breaker.admit(now + 1.001)
