"""What replay passes amount to: the curve over budgets, the baselines beside it, and whether each is beaten.

It knows passes and the matrix; not how the passes were run, and not how a report is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipelines.outcomes import Outcomes
from pipelines.replay_baselines import (
    Baseline,
    best_single,
    oracle,
    random_mix,
    shares_array,
    shuffled,
    static_mix,
)
from pipelines.replay_gap import RANDOM, GapRecovered, gap_recovered, model_pair
from pipelines.replay_outcomes import Pass

Floats = NDArray[np.float64]


class CurvePoint(Struct, frozen=True):
    """The router at one budget, mean over seeds; `reward_stderr` is over seeds, None with one seed."""

    budget_usd: float
    mean_reward: float
    mean_cost_usd: float
    reward_stderr: float | None


class BaselineAt(Struct, frozen=True):
    """A baseline at one budget."""

    budget_usd: float
    mean_reward: float
    mean_cost_usd: float
    shares: dict[str, float]
    meets_budget: bool


class SingleAt(Struct, frozen=True):
    """The best single model at one budget."""

    budget_usd: float
    model: str
    mean_reward: float
    mean_cost_usd: float
    meets_budget: bool


class BestSingle(Struct, frozen=True):
    """The best single model whatever it costs, and within each budget."""

    model: str
    mean_reward: float
    mean_cost_usd: float
    by_budget: list[SingleAt]


class Baselines(Struct, frozen=True):
    """`shuffled` is the router's own shares handed out at random at the router's own cost."""

    best_single: BestSingle
    static_mix: list[BaselineAt]
    static_mix_same_cost: list[BaselineAt]
    """`static_mix` with what the router really spent as its budget."""
    oracle: list[BaselineAt]
    shuffled: list[BaselineAt]
    random: list[BaselineAt]


class Comparison(Struct, frozen=True):
    """The router's mean reward less the baseline's on the same prompts.

    `stderr` covers both the seeds and the prompts: would it hold on others like them? None for the oracle, whose
    choice knows the outcomes.
    """

    baseline: str
    difference: float
    stderr: float | None

    @property
    def verdict(self) -> str:
        """`beats`, `loses to` or `level with`, which is within two standard errors."""
        if abs(self.difference) <= 2 * (self.stderr or 0.0) or self.difference == 0:
            return "level with"
        return "beats" if self.difference > 0 else "loses to"


class Detail(Struct, frozen=True):
    """More of the router at one budget."""

    budget_usd: float
    shares: dict[str, float]
    cost_stderr_usd: float | None
    second_half_reward: float
    """Mean reward over the later half of each pass, when more had been learned."""
    within_budget: bool
    """At most 2 % over."""
    comparisons: list[Comparison]


class PropensityCheck(Struct, frozen=True):
    """Whether the logged chances are those that the picks were drawn with."""

    worst_sum_error: float
    """Largest distance of a decision's chances from a sum of 1."""
    picks_without_chance: int
    """Picks of an arm whose logged chance was zero."""
    largest_z: float
    """Picks of an arm against the sum of its chances, in standard deviations; above 4 is no accident."""


class Gap(Struct, frozen=True):
    """RouteLLM's measures, for two models (arXiv:2406.18665)."""

    weak: str
    strong: str
    apgr: float
    cpt50: float
    cpt80: float
    points: list[tuple[float, float]]
    """Share of strong calls and mean reward at each budget."""
    random: GapRecovered


class DecisionTimes(Struct, frozen=True):
    """Time of a decision, embedding included, measured alone: `p50` and `p99` of wall time."""

    p50: float
    p99: float
    cpu_p50: float
    cpu_p99: float
    """Of processor time, for runs on a busy machine."""
    decisions: int


class OutcomeReport(Struct, frozen=True, omit_defaults=True):
    """All that `journeyman replay --outcomes` prints."""

    curve: list[CurvePoint]
    baselines: Baselines
    decision_ms: DecisionTimes
    details: list[Detail]
    propensities: PropensityCheck
    arms: dict[str, dict[str, float]]
    rows: int
    warmup_rows: int
    seeds: int
    warnings: list[str]
    gap: Gap | None = None


