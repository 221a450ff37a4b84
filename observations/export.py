"""The record in files: a table or view as Parquet or JSON lines, in batches, all of it or nothing.

Columns of JSON text stay text in Parquet and are real JSON in JSON lines. The store is open for reading meanwhile, so
the loader waits and the spool holds what comes. Knows nothing of the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
from msgspec import Struct

from registry.errors import BadInputError, NotFoundError, StorageError

from .rows import JSON_COLUMNS
from .salvage import suspect_damage
from .state import StatePaths, open_private
from .store import is_storage_fault, open_reader

Format = Literal["parquet", "jsonl"]

_BATCH_ROWS = 4096
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGE = re.compile(r"(\d{1,9})([smhdw])\Z")


class Exportable(Struct, frozen=True):
    """A table or view, and the columns that filters apply to ('' where it has none)."""

    name: str
    time: str = "at_ms"
    tenant: str = "tenant"
    cluster: str = ""


TABLES: dict[str, Exportable] = {
    "curated": Exportable("slm_observation_curated", cluster="cluster"),
    "raw": Exportable("slm_observation_raw", cluster="cluster"),
    "signature": Exportable("slm_signature"),
    "feedback": Exportable("slm_feedback"),
    "metrics": Exportable("model_metrics_timeseries", time="minute_ms", tenant="", cluster="cluster"),
    "assignment": Exportable("cluster_model_assignment", time="last_at_ms", tenant="", cluster="cluster"),
    "registry": Exportable("model_registry", tenant=""),
    "shadow": Exportable("slm_shadow", cluster="cluster"),
    "promotions": Exportable("promotion_audit_log", tenant=""),
}
BY_NAME = TABLES | {table.name: table for table in TABLES.values()}


class ExportRequest(Struct, frozen=True):
    """What to export, and where to. `out` is a file, or a folder in which the file is named by table and time."""

    out: Path
    table: str = "curated"
    format: Format = "parquet"
    since_ms: int | None = None
    tenant: str | None = None
    cluster: str | None = None
    force: bool = False


class ExportReport(Struct, frozen=True):
    """What was written."""

    table: str
    format: Format
    file: str
    rows: int
    bytes: int
    sha256: str


def export(
    state: StatePaths, request: ExportRequest, progress: Callable[[int], None] = lambda rows: None
) -> ExportReport:
    """Write the file and return what is in it. `progress` is told the rows so far.

    Raises BadInputError for an unknown table, a filter it has no column for, or a file that is there already;
    NotFoundError when nothing was recorded yet; StorageError when the store or the folder cannot be used.
    """
    table = BY_NAME.get(request.table)
    if table is None:
        raise BadInputError(f"There is no table {request.table!r}. Known: {', '.join(BY_NAME)}.", param="table")
    query, parameters = _query(table, request)
    target = _target(table, request)
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        rows = _write(state, query, parameters, beside, (request.format, progress))
        digest, size = _digest(beside)
        _publish(beside, target, force=request.force)
    except Exception as error:
        suspect_damage(state, error)
        if isinstance(error, NotFoundError | BadInputError | StorageError) or not is_storage_fault(error):
            raise
        raise StorageError(f"Cannot export to {target}: {str(error).splitlines()[0]}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return ExportReport(table.name, request.format, str(target), rows, size, digest)


def parse_since(text: str, now_ms: int) -> int:
    """Return Unix milliseconds for an age (`90s`, `30m`, `24h`, `7d`, `2w`) or an ISO 8601 time (UTC if it says none).

    Raises BadInputError.
    """
    age = _AGE.match(text.strip().lower())
    if age:
        return now_ms - int(age[1]) * _UNITS_MS[age[2]]
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise BadInputError(
            f"{text!r} is neither an age such as 24h or 7d nor a time such as 2026-11-21T08:00:00Z.", param="since"
        ) from error


def _query(table: Exportable, request: ExportRequest) -> tuple[str, list[Any]]:
    """Values are bound; names come from `TABLES` alone."""
    conditions: list[str] = []
    parameters: list[Any] = []
    for name, column, sign, value in (
        ("since", table.time, ">=", request.since_ms),
        ("tenant", table.tenant, "=", request.tenant),
        ("cluster", table.cluster, "=", request.cluster),
    ):
        if value is None:
            continue
        if not column:
            raise BadInputError(f"{table.name} has no {name} to filter by.", param=name)
        conditions.append(f"{column} {sign} ?")
        parameters.append(value)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT * FROM {table.name}{where}", parameters  # noqa: S608


def _target(table: Exportable, request: ExportRequest) -> Path:
    out = request.out
    if out.is_dir() or out.suffix == "":
        out.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        out = out / f"{table.name}-{stamp}.{request.format}"
    if not out.parent.is_dir():
        raise BadInputError(f"There is no folder {out.parent}. Make it, or name another with --out.", param="out")
    if out.exists() and not request.force:
        raise BadInputError(f"{out} is there already. Name another file, or overwrite it with --force.", param="out")
    return out


def _write(
    state: StatePaths, query: str, parameters: list[Any], path: Path, how: tuple[Format, Callable[[int], None]]
) -> int:
    kind, progress = how
    write = _write_parquet if kind == "parquet" else _write_jsonl
    with (
        contextlib.closing(open_reader(state, wait_s=30.0)) as store,
        os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file,
    ):
        rows = write(store.execute(query, parameters).to_arrow_reader(_BATCH_ROWS), file, progress)
        file.flush()
        os.fsync(file.fileno())
    return rows


def _write_parquet(batches: Any, file: IO[bytes], progress: Callable[[int], None]) -> int:
    import pyarrow.parquet  # noqa: PLC0415  - paid for only when asked for

    rows = 0
    with pyarrow.parquet.ParquetWriter(file, batches.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
            progress(rows)
    return rows


def _write_jsonl(batches: Iterable[Any], file: IO[bytes], progress: Callable[[int], None]) -> int:
    encoder = msgspec.json.Encoder()
    rows = 0
    for batch in batches:
        nested = JSON_COLUMNS & set(batch.schema.names)
        for row in batch.to_pylist():
            for name in nested:
                if row[name] is not None:
                    row[name] = msgspec.Raw(row[name].encode())
            file.write(encoder.encode(row) + b"\n")
        rows += batch.num_rows
        progress(rows)
    return rows


def _publish(beside: Path, target: Path, *, force: bool) -> None:
    """Give the finished file its name; a file that came there meanwhile is not overwritten either."""
    if force:
        beside.replace(target)
        return
    try:
        os.link(beside, target)
    except FileExistsError as error:
        raise BadInputError(f"{target} is there already. Overwrite it with --force.", param="out") from error


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
