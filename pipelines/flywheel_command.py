"""The command `flywheel`: learns off line from the record; each step is a subcommand, and `run` does all of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from observations.state import DEFAULT_ROOT, StatePaths
from pipelines.bench_command import bench
from pipelines.classifier_command import classifier
from pipelines.cluster_command import cluster, propose
from pipelines.curate_command import curate
from pipelines.flywheel import Turn, TurnOptions, turn
from pipelines.promote_command import promote, read_policy
from pipelines.shadow_command import shadow, told
from pipelines.train_command import dataset, evaluate, train
from pipelines.training_config import PRESETS
from registry.errors import BadInputError, EnvironmentFaultError, JourneymanError
from registry.loading import load_catalog
from registry.managed import MadeSpecialists

_FILE = click.Path(dir_okay=False, path_type=Path)
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@click.group()
def flywheel() -> None:
    """Learn from the record, off line: find tasks, train specialists, prove them, move traffic over."""
    # OpenMP reads it when torch is imported. Compute threads that wait for each other spin briefly, then sleep and
    # leave the cores to a gateway on the same machine; spinning on, a training step took up to 15 times as long there.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@flywheel.command("run")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=DEFAULT_ROOT, show_default=True)
@click.option("--registry", default=Path("registry.yaml"), show_default=True, type=_FILE, help="Models and prices.")
@click.option("--run", "run_id", help="Go on with this run.  [default: a new one]")
@click.option("--proposals", type=_FILE, help="Thresholds for proposing.  [default: the shipped proposals.yaml]")
@click.option("--promotion", type=_FILE, help="Gates for promoting.  [default: the shipped promotion.yaml]")
@click.option("--exclude", multiple=True, type=_FILE, help="A file of evaluation inputs that no call may repeat.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="balanced", show_default=True)
@click.option("--max-examples", type=click.IntRange(100), help="Most examples that one training looks at.")
@click.option("--max-tasks", type=click.IntRange(1), default=8, show_default=True, help="Most specialists a turn.")
@click.option("--min-calls", type=click.IntRange(2), default=20, show_default=True, help="Least calls of a task.")
@click.option("--threads", type=click.IntRange(1), help="Of training and evaluation.")
@click.option("--replay/--no-replay", default=True, help="Ask shadows the recorded calls that were held back.")
@click.option("--every", help="Again and again, so long apart: 30m, 6h, 1d.")
@click.option("--json", "as_json", is_flag=True, help="Print each turn as one line of JSON.")
def run(state: Path, registry: Path, every: str | None, as_json: bool, **given: Any) -> None:
    """Do all of it once: curate, cluster, propose, train, evaluate, register, shadow; promote what is proven.

    A running gateway on the same state takes new specialists into shadow within seconds and mirrors live calls to
    them. Go on with a cut run by its --run; what was finished is skipped.
    """
    pause_s = _seconds(every) if every else None
    options = TurnOptions(
        run_id=given["run_id"],
        proposals=given["proposals"],
        exclude=given["exclude"],
        promotion=read_policy(given["promotion"]),
        preset=given["preset"],
        max_examples=given["max_examples"],
        max_tasks=given["max_tasks"],
        min_cluster_calls=given["min_calls"],
        threads=given["threads"],
        replay=given["replay"],
    )
    paths = StatePaths(state)
    while True:
        try:
            _turn_shown(paths, registry, options, as_json=as_json)
        except JourneymanError as error:
            if pause_s is None:
                raise
            click.echo(f"This turn ended early, the next comes in {every}: {error.message}", err=True)
        if pause_s is None:
            return
        time.sleep(pause_s)
        options = msgspec.structs.replace(options, run_id=None)


def _turn_shown(paths: StatePaths, registry: Path, options: TurnOptions, *, as_json: bool) -> None:
    catalog = load_catalog(registry, made=MadeSpecialists(paths.root).look()).catalog
    try:
        made = turn(paths, catalog, options)
    except ImportError as error:
        raise EnvironmentFaultError(
            f"The loop needs packages that are not here ({error}): pip install 'journeyman[engine,pipelines,training]'."
        ) from error
    if as_json:
        click.echo(msgspec.json.encode(made.as_json()))
    else:
        _show(made)


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_S or not number.isdigit() or int(number) == 0:
        raise BadInputError(f"--every {text!r}: write 30m, 6h or 1d.", param="every")
    return float(int(number) * _UNITS_S[unit])


def _show(made: Turn) -> None:
    console = Console()
    console.print(
        f"run {made.run}: {made.curated} calls worth learning from, {made.tasks} tasks, {made.proposed} proposed",
        highlight=False,
    )
    table = Table("task", "specialist", "right", "believed", "trained", "", box=None, header_style="dim")
    for one in made.made:
        right = "-" if one.exact is None else f"{one.exact:.0%}"
        believed = "-" if one.coverage is None else f"{one.coverage:.0%}"
        table.add_row(one.task, one.specialist or "-", right, believed, f"{one.seconds:.0f} s", one.why_not)
    if made.made:
        console.print(table)
    for report in made.replays:
        console.print(told(report), highlight=False)
    for look in made.looks:
        moved = f"; moved to {look.moved_to}" if look.moved_to else ""
        console.print(f"{look.specialist}: {look.decision.verdict}, {look.decision.reasons[0]}{moved}", highlight=False)


for step in (curate, cluster, propose, dataset, train, evaluate, shadow, promote, classifier, bench):
    flywheel.add_command(step)
