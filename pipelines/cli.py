"""The commands of this layer: `teacher`, `traffic`, `workload`. Errors are raised for the main command to show.

It knows options and output; the work is done by the modules of the same names.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipelines.own_workload.generate import generate
from pipelines.teacher import Teacher, TeacherConfig
from pipelines.teacher_server import serve_teacher
from pipelines.traffic import TrafficPlan, run_traffic
from pipelines.traffic_report import TrafficReport, as_table
from pipelines.workload import ENV_NAME, SPLITS, Workload
from registry.errors import GateFailedError

_WORKLOAD_HELP = f"A workload folder, `env` (${ENV_NAME}), or `own[:SEED[:ROWS]]`. Default: env if set, else own."

_FILE_WIDTH: Final = 160


@click.command()
@click.option("--workload", "workloads", multiple=True, help=_WORKLOAD_HELP + " May be repeated.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0 takes a free port.")
@click.option("--model", default="teacher-large", show_default=True)
@click.option("--error-rate", default=0.0, show_default=True, help="Share of rows answered wrongly, 0..1.")
@click.option("--latency-p50-ms", default=0.0, show_default=True, help="Median time to the first token.")
@click.option("--latency-p95-ms", default=0.0, show_default=True, help="Its 95th percentile (lognormal).")
@click.option("--tokens-per-s", default=0.0, show_default=True, help="Pace after the first token; 0 is at once.")
@click.option("--price-input-usd-per-mtok", default=0.0, show_default=True, help="Told by /v1/models.")
@click.option("--price-output-usd-per-mtok", default=0.0, show_default=True, help="Told by /v1/models.")
@click.option("--seed", default=7, show_default=True, help="Decides which rows are answered wrongly.")
@click.option("--api-key", default=None, envvar="JOURNEYMAN_TEACHER_API_KEY", help="Demand this key.")
@click.option("--json", "as_json", is_flag=True, help="The ready line is JSON either way; kept for scripts.")
def teacher(
    workloads: tuple[str, ...], host: str, port: int, api_key: str | None, as_json: bool, **config: Any
) -> None:
    """Serve recorded gold answers over the OpenAI API, as a large model's stand-in."""
    del as_json
    settings = TeacherConfig(**config)
    loaded = [Workload.parse(text) for text in workloads or (_default_workload(),)]
    stand_in = Teacher(loaded, settings)
    ready = {
        "event": "ready",
        "model": settings.model,
        "pid": os.getpid(),
        "workloads": [one.name for one in loaded],
        "rows": stand_in.row_count,
        "conflicts": stand_in.conflicts,
    }
    uvloop.run(_serve(stand_in, ready, host=host, port=port, api_key=api_key))


async def _serve(stand_in: Teacher, ready: dict[str, Any], *, host: str, port: int, api_key: str | None) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with serve_teacher(stand_in, host=host, port=port, api_key=api_key) as url:
        click.echo(msgspec.json.encode({**ready, "url": url}))
        sys.stdout.flush()
        await stop.wait()


