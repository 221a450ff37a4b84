"""The scheduler is pure: no model is needed to see that nobody starves and that rows stay without gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the engine extra is not installed")

from registry.errors import BackendOverloadedError
from specialists.engine.scheduler import Limits, Scheduler
from specialists.engine.sequence import Sampling, Sequence


def sequence(prompt_tokens, max_tokens=8):
    return Sequence(list(range(prompt_tokens)), Sampling(max_tokens=max_tokens), None, text=None)


def scheduler(running=4, waiting=100, step=32, cached=10_000):
    return Scheduler(Limits(max_running=running, max_waiting=waiting, max_step_tokens=step, max_cached_tokens=cached))


def advance(planner, place=lambda _: 0):
    """One step, as the compute loop does it: a sequence whose tokens are all computed gains one."""
    steps = planner.plan(place)
    for item, count in steps:
        item.computed += count
        if item.pending == 0:
            item.tokens.append(7)
    return steps


def test_a_long_prompt_is_taken_in_chunks_and_holds_up_nobody():
    planner = scheduler()
    talking, long = sequence(4), sequence(100)
    planner.add(talking)
    advance(planner)
    planner.add(long)
    seen = [dict(advance(planner)) for _ in range(5)]
    assert all(step[talking] == 1 for step in seen)
    assert [step[long] for step in seen] == [31, 31, 31, 7, 1]


def test_a_sequence_joins_while_others_run_and_starts_after_what_is_cached():
    planner = scheduler()
    first, second = sequence(4), sequence(20)
    planner.add(first)
    advance(planner)
    planner.add(second)
    assert dict(advance(planner, place=lambda _: 16)) == {first: 1, second: 4}
    assert second.cached == 16
    assert (first.row, second.row) == (0, 1)


def test_no_more_run_than_rows_or_memory_allow():
    by_rows, by_memory = scheduler(running=2), scheduler(cached=30)
    for planner in (by_rows, by_memory):
        for _ in range(4):
            planner.add(sequence(4))
        advance(planner)
    assert (len(by_rows.running), len(by_rows.waiting)) == (2, 2)
    assert (len(by_memory.running), len(by_memory.waiting)) == (2, 2)  # 12 tokens each at their longest


def test_a_full_queue_refuses():
    planner = scheduler(waiting=1)
    planner.add(sequence(1))
    with pytest.raises(BackendOverloadedError, match="1 waiting"):
        planner.add(sequence(1))


def test_the_cancelled_leave_the_queue_at_once_and_the_batch_by_name():
    planner = scheduler(running=1)
    runs, waits = sequence(4), sequence(4)
    planner.add(runs)
    planner.add(waits)
    advance(planner)
    runs.cancelled = waits.cancelled = True
    assert planner.drop_cancelled() == [runs]
    assert not planner.waiting


@given(st.lists(st.tuples(st.integers(1, 80), st.integers(0, 3)), max_size=40))
def test_rows_stay_without_gaps_and_the_budget_is_kept(events):
    planner, contents = scheduler(), {}
    for size, ends in events:
        planner.add(sequence(size))
        steps = advance(planner)
        assert sum(count for _, count in steps) <= 32
        contents.update({item.row: item for item in planner.running})
        if planner.running and ends:
            leaving = planner.running[ends % len(planner.running)]
            move = planner.remove(leaving)
            if move:  # follow it as the cache does
                assert contents[move.source] is planner.running[move.target]
        assert [item.row for item in planner.running] == list(range(len(planner.running)))
