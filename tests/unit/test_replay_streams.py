"""Streams change where they say, and what a pass made of the change is measured as by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.outcomes import Outcomes
from pipelines.replay_outcomes import Pass
from pipelines.replay_streams import (
    EXAMPLE_WORLD,
    Stream,
    adaptation,
    best_policy,
    degraded,
    draw,
    repriced,
    swapped,
    synthetic_cheaper,
    synthetic_degraded,
)
from registry.errors import BadInputError


def flat(rows: int = 400) -> Outcomes:
    """Arm a always earns 0.2, b 0.6, c 1.0; they cost 1, 2 and 4."""
    return Outcomes(
        ("a", "b", "c"), ("p",) * rows, np.tile([0.2, 0.6, 1.0], (rows, 1)), np.tile([1.0, 2.0, 4.0], (rows, 1))
    )


def passed(picks: list[int], budget: float = 4.0, rows: np.ndarray | None = None) -> Pass:
    count = len(picks)
    order = np.arange(count) if rows is None else rows
    return Pass(budget, 0, order, np.array(picks), np.eye(3)[picks], np.zeros(count), np.zeros(count))


def test_drawn_rewards_have_the_means_that_they_claim() -> None:
    outcomes, expected = draw(EXAMPLE_WORLD, 20_000, seed=1)
    assert outcomes.rewards.mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.015)
    assert set(np.unique(outcomes.rewards)) == {0.0, 1.0}


def test_prompts_tell_their_topic() -> None:
    outcomes, expected = draw(EXAMPLE_WORLD, 200, seed=1)
    for prompt, row in zip(outcomes.prompts, expected, strict=True):
        topic = next(one for one in EXAMPLE_WORLD.topics if set(prompt.split()) <= set(one.words.split()))
        assert row.tolist() == list(topic.rewards.values())


def test_the_same_seed_draws_the_same_stream() -> None:
    one, same, other = synthetic_degraded(300, 5), synthetic_degraded(300, 5), synthetic_degraded(300, 6)
    assert np.array_equal(one.outcomes.rewards, same.outcomes.rewards)
    assert one.outcomes.prompts == same.outcomes.prompts != other.outcomes.prompts


def test_a_synthetic_arm_degrades_half_way() -> None:
    stream = synthetic_degraded(8_000, 2, arm="middle", lost=0.5)
    column = stream.outcomes.arms.index("middle")
    before, after = (stream.outcomes.rewards[phase, column].mean() for phase in stream.phases)
    assert before - after == pytest.approx(0.5, abs=0.04)
    assert best_policy(stream, stream.phases[1], 2e-4).shares["middle"] < 0.01


def test_a_price_falls_half_way() -> None:
    stream = synthetic_cheaper(400, 2)
    assert stream.outcomes.costs_usd[[0, 199, 200, 399], 2].tolist() == pytest.approx([2e-3, 2e-3, 2e-4, 2e-4])
    shares = [best_policy(stream, phase, 2e-4).shares["large"] for phase in stream.phases]
    assert shares[0] < 0.2
    assert shares[1] == pytest.approx(1.0)


def test_splices_change_the_second_half_alone() -> None:
    worse = degraded(flat(), "c", right_arm="b", factor=0.3).outcomes.rewards
    assert (worse[199].tolist(), worse[200].tolist()) == ([0.2, 0.6, 1.0], pytest.approx([0.2, 0.6, 0.3]))
    cheaper = repriced(flat(), "c").outcomes.costs_usd
    assert (cheaper[199].tolist(), cheaper[200].tolist()) == ([1, 2, 4], pytest.approx([1, 2, 0.4]))
    turned = swapped(flat(), "a", "c")
    assert turned.outcomes.rewards[200].tolist() == [1.0, 0.6, 0.2]
    assert turned.right_arm == "a"
    assert flat().rewards.tolist() == swapped(flat(), "a", "c").outcomes.rewards[:200].tolist() * 2


def test_an_unknown_arm_is_named() -> None:
    for splice in (
        lambda: degraded(flat(), "z", "a"),
        lambda: degraded(flat(), "a", "z"),
        lambda: repriced(flat(), "z"),
    ):
        with pytest.raises(BadInputError, match="no model 'z'; the file has a, b, c"):
            splice()


def test_calls_to_adapt_by_hand() -> None:
    """c serves until 50 calls after the change, then b alone: 80 % of the last 100 calls are b's 130 calls after it."""
    stream = degraded(flat(), "c", right_arm="b", factor=0.1)
    found = adaptation(stream, passed([2] * 250 + [1] * 150))
    assert (found.share_before, found.share_wanted, found.share_at_end) == (0.0, 1.0, 1.0)
    assert found.calls_to_adapt == 130
    assert found.regret_before == pytest.approx(0.0)
    assert found.regret_after == pytest.approx(50 * (0.6 - 0.1))
    assert found.cost_after_usd == pytest.approx((50 * 4 + 150 * 2) / 200)


def test_never_adapting_is_said() -> None:
    found = adaptation(degraded(flat(), "c", right_arm="b"), passed([2] * 400))
    assert found.calls_to_adapt is None


def test_the_best_policy_keeps_the_budget_within_its_phase() -> None:
    stream = degraded(flat(), "c", right_arm="b", factor=0.1)
    found = adaptation(stream, passed([1] * 400, budget=3.0))
    assert found.regret_before == pytest.approx(200 * (0.8 - 0.6))  # half b, half c meets 3.0
    assert found.regret_after == pytest.approx(0.0)


def test_known_truth_takes_the_luck_out_of_regret() -> None:
    outcomes = flat()
    lucky = Outcomes(outcomes.arms, outcomes.prompts, np.ones_like(outcomes.rewards), outcomes.costs_usd)
    stream = Stream("s", lucky, 200, "c", outcomes.rewards)
    assert adaptation(stream, passed([0] * 400)).regret_after == pytest.approx(200 * 0.8)


@pytest.mark.parametrize("rows", [np.arange(400)[::-1], np.arange(200)])
def test_a_shuffled_or_cut_pass_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(BadInputError, match="shuffle=False"):
        adaptation(degraded(flat(), "c", "b"), passed([0] * len(rows), rows=rows))