@click.command()
@click.option("--workload", "workload_text", default=None, help=_WORKLOAD_HELP)
@click.option("--base-url", default="http://127.0.0.1:8080/v1", show_default=True)
@click.option("--api-key", default="", envvar="JOURNEYMAN_API_KEY")
@click.option("--model", default="auto", show_default=True)
@click.option("--rate", default=10.0, show_default=True, help="Calls a second.")
@click.option("--calls", default=None, type=int, help="How many; default: each chosen row once.")
@click.option("--skip", default=0, show_default=True, help="Begin after so many; the order is the seed's.")
@click.option("--families", default=None, help="Comma-separated; default all.")
@click.option("--split", "splits", multiple=True, type=click.Choice(SPLITS), help="May be repeated; default any.")
@click.option("--arrivals", default="poisson", type=click.Choice(["poisson", "fixed"]), show_default=True)
@click.option("--stream", is_flag=True, help="Ask for streamed answers.")
@click.option("--feedback", is_flag=True, help="Post each grade to /feedback; short for --feedback-share 1.")
@click.option("--feedback-share", default=0.0, type=click.FloatRange(0, 1), show_default=True, help="Who does so.")
@click.option("--corrections", is_flag=True, help="Who reports a wrong answer also says the right one.")
@click.option("--max-in-flight", default=256, show_default=True)
@click.option("--when-full", default="delay", type=click.Choice(["delay", "drop"]), show_default=True)
@click.option("--timeout-s", default=120.0, show_default=True)
@click.option("--min-correct", default=None, type=click.FloatRange(0, 1), help="Exit 1 below this correct share.")
@click.option("--seed", default=7, show_default=True)
@click.option("--out", default=None, type=click.Path(dir_okay=False, path_type=Path), help="One JSON line a call.")
@click.option("--json", "as_json", is_flag=True)
def traffic(
    workload_text: str | None,
    families: str | None,
    splits: tuple[str, ...],
    feedback: bool,
    min_correct: float | None,
    **options: Any,
) -> None:
    """Send a workload through a gateway at a set rate, open loop, and score the answers."""
    as_json = options.pop("as_json")
    options["rate_per_s"] = options.pop("rate")
    options["feedback_share"] = 1.0 if feedback else options["feedback_share"]
    plan = TrafficPlan(
        workload=Workload.parse(workload_text or _default_workload()),
        families=tuple(families.split(",")) if families else None,
        splits=splits or None,
        **options,
    )
    report = _run_shown(plan, quiet=as_json)
    if as_json:
        click.echo(msgspec.json.encode({"total": report.total, "families": report.families, "sending": report.sending}))
    else:
        _wide_console().print(as_table(report))
    _check_gate(report, min_correct)


def _wide_console() -> Console:
    """The terminal as it is; a file or pipe gets lines long enough for the whole table."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def _run_shown(plan: TrafficPlan, *, quiet: bool) -> TrafficReport:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return uvloop.run(run_traffic(plan, _line_every_tenth(console)))
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("calls")
        return uvloop.run(run_traffic(plan, lambda done, total: progress.update(task, completed=done, total=total)))


def _line_every_tenth(console: Console) -> Callable[[int, int], None]:
    shown = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal shown
        tenth = done * 10 // total
        if tenth > shown:
            shown = tenth
            console.print(f"traffic: {done} of {total} calls ({tenth * 10} %)", highlight=False)

    return on_progress


def _check_gate(report: TrafficReport, min_correct: float | None) -> None:
    if min_correct is None:
        return
    share = report.total.correct_share
    if share is None:
        raise GateFailedError("--min-correct: no answer could be graded")
    # A call without an answer is not a right one.
    failed = sum(report.total.errors.values())
    share = report.total.correct / (report.total.graded + failed)
    if share < min_correct:
        raise GateFailedError(
            f"{share:.1%} correct, {failed} failed calls counted as wrong; at least {min_correct:.1%} asked"
        )


@click.group()
def workload() -> None:
    """Look at workloads, or generate the project's own."""


@workload.command("generate")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=7, show_default=True)
@click.option("--rows", default=600, show_default=True, help="Rows of each family; every sixth is dev's.")
@click.option("--json", "as_json", is_flag=True)
def workload_generate(out: Path, seed: int, rows: int, as_json: bool) -> None:
    """Write the project's own workload as a folder."""
    manifest = generate(seed, rows, out)
    if as_json:
        click.echo(msgspec.json.encode({"folder": str(out), "files": manifest}))
        return
    for entry in manifest:
        click.echo(f"{out / entry['file']}: {entry['rows']} rows, sha256 {entry['sha256'][:12]}")


@workload.command("ls")
@click.option("--workload", "workload_text", default=None, help=_WORKLOAD_HELP)
@click.option("--json", "as_json", is_flag=True)
def workload_ls(workload_text: str | None, as_json: bool) -> None:
    """Show the families of a workload; reads and checks every row."""
    loaded = Workload.parse(workload_text or _default_workload())
    loaded.check()
    counts = {family: Counter(row.split for row in loaded.rows([family])) for family in loaded.families}
    if as_json:
        families = {name: {"grader": loaded.app(name).grader, "rows": dict(one)} for name, one in counts.items()}
        click.echo(msgspec.json.encode({"workload": loaded.name, "families": families}))
        return
    table = Table("family", "grader", *SPLITS, title=loaded.name)
    for name, one in counts.items():
        table.add_row(name, loaded.app(name).grader, *(str(one[split]) for split in SPLITS))
    Console().print(table)


def _default_workload() -> str:
    return "env" if os.environ.get(ENV_NAME) else "own"
