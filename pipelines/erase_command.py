"""`journeyman erase`: the right to erasure for recorded calls. Knows options and output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import msgspec
from rich.console import Console

from observations.state import DEFAULT_ROOT, StatePaths
from registry.errors import BadInputError

_SHOWN = 20


@click.command("erase")
@click.argument("call_ids", nargs=-1)
@click.option("--end-user", default="", help="All calls of this `user`, as callers named it or as it was recorded.")
@click.option("--tenant", default="", help="Only calls of this tenant; another's are refused.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help=f"[default: {DEFAULT_ROOT}]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON; needs --yes.")
def erase(call_ids: tuple[str, ...], end_user: str, tenant: str, state: Path | None, yes: bool, as_json: bool) -> None:
    """Erase what was said in calls: messages, answers, arguments, comments, corrections, shadow answers.

    That there was a call, when, and what it cost stays. It works beside a running gateway and cannot be undone. What
    was made of the calls (datasets, specialists, files of runs) is listed; files that were exported, and reports that
    were written elsewhere, are yours to look after.
    """
    # Here, since DuckDB takes a while that a wrong option need not wait for.
    from pipelines import erasing  # noqa: PLC0415

    if not call_ids and not end_user:
        raise BadInputError("Name calls by their ids, or an end user with --end-user.", param="call_id")
    if as_json and not yes:
        raise BadInputError("--json does not ask: say --yes as well.", param="yes")
    paths = StatePaths(state or DEFAULT_ROOT)
    if not paths.root.is_dir():
        raise BadInputError(f"There is no state directory {paths.root}. Name one with --state.", param="state")
    if not (paths.spool.is_dir() or paths.store.exists()):
        raise BadInputError(f"{paths.root} holds no record. Name a gateway's folder with --state.", param="state")
    calls = erasing.find(paths, erasing.Asked(call_ids=call_ids, end_user=end_user, tenant=tenant))
    if not yes and calls:
        click.confirm(f"Erase the content of {len(calls)} calls? It cannot be undone", abort=True)
    report = erasing.erase(paths, calls, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(msgspec.json.encode(report.as_json()))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{len(report.erased)} calls erased, {len(report.before)} had been before", end="")
    console.print(f", {len(report.unknown)} are not on record" if report.unknown else "")
    _list(console, "Taken out of the reports", dict.fromkeys(report.reports, ()))
    _list(console, "Emptied within seconds, when the gateway lets go of them", dict.fromkeys(report.waiting, ()))
    left = report.left
    _list(console, "Datasets that hold them: build anew without them, and delete these", left.datasets)
    trained = {one: (uri,) for one, uri in left.specialists.items()}
    _list(console, "Trained on those: `journeyman registry demote`, and train anew", trained)
    _list(console, "Files of runs that hold them: delete the runs", left.files)
    _list(console, "In the quarantine; a store is named because nobody can tell", left.quarantine)
    _list(console, "Could not be looked through", dict.fromkeys(left.unchecked, ()))


def _list(console: Console, title: str, found: Mapping[str, tuple[str, ...]]) -> None:
    if not found:
        return
    console.print(f"\n[bold]{title}[/]")
    for name, what in found.items():
        more = f" and {len(what) - _SHOWN} more" if len(what) > _SHOWN else ""
        console.print(f"  {name}" + (f": {', '.join(what[:_SHOWN])}{more}" if what else ""), markup=False)
