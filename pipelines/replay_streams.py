"""Streams that change on the way: synthetic ones whose truth is known, and real outcomes spliced at a step.

And what a router made of the change: how long until it used the right arm, what the change cost it. It knows matrices
and passes; not routers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.outcomes import Outcomes
from pipelines.replay_baselines import Baseline, oracle, static_mix
from pipelines.replay_outcomes import Pass
from registry.errors import BadInputError

Floats = NDArray[np.float64]


class Stream(Struct, frozen=True):
    """Outcomes in the order of time; at row `change_at` something changes."""

    name: str
    outcomes: Outcomes
    change_at: int
    right_arm: str
    """The arm that deserves more of the prompts after the change than before."""
    expected_rewards: Floats | None = None
    """Shape (rows, arms), where the truth is known."""

    @property
    def phases(self) -> tuple[slice, slice]:
        """The rows before and after the change."""
        return slice(0, self.change_at), slice(self.change_at, len(self.outcomes.prompts))


class Topic(Struct, frozen=True):
    """One kind of prompt: the words it is made of, and what each arm earns on it on average."""

    words: str
    """Separated by spaces."""
    rewards: Mapping[str, float]


class World(Struct, frozen=True):
    """What a synthetic stream is drawn from. `costs_usd` are flat, for each prompt."""

    topics: tuple[Topic, ...]
    costs_usd: Mapping[str, float]


_CONTRACT_WORDS: Final = "clause tenant landlord notice breach lease liability deposit terms party court signed"
_SUMS_WORDS: Final = "integer sum product divide fraction percent equation solve angle root prime total"
_STORY_WORDS: Final = "dragon castle forest river princess sword moon wizard journey night brave song"

EXAMPLE_WORLD: Final = World(
    topics=(
        Topic(_CONTRACT_WORDS, {"small": 0.85, "middle": 0.85, "large": 0.9}),
        Topic(_SUMS_WORDS, {"small": 0.3, "middle": 0.65, "large": 0.95}),
        Topic(_STORY_WORDS, {"small": 0.55, "middle": 0.8, "large": 0.9}),
    ),
    costs_usd={"small": 1e-5, "middle": 2e-4, "large": 2e-3},
)
"""A small model that is good at one kind of prompt, a middle one, and a large one that is good at all and dear."""


def draw(world: World, rows: int, seed: int) -> tuple[Outcomes, Floats]:
    """Prompts of these topics with rewards of 0 or 1, and the expected rewards that they were drawn with."""
    rng = np.random.default_rng(seed)
    arms = tuple(world.costs_usd)
    topics = rng.integers(len(world.topics), size=rows)
    expected = np.array([[world.topics[topic].rewards[arm] for arm in arms] for topic in topics])
    prompts = tuple(" ".join(rng.choice(world.topics[topic].words.split(), size=8)) for topic in topics)
    costs = np.tile(np.array([world.costs_usd[arm] for arm in arms]), (rows, 1))
    return Outcomes(arms, prompts, (rng.random(expected.shape) < expected).astype(np.float64), costs), expected


def synthetic_degraded(rows: int, seed: int, arm: str = "middle", lost: float = 0.5) -> Stream:
    """Half-way the arm earns `lost` less on every kind of prompt; the right arm is the next best that is affordable."""
    outcomes, expected = draw(EXAMPLE_WORLD, rows, seed)
    at, column = rows // 2, outcomes.arms.index(arm)
    after = expected.copy()
    after[at:, column] = (after[at:, column] - lost).clip(0)
    drawn = (np.random.default_rng([seed, 1]).random(rows - at) < after[at:, column]).astype(np.float64)
    rewards = outcomes.rewards.copy()
    rewards[at:, column] = drawn
    changed = Outcomes(outcomes.arms, outcomes.prompts, rewards, outcomes.costs_usd)
    return Stream(f"synthetic: {arm} loses {lost}", changed, at, "small", after)


def synthetic_cheaper(rows: int, seed: int, arm: str = "large", factor: float = 0.1) -> Stream:
    """Half-way the arm's price falls to `factor` of itself; it is the right arm from then on."""
    outcomes, expected = draw(EXAMPLE_WORLD, rows, seed)
    changed = _repriced(outcomes, rows // 2, arm, factor)
    return Stream(f"synthetic: {arm} costs x{factor:g}", changed, rows // 2, arm, expected)


def degraded(outcomes: Outcomes, arm: str, right_arm: str, factor: float = 0.3) -> Stream:
    """After half of the rows the arm's rewards are `factor` of what they were."""
    at = len(outcomes.prompts) // 2
    rewards = outcomes.rewards.copy()
    rewards[at:, _column(outcomes, arm)] *= factor
    _column(outcomes, right_arm)
    changed = Outcomes(outcomes.arms, outcomes.prompts, rewards, outcomes.costs_usd)
    return Stream(f"{arm} rewards x{factor:g}", changed, at, right_arm)


def repriced(outcomes: Outcomes, arm: str, factor: float = 0.1) -> Stream:
    """After half of the rows the arm costs `factor` of what it did; below 1 it is the right arm from then on."""
    at = len(outcomes.prompts) // 2
    return Stream(f"{arm} costs x{factor:g}", _repriced(outcomes, at, arm, factor), at, arm)


def swapped(outcomes: Outcomes, arm: str, other: str) -> Stream:
    """After half of the rows two arms have each other's rewards; the right arm is the one that was worse."""
    at = len(outcomes.prompts) // 2
    one, two = _column(outcomes, arm), _column(outcomes, other)
    rewards = outcomes.rewards.copy()
    rewards[at:, [one, two]] = rewards[at:, [two, one]]
    mean = outcomes.rewards.mean(axis=0)
    right = arm if mean[one] < mean[two] else other
    changed = Outcomes(outcomes.arms, outcomes.prompts, rewards, outcomes.costs_usd)
    return Stream(f"{arm} and {other} swap rewards", changed, at, right)


class Adaptation(Struct, frozen=True):
    """What one pass made of a stream's change."""

    share_before: float
    """Of the right arm, over the last window before the change."""
    share_wanted: float
    """Of the right arm, in the best policy of the second phase."""
    calls_to_adapt: int | None
    """Calls from the change to the end of the first window with `level` of the way done; None: never."""
    share_at_end: float
    """Of the right arm, over the last quarter of the stream."""
    regret_before: float
    regret_after: float
    """Reward that the phase's best policy would have earned more, summed over the phase; negative if it did worse."""
    cost_before_usd: float
    cost_after_usd: float
    """Mean of the phase."""


def adaptation(stream: Stream, one: Pass, level: float = 0.8, window: int = 100) -> Adaptation:
    """Measure a pass over a stream, which must have kept the stream's order.

    The best policy of each phase keeps the pass's budget within the phase and sees the whole of it: where the truth is
    known, the best choice for each prompt's expected rewards; else the best mixture that is blind to the prompt.
    """
    if not np.array_equal(one.rows, np.arange(len(stream.outcomes.prompts))):
        raise BadInputError("A stream's rows were shuffled or cut; replay it with shuffle=False and no limit.")
    column = stream.outcomes.arms.index(stream.right_arm)
    used = (one.picks == column).astype(np.float64)
    at = stream.change_at
    best = [best_policy(stream, phase, one.budget_usd) for phase in stream.phases]
    before, wanted = float(used[max(0, at - window) : at].mean()), best[1].shares[stream.right_arm]
    regrets = [_regret(stream, one, phase, rival) for phase, rival in zip(stream.phases, best, strict=True)]
    spent = stream.outcomes.costs_usd[one.rows, one.picks]
    return Adaptation(
        share_before=before,
        share_wanted=wanted,
        calls_to_adapt=_calls_to_reach(used[at:], before + level * (wanted - before), window, rising=wanted >= before),
        share_at_end=float(used[-len(used) // 4 :].mean()),
        regret_before=regrets[0],
        regret_after=regrets[1],
        cost_before_usd=float(spent[:at].mean()),
        cost_after_usd=float(spent[at:].mean()),
    )


def best_policy(stream: Stream, phase: slice, budget_usd: float) -> Baseline:
    """The best policy of one phase, as `adaptation` means it."""
    part = stream.outcomes
    rewards = part.rewards if stream.expected_rewards is None else stream.expected_rewards
    cut = Outcomes(part.arms, part.prompts[phase], rewards[phase], part.costs_usd[phase])
    choose: Callable[[Outcomes, float], Baseline] = static_mix if stream.expected_rewards is None else oracle
    return choose(cut, budget_usd)


def _regret(stream: Stream, one: Pass, phase: slice, rival: Baseline) -> float:
    earned = _rewards(stream)[one.rows[phase], one.picks[phase]]
    return float((rival.mean_reward - earned).sum())


def _rewards(stream: Stream) -> Floats:
    return stream.outcomes.rewards if stream.expected_rewards is None else stream.expected_rewards


def _calls_to_reach(used: Floats, target: float, window: int, *, rising: bool) -> int | None:
    if len(used) < window:
        return None
    shares = np.convolve(used, np.ones(window) / window, mode="valid")
    reached = np.flatnonzero(shares >= target - 1e-9 if rising else shares <= target + 1e-9)
    return int(reached[0]) + window if reached.size else None


def _repriced(outcomes: Outcomes, at: int, arm: str, factor: float) -> Outcomes:
    costs = outcomes.costs_usd.copy()
    costs[at:, _column(outcomes, arm)] *= factor
    return Outcomes(outcomes.arms, outcomes.prompts, outcomes.rewards, costs)


def _column(outcomes: Outcomes, arm: str) -> int:
    if arm not in outcomes.arms:
        raise BadInputError(f"no model {arm!r}; the file has {', '.join(outcomes.arms)}")
    return outcomes.arms.index(arm)