class RunFacts(Struct, frozen=True):
    """What a report says of the run beside its passes."""

    timed: Pass
    """The pass that was run alone for its decision times."""
    warmup_rows: int
    seeds: int
    warnings: tuple[str, ...] = ()


def summarise(outcomes: Outcomes, passes: Sequence[Pass], facts: RunFacts) -> OutcomeReport:
    """The report of some passes over one matrix; every budget has the same seeds."""
    budgets = sorted({one.budget_usd for one in passes})
    groups = [[one for one in passes if one.budget_usd == budget] for budget in budgets]
    curve = [_point(outcomes, group) for group in groups]
    mixtures = [_mixtures(outcomes, group, point) for group, point in zip(groups, curve, strict=True)]
    oracles = [oracle(outcomes, budget) for budget in budgets]
    return OutcomeReport(
        curve=curve,
        baselines=_baselines(outcomes, budgets, mixtures, oracles),
        decision_ms=_times(facts.timed),
        details=[
            _detail(outcomes, group, {**mixture, "oracle": best})
            for group, mixture, best in zip(groups, mixtures, oracles, strict=True)
        ],
        propensities=check_propensities(passes),
        arms=_arm_means(outcomes),
        rows=len(outcomes.prompts),
        warmup_rows=facts.warmup_rows,
        seeds=facts.seeds,
        warnings=list(facts.warnings),
        gap=_gap(outcomes, groups, curve),
    )


def check_propensities(passes: Sequence[Pass]) -> PropensityCheck:
    """Compare what was picked with the chances that were logged; exact in expectation for any adaptive router."""
    worst, without, largest = 0.0, 0, 0.0
    for one in passes:
        chances = one.propensities
        picked = np.eye(chances.shape[1])[one.picks]
        worst = max(worst, float(np.abs(chances.sum(axis=1) - 1).max()))
        without += int((np.take_along_axis(chances, one.picks[:, None], axis=1) <= 0).sum())
        spread = np.sqrt((chances * (1 - chances)).clip(0).sum(axis=0))
        surplus = (picked - chances).sum(axis=0)
        largest = max(largest, float(np.abs(surplus / np.maximum(spread, 1.0)).max()))
    return PropensityCheck(worst, without, largest)


def arm_shares(one: Pass, arms: int) -> Floats:
    """How much of a pass each arm got."""
    return np.asarray(np.bincount(one.picks, minlength=arms) / len(one.picks))


def _point(outcomes: Outcomes, group: Sequence[Pass]) -> CurvePoint:
    rewards = np.array([_earned(outcomes.rewards, one).mean() for one in group])
    costs = np.array([_earned(outcomes.costs_usd, one).mean() for one in group])
    return CurvePoint(group[0].budget_usd, float(rewards.mean()), float(costs.mean()), _stderr(rewards))


def _mixtures(outcomes: Outcomes, group: Sequence[Pass], point: CurvePoint) -> dict[str, Baseline]:
    budget = point.budget_usd
    return {
        "best_single": best_single(outcomes, budget),
        "static_mix": static_mix(outcomes, budget),
        "static_mix_same_cost": static_mix(outcomes, point.mean_cost_usd),
        "shuffled": _shuffled(outcomes, group),
        "random": random_mix(outcomes, budget),
    }


def _shuffled(outcomes: Outcomes, group: Sequence[Pass]) -> Baseline:
    each = [
        shuffled(outcomes, arm_shares(one, len(outcomes.arms)), float(_earned(outcomes.costs_usd, one).mean()))
        for one in group
    ]
    return Baseline(
        mean_reward=float(np.mean([one.mean_reward for one in each])),
        mean_cost_usd=float(np.mean([one.mean_cost_usd for one in each])),
        shares={arm: float(np.mean([one.shares[arm] for one in each])) for arm in outcomes.arms},
    )


