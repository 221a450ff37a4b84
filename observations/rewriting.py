"""The store written anew, so that what was erased is in no byte of it.

DuckDB gives the blocks of deleted rows to later rows, and until then they keep what they held. So after an erasure the
loader copies every table into a new file and puts that in the old one's place; a mark that is there before the erasure
is committed, and goes last, makes it do so again after a crash. Needs as much disk as the store has. Knows tables as
they are, not what is in them.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import StorageError

from .migrations import migrate
from .state import StatePaths
from .store import StoreSettings, as_storage_error, close_quietly, connect, log_line, open_writer

if TYPE_CHECKING:
    import duckdb

_BATCH_ROWS = 8_192


def mark_unclean(state: StatePaths) -> None:
    """Say that the file may hold what was erased. Raises StorageError: an erasure must not be half done unnoticed."""
    try:
        state.store_unclean.touch(mode=0o600)
    except OSError as error:
        raise StorageError(f"Cannot write {state.store_unclean}: {error.strerror}.") from error


def rewrite_if_unclean(state: StatePaths, settings: StoreSettings, wait_s: float) -> bool:
    """Write the store anew if it is marked; say whether it was. Only under the loader's lock.

    Raises StoreLockedError while a reader stays, StorageError when the disk is full or the store unreadable; the old
    store is in force then, and the mark stays.
    """
    if not state.store_unclean.exists():
        return False
    began_s = time.monotonic()
    beside = state.store.with_name(f"{state.store.name}.rewritten")
    _remove(beside)
    old = open_writer(state, settings, wait_s)
    try:
        before = state.store.stat().st_size
        _copy(old, beside, settings)
        old.close()  # checkpoints; a log that is left would be replayed into the new file
        if state.store_wal.exists():
            raise StorageError(f"{state.store_wal} is still there. The erased content stays until the next load.")
        beside.replace(state.store)
        _sync(state.store.parent)
    except Exception as error:
        raise as_storage_error(state, error) from error
    finally:
        close_quietly(old)
        _remove(beside)
    state.store_unclean.unlink(missing_ok=True)
    after = state.store.stat().st_size
    log_line("info", "store_rewritten", bytes_before=before, bytes=after, seconds=round(time.monotonic() - began_s, 2))
    return True


def _copy(old: duckdb.DuckDBPyConnection, beside: Path, settings: StoreSettings) -> None:
    new = connect(beside, settings, read_only=False)
    try:
        migrate(new)
        new.execute("DELETE FROM schema_version")
        tables = old.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY table_name").fetchall()
        for (name,) in tables:
            _copy_table(old, new, f'"{name}"')
        new.execute("CHECKPOINT")
    finally:
        close_quietly(new)
    _sync(beside)


def _copy_table(old: duckdb.DuckDBPyConnection, new: duckdb.DuckDBPyConnection, name: str) -> None:
    """Copy in the order of the rows, and count them. `name` is the store's own."""
    new.register("copied", old.execute(f"SELECT * FROM {name}").to_arrow_reader(_BATCH_ROWS))  # noqa: S608
    new.execute(f"INSERT INTO {name} BY NAME SELECT * FROM copied")  # noqa: S608
    new.unregister("copied")
    counts = [one.execute(f"SELECT count(*) FROM {name}").fetchone() for one in (old, new)]  # noqa: S608
    if counts[0] != counts[1]:
        raise StorageError(f"The table {name} could not be copied whole: {counts[1]} of {counts[0]} rows.")


def _remove(beside: Path) -> None:
    with contextlib.suppress(OSError):
        beside.unlink(missing_ok=True)
        beside.with_name(f"{beside.name}.wal").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
