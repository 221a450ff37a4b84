"""`journeyman replay`: judge the router on outcomes that are known, before it sees a live call.

It knows options, progress and output; the work is done by the `replay_*` modules.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.outcomes import MOST_USD, OutcomeRow, Outcomes, as_arrays, check_same_arms, read_outcomes
from pipelines.replay_outcomes import OnProgress, RouterRecipe, Task, default_budgets, run_passes, time_decisions
from pipelines.replay_outcomes_report import OutcomeReport, RunFacts, summarise
from pipelines.replay_outcomes_table import curve_table, dollars, sentences, shares_table
from policies.learning import LearningPolicy
from policies.terms import PlannerPolicy
from registry.errors import BadInputError, EnvironmentFaultError
from registry.strict_yaml import load_strict

_FILE_WIDTH: Final = 160
_OUTCOME_OPTIONS: Final = ("budgets", "warmup", "costs", "seeds", "half_life", "jobs")
_RECORDED_OPTIONS: Final = ("state", "since", "cluster", "limit", "max_weight")


@click.command("replay", short_help="Judge the router on known outcomes, or a policy on the record.")
@click.option(
    "--outcomes",
    type=click.Path(path_type=Path),
    help="JSON lines; each row a prompt with every model's reward and cost, or who was right (then with --costs).",
)
@click.option("--budgets", help="Mean US dollars a prompt: 0.00023,0.00066.  [default: seven over the models' costs]")
@click.option(
    "--warmup", type=click.Path(path_type=Path), help="Earlier outcomes, all models known, to learn from beforehand."
)
@click.option("--costs", help="Flat US dollars a prompt, for files without costs: model=0.01,other=0.0003.")
@click.option(
    "--seeds", default=5, show_default=True, type=click.IntRange(1, 1_000), help="Passes a budget; each its own order."
)
@click.option("--half-life", type=float, help="Calls after which an outcome counts half.  [default: never]")
@click.option("--jobs", type=click.IntRange(1, 256), help="Passes at once.  [default: one for each core]")
@click.option("--policy", type=click.Path(path_type=Path), help="Recorded calls under this planner.yaml instead.")
@click.option("--state", type=click.Path(path_type=Path), help="With --policy: the state.  [default: .journeyman]")
@click.option("--since", help="With --policy: only calls since an age (24h, 7d) or an ISO 8601 time.")
@click.option("--cluster", help="With --policy: only this cluster's calls.")
@click.option("--limit", type=click.IntRange(1), help="With --policy: at most so many calls, an even sample.")
@click.option("--max-weight", type=click.FloatRange(1), help="With --policy: cut importance weights to this.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def replay(outcomes: Path | None, policy: Path | None, as_json: bool, **options: Any) -> None:
    """Replay known outcomes, or recorded calls, and print reward against cost.

    --outcomes: every pass shows the router the prompts one by one. It picks a model and is told the reward and cost of
    that model alone, as it would be live. Beside its curve stand what it must beat at the same budget: the best single
    model and the best static mix of two, both chosen in hindsight; its own picks shuffled over the prompts at equal
    cost; a coin; and the oracle, which knows every outcome. For two models, RouteLLM's APGR and CPT as well.

    --policy: every recorded decision is made again under a changed planner.yaml, and what would have come of it is
    estimated from what did come, with intervals.

    Exit codes: 0 done, 2 bad input, 3 the store cannot be read or scikit-learn is missing.
    """
    _check_mode(outcomes, policy)
    if policy is not None:
        _show_recorded(policy, options, as_json=as_json)
        return
    assert outcomes is not None
    report = _replay_outcomes(outcomes, options)
    for warning in report.warnings:
        click.secho(f"journeyman: {warning}", err=True, fg="yellow")
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _show(report)


def _check_mode(outcomes: Path | None, policy: Path | None) -> None:
    """One of the two; and an option of the other one is a misunderstanding that must be said."""
    if (outcomes is None) == (policy is None):
        raise BadInputError(
            "Say what to replay: --outcomes FILE.jsonl (known outcomes) or --policy planner.yaml (recorded calls).",
            param="outcomes",
        )
    mode, others = ("--policy", _OUTCOME_OPTIONS) if policy is not None else ("--outcomes", _RECORDED_OPTIONS)
    context = click.get_current_context()
    for name in others:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise BadInputError(f"--{name.replace('_', '-')} does not go with {mode}.", param=name)


def _show_recorded(policy: Path, options: dict[str, Any], *, as_json: bool) -> None:
    # Here, since DuckDB takes a third of a second that a replay of outcomes need not spend.
    from observations.export import parse_since  # noqa: PLC0415
    from observations.state import DEFAULT_ROOT, StatePaths  # noqa: PLC0415
    from pipelines.replay_recorded import RecordedOptions, replay_recorded  # noqa: PLC0415

    chosen = RecordedOptions(
        since_ms=parse_since(options["since"], int(time.time() * 1000)) if options["since"] else None,
        cluster=options["cluster"],
        limit=options["limit"],
        max_weight=options["max_weight"],
    )
    with _progress("calls") as on_progress:
        report = replay_recorded(StatePaths(options["state"] or DEFAULT_ROOT), _policy(policy), chosen, on_progress)
    if as_json:
        click.echo(msgspec.json.encode(report.as_json()))
    else:
        report.as_table(_wide_console())


def _policy(path: Path) -> PlannerPolicy:
    file = path / "planner.yaml" if path.is_dir() else path
    try:
        return load_strict(file.read_text(encoding="utf-8"), PlannerPolicy, str(file))
    except UnicodeDecodeError:
        raise BadInputError(f"{file}: not UTF-8 text", param="policy") from None
    except OSError as error:
        raise BadInputError(f"{file}: {error.strerror or error}", param="policy") from None


def _replay_outcomes(path: Path, options: dict[str, Any]) -> OutcomeReport:
    costs = parse_costs(options["costs"])
    rows = read_outcomes(path, costs)
    warmup = _warmup(path, rows, options["warmup"], costs)
    matrix = as_arrays(rows)
    budgets = parse_budgets(options["budgets"]) if options["budgets"] else default_budgets(matrix)
    recipe = learner_recipe(warmup, options["half_life"])
    tasks = [Task(budget, seed) for budget in budgets for seed in range(options["seeds"])]
    with _progress("passes") as on_progress:
        passes = run_passes(recipe, matrix, tasks, on_progress, options["jobs"])
    timed = time_decisions(recipe, matrix, tasks[len(tasks) // 2])
    facts = RunFacts(timed, len(warmup), options["seeds"], tuple(_warnings(matrix, budgets)))
    return summarise(matrix, passes, facts)


def learner_recipe(warmup: list[OutcomeRow], half_life_calls: float | None = None) -> RouterRecipe:
    """Builds the product's own router, fresh for every pass.

    Raises:
        BadInputError: a half-life that is not above 0.
        EnvironmentFaultError: scikit-learn, which fits the embedding, is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise EnvironmentFaultError("A replay of outcomes needs scikit-learn: pip install 'journeyman[pipelines]'")
    from pipelines.replay_learner import OutcomeRouter  # noqa: PLC0415

    half_life = math.inf if half_life_calls is None else half_life_calls
    if not half_life > 0:
        raise BadInputError(f"--half-life is {half_life_calls}; it is a number of calls above 0", param="half_life")
    policy = LearningPolicy(half_life_h=half_life)
    return partial(OutcomeRouter, policy=policy, warmup=tuple(warmup))