def _baselines(
    outcomes: Outcomes, budgets: Sequence[float], mixtures: Sequence[dict[str, Baseline]], oracles: Sequence[Baseline]
) -> Baselines:
    def listed(name: str) -> list[BaselineAt]:
        return [_at(budget, mixture[name]) for budget, mixture in zip(budgets, mixtures, strict=True)]

    best = best_single(outcomes)
    single = [
        SingleAt(budget, _only(one), one.mean_reward, one.mean_cost_usd, one.meets_budget)
        for budget, one in zip(budgets, (mixture["best_single"] for mixture in mixtures), strict=True)
    ]
    return Baselines(
        best_single=BestSingle(_only(best), best.mean_reward, best.mean_cost_usd, single),
        static_mix=listed("static_mix"),
        static_mix_same_cost=listed("static_mix_same_cost"),
        oracle=[_at(budget, one) for budget, one in zip(budgets, oracles, strict=True)],
        shuffled=listed("shuffled"),
        random=listed("random"),
    )


def _at(budget_usd: float, one: Baseline) -> BaselineAt:
    return BaselineAt(budget_usd, one.mean_reward, one.mean_cost_usd, one.shares, one.meets_budget)


def _only(one: Baseline) -> str:
    return max(one.shares, key=lambda arm: one.shares[arm])


def _detail(outcomes: Outcomes, group: Sequence[Pass], rivals: dict[str, Baseline]) -> Detail:
    count = len(outcomes.arms)
    shares = np.mean([arm_shares(one, count) for one in group], axis=0)
    costs = np.array([_earned(outcomes.costs_usd, one).mean() for one in group])
    later = [_earned(outcomes.rewards, one)[len(one.picks) // 2 :].mean() for one in group]
    return Detail(
        budget_usd=group[0].budget_usd,
        shares=dict(zip(outcomes.arms, shares.tolist(), strict=True)),
        cost_stderr_usd=_stderr(costs),
        second_half_reward=float(np.mean(later)),
        within_budget=bool(costs.mean() <= group[0].budget_usd * 1.02),
        comparisons=[_compared(outcomes, group, name, rival) for name, rival in rivals.items()],
    )


def _compared(outcomes: Outcomes, group: Sequence[Pass], name: str, rival: Baseline) -> Comparison:
    earned = np.array([_by_row(_earned(outcomes.rewards, one), one) for one in group])
    if name == "oracle":
        return Comparison(name, float(earned.mean() - rival.mean_reward), None)
    difference = earned - outcomes.rewards @ shares_array(outcomes, rival.shares)
    over_prompts = difference.mean(axis=0).std(ddof=1) / np.sqrt(difference.shape[1]) if difference.shape[1] > 1 else 0
    over_seeds = _stderr(difference.mean(axis=1)) or 0.0
    return Comparison(name, float(difference.mean()), float(np.hypot(over_prompts, over_seeds)))


def _by_row(values: Floats, one: Pass) -> Floats:
    ordered = np.empty_like(values)
    ordered[one.rows] = values
    return ordered


def _earned(values: Floats, one: Pass) -> Floats:
    return np.asarray(values[one.rows, one.picks])


def _stderr(values: Floats) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _times(timed: Pass) -> DecisionTimes:
    wall, cpu = (np.percentile(ms, [50, 99]) for ms in (timed.decision_ms, timed.decision_cpu_ms))
    return DecisionTimes(float(wall[0]), float(wall[1]), float(cpu[0]), float(cpu[1]), len(timed.decision_ms))


def _arm_means(outcomes: Outcomes) -> dict[str, dict[str, float]]:
    means = zip(outcomes.arms, outcomes.rewards.mean(axis=0), outcomes.costs_usd.mean(axis=0), strict=True)
    return {arm: {"mean_reward": float(reward), "mean_cost_usd": float(cost)} for arm, reward, cost in means}


def _gap(outcomes: Outcomes, groups: Sequence[Sequence[Pass]], curve: Sequence[CurvePoint]) -> Gap | None:
    pair = model_pair(outcomes)
    if pair is None:
        return None
    strong = outcomes.arms.index(pair.strong)
    shares = [float(np.mean([arm_shares(one, 2)[strong] for one in group])) for group in groups]
    points = [(share, point.mean_reward) for share, point in zip(shares, curve, strict=True)]
    found = gap_recovered(pair, points)
    return Gap(pair.weak, pair.strong, found.apgr, found.cpt50, found.cpt80, points, RANDOM)
