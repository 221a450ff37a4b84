"""When a model degrades or a price falls: how long until the router uses the right model, and what that cost.

    [JOURNEYMAN_DATA=...] python -m benchmarks.drift [--rows 4000] [--seeds 5] [--half-lives 1000] [--json]

Synthetic streams whose truth is known, and (with JOURNEYMAN_DATA) the three models' public outcomes, spliced after half
of the rows. Side by side on the same streams: the router as it is, with outcomes that fade besides, and one that cannot
see changes (`slow only`), whose beliefs are those of the regression alone.

adapted: calls from the change until, over the last 100 calls, 80 % of the way to the right model's share in the best
policy of the second phase was done; in brackets the share of seeds that ever got there; the mean is over those.
regret: reward lost to the best policy of that phase in hindsight (knowing the truth on synthetic streams; the best mix
that is blind to the prompt on spliced ones, so it can be negative), summed over the phase. That policy keeps the budget
within each phase; the router keeps it over both, so what it saved before the change it may spend after it.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from pipelines.outcomes import Outcomes, as_arrays, read_outcomes
from pipelines.replay_command import learner_recipe
from pipelines.replay_outcomes import Task, replay_once
from pipelines.replay_streams import (
    Adaptation,
    Stream,
    adaptation,
    degraded,
    repriced,
    swapped,
    synthetic_cheaper,
    synthetic_degraded,
)
from policies import bandit_drift

SMALL, MIDDLE, LARGE = "meta-llama/llama-3.1-8b-instruct", "mistralai/mistral-large-2512", "google/gemini-2.5-pro"

AS_IS, SLOW_ONLY = "as it is", "slow only"

StreamOfSeed = Callable[[int], Stream]


def synthetic(rows: int) -> dict[str, tuple[float, StreamOfSeed]]:
    """Budget in US dollars a prompt, and the stream of a seed."""
    return {
        "synthetic: middle loses 0.5": (3e-4, lambda seed: synthetic_degraded(rows, seed)),
        "synthetic: large at a tenth": (3e-4, lambda seed: synthetic_cheaper(rows, seed)),
    }


def spliced(outcomes: Outcomes) -> dict[str, tuple[float, StreamOfSeed]]:
    """The public outcomes, twice over in two orders, so that each phase has all rows."""

    def doubled(seed: int) -> Outcomes:
        rng = np.random.default_rng([seed, 5])
        count = len(outcomes.prompts)
        return outcomes.take(np.concatenate([rng.permutation(count), rng.permutation(count)]))

    return {
        "middle's rewards x0.3": (1.9e-3, lambda seed: degraded(doubled(seed), MIDDLE, SMALL)),
        "middle at a tenth": (2.3e-4, lambda seed: repriced(doubled(seed), MIDDLE)),
        "large at a tenth": (1.9e-3, lambda seed: repriced(doubled(seed), LARGE)),
        "small and middle swapped": (6.6e-4, lambda seed: swapped(doubled(seed), SMALL, MIDDLE)),
    }


def measure(stream: Stream, budget_usd: float, variant: str, seed: int) -> Adaptation:
    """What one pass made of its stream; `variant` is AS_IS, SLOW_ONLY or a half-life in calls."""
    half_life = None if variant in (AS_IS, SLOW_ONLY) else float(variant)
    with patch.object(bandit_drift, "P_CHANGED", (0.0, 0.0) if variant == SLOW_ONLY else bandit_drift.P_CHANGED):
        return _measure(stream, budget_usd, half_life, seed)


def _measure(stream: Stream, budget_usd: float, half_life: float | None, seed: int) -> Adaptation:
    task = Task(budget_usd, seed, shuffle=False)
    return adaptation(stream, replay_once(learner_recipe([], half_life), stream.outcomes, task))


def table_of(results: dict[str, dict[str, list[Adaptation]]]) -> Table:
    """Mean over seeds, ± standard error for regrets."""
    table = Table(title="Adapting to a change half-way")
    for name in (
        "stream",
        "variant",
        "share before",
        "wanted",
        "at end",
        "adapted",
        "regret before",
        "after",
        "$ before",
        "after",
    ):
        table.add_column(name, justify="left" if name == "stream" else "right")
    for stream, variants in results.items():
        for variant, found in variants.items():
            table.add_row(stream, variant, *_cells(found))
        table.add_section()
    return table


def _cells(found: Sequence[Adaptation]) -> list[str]:
    reached = [one.calls_to_adapt for one in found if one.calls_to_adapt is not None]
    shares = (("share_before", found), ("share_wanted", found), ("share_at_end", found))
    return [
        *(f"{np.mean([getattr(one, name) for one in group]):.2f}" for name, group in shares),
        f"{np.mean(reached):.0f} ({len(reached)}/{len(found)})" if reached else f"never (0/{len(found)})",
        _spread([one.regret_before for one in found]),
        _spread([one.regret_after for one in found]),
        f"{np.mean([one.cost_before_usd for one in found]):.2g}",
        f"{np.mean([one.cost_after_usd for one in found]):.2g}",
    ]


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.0f}"
    return f"{np.mean(values):.0f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.0f}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--half-lives", default="1000")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    streams = synthetic(options.rows)
    folder = os.environ.get("JOURNEYMAN_DATA")
    if folder:
        streams |= spliced(as_arrays(read_outcomes(Path(folder) / "outcomes_three_models_val.jsonl")))
    all_variants = [AS_IS, SLOW_ONLY, *(part for part in options.half_lives.split(",") if part)]
    results: dict[str, dict[str, list[Adaptation]]] = {}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, (budget, stream_of) in streams.items():
            made = [stream_of(seed) for seed in range(options.seeds)]
            variants = results.setdefault(f"{name}, ${budget:g}", {})
            for variant in all_variants:
                futures = [pool.submit(measure, one, budget, variant, seed) for seed, one in enumerate(made)]
                title = variant if variant in (AS_IS, SLOW_ONLY) else f"half-life {variant} calls"
                variants[title] = [future.result() for future in futures]
                print(f"{name}: {title} done", file=sys.stderr)
    if options.json:
        print(json.dumps(msgspec.to_builtins(results)))
    else:
        Console(width=160).print(table_of(results))


if __name__ == "__main__":
    main()
