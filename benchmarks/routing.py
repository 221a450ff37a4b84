"""Routing quality under a budget: the router beside hindsight baselines and published figures, on public outcomes.

    JOURNEYMAN_DATA=... python -m benchmarks.routing [--splits 4] [--seeds 3] [--only three|mmlu] [--json]

Reads outcomes_three_models_val.jsonl and outcomes_two_models_mmlu.jsonl. `cold` starts knowing nothing and is judged on
every row, its learning included. `warm` learns from one half, all models known, and is judged online on the other half;
mean over several random halves, ± standard error over them. Baselines are of the judged rows.

The published figures are of other rows, so they are marks to steer by and no comparison on equal terms: ParetoBandit's
of its test split (this is its validation split), RouteLLM's of all MMLU subjects (this is half of them).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pipelines.outcomes import OutcomeRow, as_arrays, read_outcomes
from pipelines.replay_command import learner_recipe
from pipelines.replay_outcomes import Task, run_passes, time_decisions
from pipelines.replay_outcomes_report import CurvePoint, OutcomeReport, RunFacts, summarise

PARETO_BANDIT = {2.3e-4: 0.859, 6.6e-4: 0.898, 1.9e-3: 0.917, 1.5e-2: 0.929}
"""Mean reward at a budget in dollars a prompt, on its test split."""
PARETO_BANDIT_MS = "9.0 / 9.7"
"""Milliseconds a decision, p50 / p99, embedding included."""

ROUTE_LLM = (
    ("SW ranking", 0.603, 0.354, 0.7155),
    ("causal LLM", 0.600, 0.3549, 0.7031),
    ("random", 0.500, 0.5007, 0.7993),
)
"""APGR, CPT(50 %), CPT(80 %) on MMLU, trained on Arena data and MMLU validation labels: arXiv:2406.18665, table 2."""

MMLU_COSTS_USD = {"mixtral-8x7b": 0.00024, "gpt-4-1106": 0.0247}
"""A thousand tokens a prompt at $0.24 and $24.7 a million: arXiv:2406.18665, section 5.4."""
MMLU_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def report_of(
    rows: Sequence[OutcomeRow], warmup: list[OutcomeRow], budgets: Sequence[float], seeds: int
) -> OutcomeReport:
    """Replay some rows at every budget."""
    matrix = as_arrays(rows)
    recipe = learner_recipe(warmup)
    tasks = [Task(budget, seed) for budget in budgets for seed in range(seeds)]
    passes = run_passes(recipe, matrix, tasks)
    timed = time_decisions(recipe, matrix, tasks[len(tasks) // 2])
    return summarise(matrix, passes, RunFacts(timed, len(warmup), seeds))


def reports_of_halves(rows: list[OutcomeRow], budgets: Sequence[float], splits: int, seeds: int) -> list[OutcomeReport]:
    """Warm-up on a random half, judged on the other; one report a split."""
    reports = []
    for split in range(splits):
        order = np.random.default_rng([split, 11]).permutation(len(rows))
        half = len(rows) // 2
        warmup, judged = ([rows[i] for i in part] for part in (order[:half], order[half:]))
        reports.append(report_of(judged, warmup, budgets, seeds))
        print(f"split {split + 1} of {splits} done", file=sys.stderr)
    return reports


def mean_and_stderr(values: Sequence[float]) -> str:
    """`0.8812 ± 0.0010`, over the values."""
    spread = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.4f} ± {spread:.4f}" if np.isfinite(spread) else f"{np.mean(values):.4f}"


def curve_table(title: str, reports: Sequence[OutcomeReport], published: dict[float, float]) -> Table:
    """Reward at each budget beside the baselines', mean over reports."""
    table = Table(title=title)
    for name in ("budget", "router", "spent", "best single", "static mix", "shuffled", "random", "oracle", "published"):
        table.add_column(name, justify="right")
    for at, point in enumerate(reports[0].curve):
        base = [one.baselines for one in reports]
        table.add_row(
            f"{point.budget_usd:.2g}",
            mean_and_stderr([one.curve[at].mean_reward for one in reports])
            if len(reports) > 1
            else _with_stderr(point),
            f"{np.mean([one.curve[at].mean_cost_usd for one in reports]):.3g}",
            f"{np.mean([one.best_single.by_budget[at].mean_reward for one in base]):.4f}",
            *(
                f"{np.mean([getattr(one, name)[at].mean_reward for one in base]):.4f}"
                for name in ("static_mix", "shuffled", "random", "oracle")
            ),
            f"{published[point.budget_usd]:.3f}" if point.budget_usd in published else "-",
        )
    return table


