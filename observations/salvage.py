"""A store with damaged blocks: found by whoever reads one, checked by the loader, and read out as far as it goes.

DuckDB reports a damaged block only to the query that touches it. So a reader that meets one leaves a mark, the loader
then reads everything, moves a bad store aside, and copies every stretch of rows that is still readable into a new one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from .rows import TABLES, TableSpec, columns_of, insert_statement
from .state import StatePaths
from .store import StoreSettings, close_quietly, connect, is_corruption, log_line, open_writer, quarantine_if_corrupt

if TYPE_CHECKING:
    import duckdb

_STRETCH_ROWS = 8192  # fifteen of them are one row group, and a block is seldom shared by two groups


def suspect_damage(state: StatePaths, error: Exception) -> None:
    """Leave the mark that makes the loader check the store, if the error speaks of damage."""
    if is_corruption(error):
        with contextlib.suppress(OSError):
            state.store_suspect.touch(mode=0o600)


def mend_store(state: StatePaths, settings: StoreSettings, wait_s: float) -> None:
    """Check a marked store, and salvage stores that were moved aside and not read out yet. Raises StorageError."""
    if state.store_suspect.exists():
        _check(state, settings, wait_s)
        state.store_suspect.unlink(missing_ok=True)
    for note in sorted(state.quarantine.glob("*.unread")):
        store = open_writer(state, settings, wait_s)
        try:
            _salvage(store, note.with_suffix(""), settings)
            store.execute("CHECKPOINT")
        finally:
            close_quietly(store)
        note.unlink()


def _check(state: StatePaths, settings: StoreSettings, wait_s: float) -> None:
    store = open_writer(state, settings, wait_s)
    try:
        for spec in TABLES:
            store.execute(f"SELECT bit_xor(hash({spec.name})) FROM {spec.name}").fetchone()  # noqa: S608
    except Exception as error:
        close_quietly(store)
        if not quarantine_if_corrupt(state, error):
            raise
    finally:
        close_quietly(store)


def _salvage(store: duckdb.DuckDBPyConnection, damaged: Path, settings: StoreSettings) -> None:
    """Copy what can be read. Doing it twice adds nothing: ids that are there already are left out."""
    kept: dict[str, int] = {}
    lost: dict[str, int] = {}
    try:
        old = connect(damaged, settings, read_only=True)
    except Exception as error:
        log_line("error", "store_not_salvaged", file=str(damaged), reason=str(error).splitlines()[0])
        return
    with contextlib.closing(old):
        for spec in TABLES:
            store.execute("BEGIN")
            kept[spec.name], lost[spec.name] = _copy_table(old, store, spec)
            store.execute("COMMIT")
    log_line("warning", "store_salvaged", file=str(damaged), rows_kept=kept, rows_unreadable=lost)


def _copy_table(old: duckdb.DuckDBPyConnection, new: duckdb.DuckDBPyConnection, spec: TableSpec) -> tuple[int, int]:
    """Return how many rows were copied and, by the stretch, how many could not be read."""
    kept = lost = 0
    try:
        there = {row[0] for row in old.execute(f"DESCRIBE {spec.name}").fetchall()}
        found = old.execute(f"SELECT max(rowid) FROM {spec.name}").fetchone()  # noqa: S608
    except Exception:
        return 0, 0
    # A store that was moved aside before a migration lacks the columns that came with it.
    columns = ", ".join(f'"{name}"' if name in there else f'NULL AS "{name}"' for name in columns_of(spec))
    end = found[0] + 1 if found and found[0] is not None else 0
    for start in range(0, end, _STRETCH_ROWS):
        stretch = f"SELECT {columns} FROM {spec.name} WHERE rowid >= {start} AND rowid < {start + _STRETCH_ROWS}"  # noqa: S608
        try:
            rows = old.execute(stretch).to_arrow_table()
        except Exception:
            lost += min(_STRETCH_ROWS, end - start)
            continue
        if rows.num_rows:
            times = rows["at_ms"].to_pylist()
            new.register("batch", rows)
            added = new.execute(insert_statement(spec, min(times), max(times))).fetchone()
            new.unregister("batch")
            kept += int(added[0]) if added else 0
    return kept, lost
