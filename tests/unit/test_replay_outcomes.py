"""The online loop: bandit feedback alone, seeds that differ and repeat, and a report that adds up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from msgspec import Struct

from pipelines.outcomes import Outcomes
from pipelines.replay_command import learner_recipe
from pipelines.replay_outcomes import Pass, Task, default_budgets, replay_once, run_passes, time_decisions
from pipelines.replay_outcomes_report import OutcomeReport, RunFacts, arm_shares, check_propensities, summarise
from pipelines.replay_outcomes_table import sentences


class Choice(Struct):
    arm: str
    propensities: Mapping[str, float]
    prompt: str


class EpsilonGreedy:
    """Counts rewards by (first word, arm); picks the best so far, or with probability epsilon any."""

    def __init__(self, arms: tuple[str, ...], budget_usd: float, seed: int) -> None:
        self.arms = arms
        self.rng = np.random.default_rng(seed)
        self.sums: dict[tuple[str, str], list[float]] = {}
        self.told: list[tuple[str, str, float, float]] = []

    def decide(self, prompt: str) -> Choice:
        word = prompt.split(maxsplit=1)[0]
        means = [np.mean(self.sums.get((word, arm), [0.5])) for arm in self.arms]
        chances = np.full(len(self.arms), 0.1 / len(self.arms))
        chances[int(np.argmax(means))] += 0.9
        arm = str(self.rng.choice(self.arms, p=chances))
        return Choice(arm, dict(zip(self.arms, chances.tolist(), strict=True)), prompt)

    def learn(self, decision: Choice, reward: float, cost_usd: float) -> None:
        self.sums.setdefault((decision.prompt.split()[0], decision.arm), []).append(reward)
        self.told.append((decision.prompt, decision.arm, reward, cost_usd))


class Liar(EpsilonGreedy):
    """Logs even chances whatever it does."""

    def decide(self, prompt: str) -> Choice:
        found = super().decide(prompt)
        return Choice(found.arm, dict.fromkeys(self.arms, 1 / len(self.arms)), prompt)


def two_kinds(rows: int = 1_000) -> Outcomes:
    """Arm `law` is right on law, `sums` on sums; prompts alternate and are numbered."""
    kinds = np.arange(rows) % 2
    rewards = np.stack([kinds == 0, kinds == 1], axis=1).astype(float)
    prompts = tuple(f"{('law', 'sums')[kind]} {number}" for number, kind in enumerate(kinds))
    return Outcomes(("law", "sums"), prompts, rewards, np.tile([1.0, 2.0], (rows, 1)))


def reported(recipe: type[EpsilonGreedy] = EpsilonGreedy, seeds: int = 3) -> OutcomeReport:
    outcomes = two_kinds()
    passes = run_passes(recipe, outcomes, [Task(2.0, seed) for seed in range(seeds)], jobs=1)
    return summarise(outcomes, passes, RunFacts(passes[0], 0, seeds))


def test_the_router_is_told_of_its_own_picks_alone_and_once() -> None:
    outcomes, kept = two_kinds(200), []

    def recipe(arms: tuple[str, ...], budget_usd: float, seed: int) -> EpsilonGreedy:
        kept.append(EpsilonGreedy(arms, budget_usd, seed))
        return kept[0]

    one = replay_once(recipe, outcomes, Task(2.0, 3))
    told = kept[0].told
    assert sorted(prompt for prompt, *_ in told) == sorted(outcomes.prompts)
    for (prompt, arm, reward, cost), row, pick in zip(told, one.rows, one.picks, strict=True):
        assert (prompt, arm) == (outcomes.prompts[row], outcomes.arms[pick])
        assert (reward, cost) == (outcomes.rewards[row, pick], outcomes.costs_usd[row, pick])


def test_seeds_repeat_and_differ_in_order_and_picks() -> None:
    one, same, other = (replay_once(EpsilonGreedy, two_kinds(), Task(2.0, seed)) for seed in (4, 4, 5))
    assert np.array_equal(one.rows, same.rows)
    assert np.array_equal(one.picks, same.picks)
    assert not np.array_equal(one.rows, other.rows)
    assert sorted(one.rows) == list(range(1_000))


def test_all_budgets_of_a_seed_see_the_same_order() -> None:
    one, other = (replay_once(EpsilonGreedy, two_kinds(), Task(budget, 4)) for budget in (1.0, 2.0))
    assert np.array_equal(one.rows, other.rows)


def test_a_stream_keeps_its_order_and_a_limit_cuts_it() -> None:
    one = replay_once(EpsilonGreedy, two_kinds(), Task(2.0, 4, shuffle=False), limit=70)
    assert one.rows.tolist() == list(range(70))
    assert len(time_decisions(EpsilonGreedy, two_kinds(), Task(2.0, 0), rows=30).decision_ms) == 30


def test_processes_give_what_one_process_gives() -> None:
    recipe = learner_recipe([])
    tasks, seen = [Task(2.0, 0), Task(1.0, 1), Task(2.0, 2)], []
    alone = run_passes(recipe, two_kinds(100), tasks, jobs=1)
    apart = run_passes(recipe, two_kinds(100), tasks, lambda *at: seen.append(at), jobs=2)
    assert [one.picks.tolist() for one in alone] == [one.picks.tolist() for one in apart]
    assert [one.seed for one in apart] == [0, 1, 2]
    assert seen[-1] == (3, 3)


def test_a_learner_beats_every_blind_baseline_on_separable_prompts() -> None:
    report = reported()
    verdicts = {one.baseline: one.verdict for one in report.details[0].comparisons}
    assert report.curve[0].mean_reward > 0.9
    assert verdicts == {
        "best_single": "beats",
        "static_mix": "beats",
        "static_mix_same_cost": "beats",
        "shuffled": "beats",
        "random": "beats",
        "oracle": "loses to",
    }
    assert report.baselines.oracle[0].mean_reward == pytest.approx(1.0)
    assert report.details[0].second_half_reward > report.curve[0].mean_reward


def test_the_reports_means_are_the_passes() -> None:
    outcomes = two_kinds(10)
    passes = [
        Pass(
            1.5,
            seed,
            np.arange(10),
            np.full(10, pick),
            np.eye(2)[np.full(10, pick)],
            np.full(10, 0.5),
            np.full(10, 0.25),
        )
        for seed, pick in enumerate((0, 1))
    ]
    report = summarise(outcomes, passes, RunFacts(passes[0], 0, 2))
    point = report.curve[0]
    assert (point.mean_reward, point.mean_cost_usd, point.reward_stderr) == pytest.approx((0.5, 1.5, 0.0))
    assert report.details[0].shares == {"law": 0.5, "sums": 0.5}
    assert report.details[0].within_budget
    # A pass with one arm alone is its own shuffle.
    assert report.baselines.shuffled[0].mean_cost_usd == pytest.approx(1.5)
    assert {one.baseline: one.verdict for one in report.details[0].comparisons}["shuffled"] == "level with"
    assert (report.decision_ms.p50, report.decision_ms.cpu_p99) == pytest.approx((0.5, 0.25))


def test_one_seed_has_no_standard_error() -> None:
    assert reported(seeds=1).curve[0].reward_stderr is None


def test_overspending_is_said() -> None:
    outcomes = two_kinds()
    passes = run_passes(EpsilonGreedy, outcomes, [Task(1.2, seed) for seed in range(2)], jobs=1)
    report = summarise(outcomes, passes, RunFacts(passes[0], 0, 2))
    assert not report.details[0].within_budget
    assert "% OVER" in next(iter(sentences(report)))


def test_honest_chances_fit_the_picks_and_others_do_not() -> None:
    check = reported().propensities
    assert check.worst_sum_error < 1e-9
    assert check.picks_without_chance == 0
    assert check.largest_z < 4
    one_sided = two_kinds().take(np.arange(0, 1_000, 2))
    lied = run_passes(Liar, one_sided, [Task(2.0, 0)], jobs=1)
    assert check_propensities(lied).largest_z > 4
    silent = Pass(1.0, 0, np.arange(2), np.array([1, 1]), np.array([[1.0, 0.0], [0.5, 0.3]]), np.zeros(2), np.zeros(2))
    assert check_propensities([silent]).picks_without_chance == 1
    assert check_propensities([silent]).worst_sum_error == pytest.approx(0.2)


def test_two_models_have_a_gap_and_three_have_none() -> None:
    rng = np.random.default_rng(0)
    weak = rng.random(400) < 0.5
    strong = weak | (rng.random(400) < 0.6)
    prompts = tuple(f"{'hard' if s > w else 'easy'} x" for w, s in zip(weak, strong, strict=True))
    pair = Outcomes(("w", "s"), prompts, np.stack([weak, strong], 1).astype(float), np.tile([0.0, 1.0], (400, 1)))
    passes = run_passes(EpsilonGreedy, pair, [Task(0.5, 0)], jobs=1)
    gap = summarise(pair, passes, RunFacts(passes[0], 0, 1)).gap
    assert gap is not None
    assert (gap.weak, gap.strong) == ("w", "s")
    assert gap.points[0][0] == pytest.approx(arm_shares(passes[0], 2)[1])
    three = Outcomes(("a", "b", "c"), ("p",), np.array([[0.0, 0.5, 1.0]]), np.array([[1.0, 2.0, 3.0]]))
    one = Pass(1.0, 0, np.arange(1), np.zeros(1, dtype=int), np.eye(3)[[0]], np.ones(1), np.ones(1))
    assert summarise(three, [one], RunFacts(one, 0, 1)).gap is None


def test_default_budgets_span_the_prices() -> None:
    three = Outcomes(("a", "b", "c"), ("p",), np.ones((1, 3)), np.array([[1e-5, 1e-3, 1e-2]]))
    budgets = default_budgets(three)
    assert len(budgets) == 7
    assert (budgets[0], budgets[-1]) == pytest.approx((1e-5, 1e-2))
    assert budgets[1] / budgets[0] == pytest.approx(budgets[-1] / budgets[-2])
    assert default_budgets(two_kinds())[3] == pytest.approx(1.5)
    free = Outcomes(("a", "b", "c"), ("p",), np.ones((1, 3)), np.array([[0.0, 1.0, 8.0]]))
    assert min(default_budgets(free)) > 0
    equal = Outcomes(("a", "b"), ("p",), np.ones((1, 2)), np.array([[2.0, 2.0]]))
    assert default_budgets(equal) == (2.0,)
