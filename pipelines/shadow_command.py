"""The command `shadow` of the loop: replays recorded calls to specialists in shadow. Knows options and output."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from observations.state import DEFAULT_ROOT, StatePaths
from pipelines.shadow_replay import REPLAYED_IN, ReplayOptions, ReplayReport, replay
from registry.loading import load_catalog
from registry.managed import MadeSpecialists
from registry.registrar import Registrar

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("shadow")
@click.argument("specialist", required=False)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=DEFAULT_ROOT, show_default=True)
@click.option("--registry", default=Path("registry.yaml"), show_default=True, type=_FILE, help="Models and prices.")
@click.option(
    "--max-calls",
    type=click.IntRange(1),
    default=ReplayOptions().max_calls,
    show_default=True,
    help="Most calls that each is asked now.",
)
@click.option("--threads", type=click.IntRange(1), help="Of the engine in this process.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
def shadow(
    specialist: str | None, state: Path, registry: Path, max_calls: int, threads: int | None, as_json: bool
) -> None:
    """Ask a specialist in shadow the recorded calls that its dataset holds back, and record what it says.

    Without SPECIALIST all that are in shadow or canary. No call is asked twice in one stage. `flywheel promote` counts
    a shadow's answers as it counts mirrored calls; a canary it judges by live calls alone.
    """
    paths = StatePaths(state)
    catalog = load_catalog(registry, made=MadeSpecialists(paths.root).look()).catalog
    stages = Registrar(paths.root).history().stages
    wanted = [specialist] if specialist else [name for name, now in stages.items() if now.stage in REPLAYED_IN]
    options = ReplayOptions(max_calls=max_calls, threads=threads)
    reports = [replay(paths, catalog, name, options, _say) for name in wanted]
    if as_json:
        click.echo(msgspec.json.encode([report.as_json() for report in reports]))
        return
    console = Console()
    if not reports:
        console.print("No specialist is in shadow or canary.")
    for report in reports:
        console.print(told(report), highlight=False)


def told(report: ReplayReport) -> str:
    """Return a report as one line."""
    if not report.asked:
        return f"{report.specialist} in {report.stage}: nothing left to replay"
    judged = (
        f"of {report.judged} judged by people {report.right} right (served: {report.reference_right}), "
        f"{report.believed_wrong} believed and wrong"
        if report.judged
        else f"{report.agrees} agree with what was served"
    )
    return (
        f"{report.specialist} in {report.stage}: {report.asked} calls replayed in {report.seconds:.0f} s, "
        f"{report.believed} believed; {judged}; {report.waiting} waiting"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
