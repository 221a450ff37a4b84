"""A replay's report for people: a table, and a sentence for each budget that says what was beaten.

It knows the report and rich; nothing of how the figures came about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.markup import escape
from rich.table import Table

from pipelines.replay_outcomes_report import BaselineAt, Comparison, CurvePoint, Detail, Gap, OutcomeReport

_NAMES: Final = {
    "best_single": "the best single model",
    "static_mix": "the best static mix",
    "static_mix_same_cost": "the best static mix at the same cost",
    "shuffled": "its own shares shuffled",
    "random": "random",
}


def curve_table(report: OutcomeReport) -> Table:
    """Every budget's reward and cost beside the baselines' rewards."""
    table = Table(title=f"{report.rows} prompts, {report.seeds} seeds, {report.warmup_rows} warm-up rows")
    table.add_column("budget", justify="right")
    for name in ("router", "± stderr", "spent", "best single", "static mix", "shuffled", "random", "oracle"):
        table.add_column(name, justify="right")
    base = report.baselines
    lines = zip(
        report.curve, base.best_single.by_budget, base.static_mix, base.shuffled, base.random, base.oracle, strict=True
    )
    for point, single, mix, control, chance, best in lines:
        table.add_row(
            dollars(point.budget_usd),
            f"{point.mean_reward:.4f}",
            "-" if point.reward_stderr is None else f"{point.reward_stderr:.4f}",
            dollars(point.mean_cost_usd),
            f"{single.mean_reward:.4f}",
            *(_marked(one) for one in (mix, control, chance, best)),
        )
    return table


def shares_table(report: OutcomeReport) -> Table:
    """Which arm got how much of the prompts, and what each earns and costs alone."""
    table = Table(title="Share of the prompts")
    table.add_column("model")
    table.add_column("reward", justify="right")
    table.add_column("cost", justify="right")
    for detail in report.details:
        table.add_column(dollars(detail.budget_usd), justify="right")
    for arm, mean in report.arms.items():
        shares = (f"{detail.shares[arm]:.1%}" for detail in report.details)
        table.add_row(escape(arm), f"{mean['mean_reward']:.4f}", dollars(mean["mean_cost_usd"]), *shares)
    return table


def sentences(report: OutcomeReport) -> Iterator[str]:
    """One sentence a budget, then the gap, the decision's time and the propensities."""
    for point, detail in zip(report.curve, report.details, strict=True):
        yield _sentence(point, detail)
    if report.gap:
        yield _gap_sentence(report.gap)
    times, check = report.decision_ms, report.propensities
    yield (
        f"A decision took {times.p50:.2f} ms (p50) and {times.p99:.2f} ms (p99), embedding included, measured alone; "
        f"{times.cpu_p50:.2f} and {times.cpu_p99:.2f} ms of processor time."
    )
    sound = check.worst_sum_error < 1e-6 and not check.picks_without_chance and check.largest_z < 4
    yield (
        f"Logged chances {'fit' if sound else 'DO NOT FIT'} the picks: sums off by {check.worst_sum_error:.1g}, "
        f"{check.picks_without_chance} picks without a chance, largest deviation {check.largest_z:.1f} sd."
    )


def dollars(amount_usd: float) -> str:
    """Three digits, however small."""
    return f"${amount_usd:.3g}"


def _marked(one: BaselineAt) -> str:
    return f"{one.mean_reward:.4f}" if one.meets_budget else f"{one.mean_reward:.4f}*"


def _sentence(point: CurvePoint, detail: Detail) -> str:
    found = {one.baseline: one for one in detail.comparisons}
    over = point.mean_cost_usd / point.budget_usd - 1
    spent = dollars(point.mean_cost_usd) if detail.within_budget else f"{dollars(point.mean_cost_usd)}, {over:.0%} OVER"
    told = _grouped([found[name] for name in _NAMES])
    missing = -found["oracle"].difference
    ceiling = f"; {missing:.4f} below the oracle" if missing >= 5e-5 else ""
    earned = f"At {dollars(point.budget_usd)} a prompt the router earns {point.mean_reward:.4f} for {spent}"
    return f"{earned}: {told}{ceiling}."


def _grouped(comparisons: list[Comparison]) -> str:
    parts = []
    for verdict in ("beats", "level with", "loses to"):
        named = [f"{_NAMES[one.baseline]} ({_signed(one)})" for one in comparisons if one.verdict == verdict]
        if named:
            parts.append(f"{verdict} {', '.join(named)}")
    return "; ".join(parts)


def _signed(one: Comparison) -> str:
    return f"{one.difference:+.4f} ± {one.stderr or 0:.4f}"


def _gap_sentence(gap: Gap) -> str:
    return (
        f"From {gap.weak} to {gap.strong}: APGR {gap.apgr:.3f} (random {gap.random.apgr:.3f}), "
        f"half of the gap at {gap.cpt50:.1%} strong calls (random {gap.random.cpt50:.0%}), "
        f"80 % of it at {gap.cpt80:.1%} (random {gap.random.cpt80:.0%}); curve of {len(gap.points)} budgets."
    )
