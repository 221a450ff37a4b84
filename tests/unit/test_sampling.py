"""Lengths that are learned: each at an ordinary pace, a bounded number a second in a rush, and of every candidate."""

from router_service.sampling import LENGTHS_AT_ONCE, LENGTHS_PER_S, LengthSampler


def taken(sampler: LengthSampler, now: list[float], calls: int, *, per_s: float) -> int:
    count = 0
    for _ in range(calls):
        now[0] += 1.0 / per_s
        count += sampler.takes("small")
    return count


def test_at_an_ordinary_pace_every_length_is_learned() -> None:
    now = [0.0]
    assert taken(LengthSampler(lambda: now[0]), now, 2_000, per_s=LENGTHS_PER_S) == 2_000


def test_in_a_rush_a_steady_number_a_second_is_learned_behind_the_first() -> None:
    now = [0.0]
    sampler = LengthSampler(lambda: now[0])
    assert taken(sampler, now, int(LENGTHS_AT_ONCE), per_s=1_000) == LENGTHS_AT_ONCE
    taken(sampler, now, 1_000, per_s=1_000)
    assert abs(taken(sampler, now, 10_000, per_s=1_000) - 10 * LENGTHS_PER_S) <= 2


def test_a_rush_on_one_candidate_silences_no_other() -> None:
    now = [0.0]
    sampler = LengthSampler(lambda: now[0])
    taken(sampler, now, 5_000, per_s=10_000)
    assert sampler.takes("large")


def test_after_a_rush_all_are_learned_again_and_a_candidate_that_comes_back_starts_anew() -> None:
    now = [0.0]
    sampler = LengthSampler(lambda: now[0])
    while sampler.takes("small"):
        pass
    assert not sampler.takes("small")
    now[0] += LENGTHS_AT_ONCE / LENGTHS_PER_S
    assert taken(sampler, now, 50, per_s=10_000) == 50
    while sampler.takes("small"):
        pass
    sampler.forget("small")
    assert sampler.takes("small")
