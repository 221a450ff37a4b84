"""The command `curate`: options in, a table of what was kept and dropped out. Errors are raised for the main command.

It knows options and output; the work is done by `curate`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from observations.export import parse_since
from observations.state import DEFAULT_ROOT, StatePaths
from observations.store import open_reader
from pipelines.curate import CurateOptions, CurateReport, CurateResult
from pipelines.curate import curate as run_curate
from pipelines.curate_filters import FilterOptions
from pipelines.curate_rows import RecordedScope
from pipelines.run import RUNS, Run
from registry.errors import EnvironmentFaultError

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_FILTERS = FilterOptions()
_DEFAULTS = CurateOptions()
_WAIT_S = 30.0
_POSITIVE = click.IntRange(min=1)


@click.command()
@click.option("--state", type=_FOLDER, default=DEFAULT_ROOT, show_default=True, help="Where the record is.")
@click.option("--run", "run_id", default=None, help="Go on with this run. Default: a new one.")
@click.option("--since", default=None, help="Only calls from then on: 24h, 7d or a time.")
@click.option("--tenant", default=None, help="Only this tenant's calls.")
@click.option("--cluster", default=None, help="Only calls recorded with this cluster; `unknown` is one.")
@click.option("--max-cost-usd", type=click.FloatRange(min=0), default=_FILTERS.max_cost_usd, show_default=True)
@click.option("--max-per-end-user", type=_POSITIVE, default=_DEFAULTS.max_per_end_user, show_default=True)
@click.option("--max-per-template", type=_POSITIVE, default=_DEFAULTS.max_per_template, show_default=True)
@click.option(
    "--duplicates-above",
    type=click.FloatRange(0, 1),
    default=_DEFAULTS.duplicates_above,
    show_default=True,
    help="Inputs with a higher Jaccard similarity are duplicates.",
)
@click.option("--specialists-too", is_flag=True, help="Also take verified answers that the frontier did not give.")
@click.option("--exclude", multiple=True, type=_FILE, help="A file of evaluation inputs that no call may repeat.")
@click.option("--exclude-datasets/--no-exclude-datasets", default=True, help="Nor the datasets' held-out splits.")
@click.option("--json", "as_json", is_flag=True)
def curate(state: Path, run_id: str | None, since: str | None, as_json: bool, **given: Any) -> None:
    """Keep the recorded calls worth learning from."""
    since_ms = parse_since(since, int(time.time() * 1000)) if since else None
    options = CurateOptions(
        scope=RecordedScope(since_ms, given.pop("tenant"), given.pop("cluster")),
        filters=FilterOptions(max_cost_usd=given.pop("max_cost_usd"), specialists_too=given.pop("specialists_too")),
        **given,
    )
    paths = StatePaths(state)
    open_reader(paths, _WAIT_S).close()  # a wrong --state is named before a run is begun in it
    with Run.open(state / RUNS, run_id) as run:
        try:
            result = run_curate(paths, run, options)
        except ImportError as error:
            raise EnvironmentFaultError(
                f"Finding duplicates needs datasketch ({error}): pip install 'journeyman[pipelines]'."
            ) from None
        show(run.run_id, result, as_json=as_json)


def show(run_id: str, result: CurateResult, *, as_json: bool) -> None:
    """Print what came of the step."""
    if as_json:
        facts = {"run": run_id, "rows": str(result.rows), "skipped": result.skipped}
        click.echo(msgspec.json.encode(facts | msgspec.to_builtins(result.report)))
        return
    console = Console() if Console().is_terminal else Console(width=160)
    console.print(_table(result.report))
    console.print(
        f"run {run_id}: {result.report.templates} templates, {result.report.end_users} end users, in {result.rows}"
        + (" (nothing had changed)" if result.skipped else ""),
        highlight=False,
        markup=False,
    )


def _table(report: CurateReport) -> Table:
    table = Table("", "calls", "share", "why", title=f"{report.read} recorded calls")
    table.add_row("kept", str(report.kept), _share(report.kept, report), "", style="bold")
    for source, count in report.answers.items():
        table.add_row(f"  {source}", str(count), _share(count, report), _VOUCHED[source])
    for name, dropped in report.dropped.items():
        table.add_row(name, str(dropped.calls), _share(dropped.calls, report), dropped.reason)
    return table


def _share(count: int, report: CurateReport) -> str:
    return f"{count / max(report.read, 1):.1%}"


_VOUCHED = {
    "verified": "the verifier believed the answer, and nobody said otherwise",
    "feedback": "feedback says that the answer was right",
    "correction": "feedback gave the right answer",
}
