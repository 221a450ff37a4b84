"""`journeyman export`: the record as Parquet or JSON lines. `observations.export` does the work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from registry.errors import BadInputError

_PROGRESS_EVERY_ROWS = 100_000


@click.command("export", short_help="Write the record to Parquet or JSON lines.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A file, or a folder to put it in.")
@click.option("--format", "file_format", type=click.Choice(["parquet", "jsonl"]), default="parquet", show_default=True)
@click.option("--table", default="curated", show_default=True, help="curated, raw, signature, feedback, metrics, ...")
@click.option("--since", help="An age (24h, 7d) or an ISO 8601 time.")
@click.option("--tenant", help="Only this tenant's rows.")
@click.option("--cluster", help="Only this cluster's rows.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
@click.option("--state", type=click.Path(path_type=Path), help="The state directory.  [default: .journeyman]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(since: str | None, state: Path | None, as_json: bool, **options: Any) -> None:
    """Write a table of the record to a file, after loading what the spool still has.

    Exit codes: 0 written, 2 bad input, 3 the store or the disk is the trouble.
    """
    report = _export(since, state, options)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        click.echo(f"{report.rows} rows of {report.table} -> {report.file}")
        click.echo(f"{report.bytes} bytes, sha256 {report.sha256}")


def _export(since: str | None, root: Path | None, options: dict[str, Any]) -> Any:
    # Here, since DuckDB and Arrow take a third of a second that other commands need not spend.
    from observations.export import ExportRequest, parse_since  # noqa: PLC0415
    from observations.export import export as write_export  # noqa: PLC0415
    from observations.loading import LoaderSettings, load_once  # noqa: PLC0415
    from observations.state import DEFAULT_ROOT, StatePaths  # noqa: PLC0415

    paths = StatePaths(root or DEFAULT_ROOT)
    if not paths.root.is_dir():
        raise BadInputError(f"There is no state directory {paths.root}. Name one with --state.", param="state")
    request = ExportRequest(
        out=options["out"],
        table=options["table"],
        format=options["file_format"],
        since_ms=parse_since(since, int(time.time() * 1000)) if since else None,
        tenant=options["tenant"],
        cluster=options["cluster"],
        force=options["force"],
    )
    load_once(paths, LoaderSettings(wait_s=30.0))
    return write_export(paths, request, _Progress())


class _Progress:
    """A line on stderr for every hundred thousand rows."""

    def __init__(self) -> None:
        self._said = 0

    def __call__(self, rows: int) -> None:
        if rows - self._said >= _PROGRESS_EVERY_ROWS:
            self._said = rows
            click.echo(f"{rows} rows ...", err=True)
