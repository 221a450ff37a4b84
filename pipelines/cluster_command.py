"""The commands `cluster` and `propose`: options in, a table or JSON out. Errors are raised for the main command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.errors import BadInputError

if TYPE_CHECKING:
    from pipelines.cluster_cards import ClusterFile
    from pipelines.propose import ProposalFile

_FILE = click.Path(dir_okay=False, path_type=Path)
_DESCRIPTION_CHARS = 100
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FITTED = {
    "kept": "Assigned by the model that was kept; {new} calls were new to it, too few or too unlike for a task.",
    "extended": "Assigned by the model that was kept; on {new} calls that were new to it, it learnt more.",
    "anew": "A model was fitted anew: {why}.",
}


@click.command("cluster", short_help="Find the tasks in curated calls.")
@click.option("--state", type=_FOLDER, help="The state directory.  [default: .journeyman]")
@click.option("--run", "run_id", help="The run to go on with.  [default: the last one that was curated]")
@click.option(
    "--sample", default=20_000, show_default=True, type=click.IntRange(100, 100_000), help="Looked at closely."
)
@click.option("--min-calls", default=20, show_default=True, type=click.IntRange(2), help="Least calls of a task.")
@click.option(
    "--drift-alert", default=0.3, show_default=True, type=click.FloatRange(0, 1), help="Drift above it alerts."
)
@click.option("--refit", is_flag=True, help="Fit the model of tasks anew; ids stay where tasks do.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def cluster(state: Path | None, run_id: str | None, refit: bool, as_json: bool, **given: Any) -> None:
    """Find the tasks in a run's curated calls, and make them known to the gateway.

    Tasks keep their ids from run to run: calls of known ones are assigned by the model that is kept in the state
    directory, and only what is new to it is clustered. Writes assignments.jsonl and clusters.json.
    """
    # Here, since numpy and DuckDB take time that other commands need not spend.
    from observations.state import DEFAULT_ROOT, StatePaths  # noqa: PLC0415
    from pipelines.cluster import ClusterOptions  # noqa: PLC0415
    from pipelines.cluster_step import CLUSTERS, read_cluster_file, run_cluster  # noqa: PLC0415
    from pipelines.run import RUNS, Run, newest_run  # noqa: PLC0415

    paths = StatePaths(state or DEFAULT_ROOT)
    root = paths.root / RUNS
    options = ClusterOptions(sample=given["sample"], min_cluster_calls=given["min_calls"])
    with Run.open(root, run_id or newest_run(root, "curate")) as run:
        step = run_cluster(run, paths, options, given["drift_alert"], refit=refit)
        content = step.folder / CLUSTERS
    if as_json:
        click.echo(content.read_bytes())
    else:
        _show_clusters(read_cluster_file(content))


def _cut(text: str) -> str:
    return text if len(text) <= _DESCRIPTION_CHARS else text[: _DESCRIPTION_CHARS - 1] + "…"


def _show_clusters(file: ClusterFile) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415

    table = Table(Column("task", no_wrap=True), "calls", "a day", "cost USD", "verified", "drift", "what it is")
    for card in file.clusters:
        drift = "new" if card.drift is None else f"{card.drift:.2f}{' !' if card.drift_alert else ''}"
        table.add_row(
            card.id,
            str(card.volume),
            f"{card.calls_per_day:.1f}",
            f"{card.cost_usd:.4f}",
            f"{card.share_verified:.0%}",
            drift,
            _cut(card.description),
        )
    console = Console()
    console.print(table)
    if file.drift_alert:
        moved = ", ".join(card.id for card in file.clusters if card.drift_alert)
        console.print(f"Drift alert: {moved}. Look at their examples before a specialist is trusted.", highlight=False)
    console.print(_FITTED[file.fitted].format(new=file.left_over, why=file.why), highlight=False)
    console.print(f"{file.calls} calls, {file.noise} of no task. Next: journeyman flywheel propose", highlight=False)


@click.command("propose", short_help="Say which tasks deserve a specialist.")
@click.option("--state", type=_FOLDER, help="The state directory.  [default: .journeyman]")
@click.option("--run", "run_id", help="The run to go on with.  [default: the last one that was clustered]")
@click.option("--registry", default="registry.yaml", show_default=True, type=_FILE, help="Base models and prices.")
@click.option("--policy", type=_FILE, help="Thresholds.  [default: the shipped proposals.yaml]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def propose(state: Path | None, run_id: str | None, registry: Path, policy: Path | None, as_json: bool) -> None:
    """Say which of a run's tasks deserve a specialist, on which base model, and why not for the rest.

    Writes proposals.json.
    """
    import policies  # noqa: PLC0415
    from observations.state import DEFAULT_ROOT, StatePaths  # noqa: PLC0415
    from pipelines.propose import PROPOSALS, load_proposal_policy, read_proposals, run_propose  # noqa: PLC0415
    from pipelines.run import RUNS, Run, newest_run  # noqa: PLC0415
    from registry.loading import load_catalog  # noqa: PLC0415
    from registry.managed import MadeSpecialists  # noqa: PLC0415

    if policy is not None and not policy.is_file():
        raise BadInputError(f"There is no policy file {policy}.", param="policy")
    thresholds = load_proposal_policy(policy or Path(str(policies.__file__)).parent / "proposals.yaml")
    paths = StatePaths(state or DEFAULT_ROOT)
    catalog = load_catalog(registry, made=MadeSpecialists(paths.root).look()).catalog
    root = paths.root / RUNS
    with Run.open(root, run_id or newest_run(root, "cluster")) as run:
        path = run_propose(run, catalog, thresholds).folder / PROPOSALS
    if as_json:
        click.echo(path.read_bytes())
    else:
        _show_proposals(read_proposals(path))


def _show_proposals(file: ProposalFile) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415

    task_id, base = Column("task", no_wrap=True), Column("base", no_wrap=True)
    table = Table(task_id, "proposed", base, "a day", "USD a month", "saved", "why")
    for task in file.tasks:
        verdict, saving = task.verdict, task.verdict.saving
        table.add_row(
            verdict.task,
            "yes" if verdict.proposed else "no",
            verdict.base or "-",
            f"{task.calls_per_day:.1f}",
            f"{saving.now_usd:.4f}" if saving else "-",
            f"{task.saved_usd_per_month:.4f} ({task.regret:.0%})" if saving else "-",
            "\n".join(verdict.reasons),
        )
    console = Console()
    console.print(table)
    for model, reason in sorted({(no.model, no.reason) for task in file.tasks for no in task.verdict.refused_bases}):
        console.print(f"base {model}: no, {reason}", highlight=False)
    console.print(
        f"{len(file.proposed)} of {len(file.tasks)} tasks deserve a specialist, against {file.frontier}.",
        highlight=False,
    )
