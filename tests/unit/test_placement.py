"""Which adapters are loaded where not all fit."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from specialists.placement import IDLE_S, MIN_STAY_S, WINDOW_CALLS, Placement

NAMES = "abcdef"
ACTIVE, CANARY, SHADOW = 1.0, 0.5, 0.25


def placement(limit, names=NAMES, **weights):
    placed = Placement(limit)
    placed.want({name: weights.get(name, ACTIVE) for name in names})
    return placed


def loads_of(placed, calls, gap_s=1.0, start_s=0.0):
    """Put calls to it, one every `gap_s`; returns how many adapters were given a place."""
    placed.settle(start_s)
    loads, before = 0, placed.resident()
    for number, names in enumerate(calls):
        now_s = start_s + number * gap_s
        placed.asked(names, now_s)
        placed.settle(now_s, names)
        loads += len(placed.resident() - before)
        before = placed.resident()
    return loads


def test_where_all_fit_all_are_resident():
    for limit in (None, 6, 9):
        placed = placement(limit)
        assert placed.settle(0.0) and placed.resident() == set(NAMES)
        assert not placed.settle(1.0)


def test_one_that_could_not_be_loaded_waits_outside_unless_there_is_room_for_all():
    placed = placement(2, "abc")
    placed.settle(0.0)
    (waiting,) = set("abc") - placed.resident()
    leaving = min(placed.resident())
    assert placed.bar(leaving, 0.0) and placed.settle(0.0)
    assert waiting in placed.resident() and leaving not in placed.resident()
    assert not placed.bar(waiting, 0.0), "nobody else may have its place"
    placed.want({leaving: ACTIVE, waiting: ACTIVE})
    assert placed.settle(1.0) and placed.resident() == {leaving, waiting}


def test_before_any_call_the_places_go_by_weight():
    placed = placement(2, a=SHADOW, b=CANARY, c=SHADOW, d=ACTIVE, e=SHADOW, f=SHADOW)
    placed.settle(0.0)
    assert placed.resident() == {"b", "d"}


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.lists(
        st.one_of(
            st.tuples(st.just("asked"), st.sets(st.sampled_from(NAMES)), st.floats(0, 100)),
            st.tuples(st.just("want"), st.sets(st.sampled_from(NAMES)), st.floats(0, 100)),
        ),
        max_size=60,
    ),
)
def test_never_more_than_the_limit_only_who_competes_and_no_place_is_left_empty(limit, events):
    placed, now_s, competing = placement(limit), 0.0, set(NAMES)
    for kind, names, passed_s in events:
        now_s += passed_s
        if kind == "asked":
            placed.asked(names, now_s)
        else:
            competing = names
            placed.want(dict.fromkeys(sorted(names), ACTIVE))
        placed.settle(now_s)
        assert placed.resident() <= competing
        assert len(placed.resident()) == min(limit, len(competing))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.floats(0.05, 20), st.integers())
def test_whatever_is_asked_for_there_are_few_loads(limit, gap_s, seed):
    rng = random.Random(seed)
    placed = placement(limit)
    calls = [rng.sample(NAMES, rng.randrange(3)) for _ in range(300)]
    assert loads_of(placed, calls, gap_s) <= limit * (1 + 300 * gap_s / MIN_STAY_S)


def test_equal_demand_moves_nobody():
    rng = random.Random(5)
    placed = placement(2, "abc")
    assert loads_of(placed, [rng.choice("abc") for _ in range(8_000)], 0.5) <= 2 + 3


def test_taking_turns_moves_nobody():
    placed = placement(1, "ab")
    assert loads_of(placed, "ab" * 1000) == 0


def test_a_shift_of_demand_is_followed_within_a_window():
    placed = placement(1, "ab")
    loads_of(placed, "a" * 5000)
    assert placed.resident() == {"a"}
    assert loads_of(placed, "b" * WINDOW_CALLS, 0.5, 5000.0) == 1
    assert placed.resident() == {"b"}


def test_one_that_is_asked_for_now_and_then_is_not_evicted_by_one_that_is_asked_for_rarely():
    placed = placement(1, "ab")
    calls = ("a" * 20 + "b") * 200
    assert loads_of(placed, calls, 2.0) == 1 and placed.resident() == {"a"}


def test_an_idle_one_makes_room_at_the_first_call():
    placed = placement(1, "ab")
    loads_of(placed, "a" * 500)
    placed.asked("b", 500.0 + IDLE_S / 2)
    placed.settle(500.0 + IDLE_S / 2)
    assert placed.resident() == {"a"}
    placed.asked("b", 500.0 + IDLE_S)
    placed.settle(500.0 + IDLE_S)
    assert placed.resident() == {"b"}


def test_an_idle_one_leaves_before_one_that_is_asked_for_less_but_now():
    placed = placement(2, "abc")
    loads_of(placed, "a" * 500 + "b" * 40)
    assert placed.demand("a") > placed.demand("b") and placed.resident() == {"a", "b"}
    calls = ("b" * 5 + "c") * 12
    loads_of(placed, calls, 1.0, 540.0)
    assert placed.resident() == {"b", "c"}


def test_one_that_is_asked_for_now_takes_an_idle_one_s_place_also_beside_an_absent_one_that_once_was_in_demand():
    placed = placement(1, "abc")
    loads_of(placed, ["ab"] * 300)
    absent = ({"a", "b"} - placed.resident()).pop()
    placed.asked("c", 1000.0)
    placed.settle(1000.0)
    assert placed.resident() == {"c"} and placed.demand(absent) > placed.demand("c")


def test_a_shadow_s_call_drives_no_idle_active_one_out():
    placed = placement(1, "ab", b=SHADOW)
    loads_of(placed, "a")
    placed.asked("b", 1000.0)
    assert not placed.settle(1000.0) and placed.resident() == {"a"}


def test_a_shadow_counts_less_than_an_active_one_with_the_same_calls():
    placed = placement(1, "ab", a=SHADOW)
    loads_of(placed, [("a", "b")] * 300)
    assert placed.resident() == {"b"}
    assert placed.demand("a") == SHADOW * placed.demand("b")


def test_who_was_promoted_counts_for_more_with_the_calls_it_had():
    placed = placement(1, "ab", b=SHADOW)
    loads_of(placed, [("a",), ("b",), ("b",)] * 200)
    assert placed.resident() == {"a"}
    placed.want({"a": ACTIVE, "b": ACTIVE})
    placed.settle(600.0)
    assert placed.resident() == {"b"}


def test_counts_stay_finite_over_millions_of_calls():
    placed = placement(1, "ab")
    for number in range(60_000):
        placed.asked("a", float(number))
    assert 0.9 * WINDOW_CALLS < placed.demand("a") < 1.1 * WINDOW_CALLS