def _with_stderr(point: CurvePoint) -> str:
    spread = "" if point.reward_stderr is None else f" ± {point.reward_stderr:.4f}"
    return f"{point.mean_reward:.4f}{spread}"


def difference_table(title: str, reports: Sequence[OutcomeReport]) -> Table:
    """The router less each baseline on the same rows: mean over reports, ± over prompts and seeds within one."""
    names = ("best_single", "static_mix", "static_mix_same_cost", "shuffled")
    table = Table("budget", *names, title=title)
    for at, point in enumerate(reports[0].curve):
        cells = []
        for name in names:
            found = [next(c for c in one.details[at].comparisons if c.baseline == name) for one in reports]
            within = np.mean([c.stderr or 0 for c in found])
            cells.append(f"{np.mean([c.difference for c in found]):+.4f} ± {within:.4f}")
        table.add_row(f"{point.budget_usd:.2g}", *cells)
    return table


def gap_table(runs: dict[str, Sequence[OutcomeReport]]) -> Table:
    """APGR and CPT of each variant, with the published ones below."""
    table = Table("router", "APGR", "CPT(50 %)", "CPT(80 %)", title="MMLU, from mixtral-8x7b to gpt-4-1106")
    for name, reports in runs.items():
        gaps = [one.gap for one in reports if one.gap]
        shares = (f"{np.mean([getattr(one, at) for one in gaps]):.1%}" for at in ("cpt50", "cpt80"))
        table.add_row(name, mean_and_stderr([one.apgr for one in gaps]), *shares)
    for name, apgr, cpt50, cpt80 in ROUTE_LLM:
        table.add_row(f"RouteLLM {name} (published)", f"{apgr:.3f}", f"{cpt50:.1%}", f"{cpt80:.1%}")
    return table


def run(
    name: str, rows: list[OutcomeRow], budgets: Sequence[float], options: argparse.Namespace
) -> dict[str, list[OutcomeReport]]:
    """Both variants of one file."""
    started = time.monotonic()
    found = {
        f"{name}, cold": [report_of(rows, [], budgets, options.seeds)],
        f"{name}, warm": reports_of_halves(rows, budgets, options.splits, options.seeds),
    }
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["three", "mmlu"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not os.environ.get("JOURNEYMAN_DATA"):
        sys.exit("JOURNEYMAN_DATA is not set; it names the folder with the outcomes files")
    folder = Path(os.environ["JOURNEYMAN_DATA"])
    console, found = Console(width=160), {}
    if options.only != "mmlu":
        rows = read_outcomes(folder / "outcomes_three_models_val.jsonl")
        three = run("three models", rows, tuple(PARETO_BANDIT), options)
        found |= three
        for title, reports in three.items() if not options.json else ():
            console.print(curve_table(title, reports, PARETO_BANDIT))
            console.print(difference_table(f"{title}: router less baseline", reports))
            names = ("p50", "p99", "cpu_p50", "cpu_p99")
            wall50, wall99, cpu50, cpu99 = (
                np.median([getattr(r.decision_ms, name) for r in reports]) for name in names
            )
            times = f"{wall50:.2f} / {wall99:.2f} (of the processor's {cpu50:.2f} / {cpu99:.2f})"
            console.print(f"ms a decision, p50 / p99: {times}; published {PARETO_BANDIT_MS}")
    if options.only != "three":
        rows = read_outcomes(folder / "outcomes_two_models_mmlu.jsonl", MMLU_COSTS_USD)
        weak, strong = MMLU_COSTS_USD.values()
        two = run("MMLU", rows, [weak + share * (strong - weak) for share in MMLU_SHARES], options)
        found |= two
        for title, reports in two.items() if not options.json else ():
            console.print(curve_table(title, reports, {}))
            console.print(difference_table(f"{title}: router less baseline", reports))
        if not options.json:
            console.print(gap_table(two))
    if options.json:
        import msgspec  # noqa: PLC0415

        print(json.dumps(msgspec.to_builtins(found)))


if __name__ == "__main__":
    main()
