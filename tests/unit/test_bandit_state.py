"""The learner's state: bytes that come back whole or are refused, sums that add up, room that is bounded."""

import math

import msgspec
import numpy as np
import pytest

from policies.bandit import Bandit, Context
from policies.bandit_state import BanditState
from policies.bandit_sums import Sums
from policies.learning import LearningPolicy
from registry.errors import StorageError


def taught() -> Bandit:
    learner = Bandit(LearningPolicy(half_life_h=24.0), "f1", 3)
    rng = np.random.default_rng(0)
    for hour in range(60):
        call = Context(np.concatenate(((1.0,), rng.normal(size=2))), f"c{hour % 4}")
        learner.learn(f"a{hour % 3}", call, float(rng.random()), float(hour))
        learner.learn_usage(f"a{hour % 2}", call, float(rng.random()) + 0.1, float(hour))
    return learner


def same(one: BanditState, other: BanditState) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=False)
        for name in ("design", "moment", "square", "centre", "pair_index", "pairs")
    ) and (one.features, one.now_h, one.arms, one.clusters) == (other.features, other.now_h, other.arms, other.clusters)


def test_bytes_bring_the_state_back_exactly() -> None:
    state = taught().state(70.0)
    again = BanditState.from_bytes(state.to_bytes())
    assert same(state, again)
    assert again.to_bytes() == state.to_bytes()


def test_an_empty_state_comes_back_too() -> None:
    state = Bandit(LearningPolicy(), "f1", 3).state(0.0)
    assert same(state, BanditState.from_bytes(state.to_bytes()))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not start"),
        (b"PK\x03\x04 a zip", "does not start"),
        (b"JMBS", "version none"),
        (b"JMBS\x63rest", "version 99"),
        (b"JMBS\x01\xff\xfe not msgpack", "damaged"),
    ],
)
def test_other_bytes_are_refused_with_what_is_wrong(content: bytes, says: str) -> None:
    with pytest.raises(StorageError, match=says):
        BanditState.from_bytes(content)


def test_every_cut_is_refused() -> None:
    content = taught().state(70.0).to_bytes()
    for end in range(0, len(content), 97):
        with pytest.raises(StorageError):
            BanditState.from_bytes(content[:end])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pairs": b"\x00" * 8}, "`pairs` has 8 bytes"),
        ({"design": None}, "`design` holds values that are not finite"),
        ({"arms": ("a0", "a0", "a2")}, "named twice"),
        ({"pair_index": b"\xff" * 8}, "not there"),
        ({"dimension": 0}, "`dimension` is 0"),
        ({"now_h": math.nan}, "`now_h` is nan"),
    ],
)
def test_damage_within_is_named(change: dict[str, object], says: str) -> None:
    content = taught().state(70.0).to_bytes()
    wire = msgspec.msgpack.decode(content[5:])
    if change.get("design", b"") is None:
        change = {"design": b"\xff" * len(wire["design"])}
    with pytest.raises(StorageError, match=says):
        BanditState.from_bytes(content[:5] + msgspec.msgpack.encode({**wire, **change}))


def test_a_state_shares_no_memory_with_the_learner() -> None:
    learner = taught()
    state = learner.state(70.0)
    before = state.to_bytes()
    learner.learn("a0", Context(np.ones(3), "c0"), 1.0, 70.0)
    learner.keep_only([])
    assert state.to_bytes() == before


def test_years_pass_without_the_sums_overflowing() -> None:
    learner = Bandit(LearningPolicy(half_life_h=1.0), "f1", 3)
    call = Context(np.ones(3), "mail")
    for hour in range(0, 100_000, 7):
        learner.learn("a", call, 0.75, float(hour))
    [known] = learner.beliefs(["a"], call, [None], 100_000.0)
    assert math.isfinite(known.mean)
    assert np.isfinite(learner.state(100_000.0).design).all()
    learner.learn("a", call, 1.0, 1e9)
    assert learner.state(1e9).pairs[0, 0, 0] == pytest.approx(1.0)


def test_a_clock_that_goes_back_counts_an_outcome_as_the_older_one_that_it_is() -> None:
    learner = Bandit(LearningPolicy(half_life_h=10.0), "f1", 3)
    call = Context(np.ones(3), "mail")
    learner.learn("a", call, 1.0, 100.0)
    learner.learn("a", call, 0.0, 90.0)
    assert learner.state(100.0).pairs[0, 0].tolist() == pytest.approx([1.5, 1.0, 1.0])


def test_the_least_seen_cluster_makes_room_when_there_are_too_many() -> None:
    sums = Sums(2, math.inf, max_clusters=10)
    vector = np.ones(2)
    for index in range(10):
        for _ in range(1 if index == 4 else 3):
            sums.add(sums.arm_row("a"), sums.cluster_row(f"c{index}"), vector, 0, 1.0, 1.0)
    sums.add(sums.arm_row("a"), sums.cluster_row("new"), vector, 0, 0.5, 1.0)
    state = sums.state("f1", 0.0)
    assert len(state.clusters) == 10
    assert "c4" not in state.clusters
    row = state.clusters.index("new")
    assert state.pairs[state.pair_index[:, 0] == row][0, 0].tolist() == pytest.approx([1.0, 0.5, 0.25])


def test_more_clusters_than_there_is_room_for_are_absorbed_without_mixing_them() -> None:
    big, small = Sums(2, math.inf, max_clusters=40), Sums(2, math.inf, max_clusters=10)
    for index in range(40):
        big.add(big.arm_row("a"), big.cluster_row(f"c{index}"), np.ones(2), 0, index / 40, 1.0)
    small.include(big.state("f1", 0.0), "f1")
    state = small.state("f1", 0.0)
    assert len(state.clusters) == 10
    for (cluster, _), pair in zip(state.pair_index, state.pairs, strict=True):
        assert pair[0, 1] == pytest.approx(int(state.clusters[cluster][1:]) / 40)