def parse_budgets(text: str) -> tuple[float, ...]:
    """Distinct budgets in rising order.

    Raises:
        BadInputError: one is not a number above 0.
    """
    return tuple(sorted({_amount(part, "--budgets", above_zero=True) for part in text.split(",")}))


def parse_costs(text: str | None) -> dict[str, float] | None:
    """Costs by model from `model=usd,...`.

    Raises:
        BadInputError: not of that form, a model twice, or an amount below 0.
    """
    if text is None:
        return None
    costs: dict[str, float] = {}
    for part in text.split(","):
        model, equals, amount = part.rpartition("=")
        if not equals or not model.strip():
            raise BadInputError(f"--costs: {part!r} is not MODEL=USD; write model=0.01,other=0.0003", param="costs")
        if model.strip() in costs:
            raise BadInputError(f"--costs: {model.strip()!r} is named twice", param="costs")
        costs[model.strip()] = _amount(amount, "--costs")
    return costs


def _amount(text: str, option: str, *, above_zero: bool = False) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= MOST_USD or (above_zero and amount == 0):
        least = "above 0" if above_zero else "of 0 or more"
        raise BadInputError(
            f"{option}: {text.strip()!r} is not an amount of US dollars {least} and at most {MOST_USD:,.0f}",
            param=option[2:],
        )
    return amount


def _warmup(
    path: Path, rows: list[OutcomeRow], warmup: Path | None, costs: dict[str, float] | None
) -> list[OutcomeRow]:
    if warmup is None:
        return []
    earlier = read_outcomes(warmup, costs)
    check_same_arms(path, rows, warmup, earlier)
    return earlier


def _warnings(matrix: Outcomes, budgets: tuple[float, ...]) -> Iterator[str]:
    cost = matrix.costs_usd.mean(axis=0)
    cheapest = int(cost.argmin())
    for budget in budgets:
        if budget < cost[cheapest] * (1 - 1e-9):
            yield (
                f"no model is as cheap as a budget of {dollars(budget)} a prompt: the cheapest, "
                f"{matrix.arms[cheapest]}, costs {dollars(cost[cheapest])} on average, so that budget cannot be met"
            )


@contextmanager
def _progress(what: str) -> Iterator[OnProgress]:
    """A bar on a terminal's stderr; a line for every tenth elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_every_tenth(console, what)
        return
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line_every_tenth(console: Console, what: str) -> OnProgress:
    shown = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal shown
        tenth = done * 10 // total
        if tenth > shown:
            shown = tenth
            console.print(f"replay: {done} of {total} {what} ({tenth * 10} %)", highlight=False)

    return on_progress


def _show(report: OutcomeReport) -> None:
    console = _wide_console()
    console.print(curve_table(report))
    if any(not one.meets_budget for one in report.baselines.static_mix):
        console.print("* the budget is below the cheapest choice; that choice is shown")
    console.print(shares_table(report))
    for sentence in sentences(report):
        console.print(sentence, highlight=False, markup=False)


def _wide_console() -> Console:
    """The terminal as it is; a file or pipe gets lines long enough for the whole table."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
