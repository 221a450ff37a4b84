"""Opening the DuckDB file: one writer, many readers in between, and what is unreadable is moved aside.

Nobody keeps it open: the loader opens it for a batch, readers for a query. SQL can reach no file (external access is
off, the configuration locked). DuckDB is imported on the first opening only, so that a serving process stays light.
Knows nothing of segments or rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from registry.errors import NotFoundError, StorageError, StoreLockedError

from .migrations import migrate
from .state import FILE_MODE, StatePaths, make_folder

if TYPE_CHECKING:
    import duckdb

_LOCKED = ("could not set lock on file", "different configuration", "already attached", "being used by another process")
_WAL = "replaying wal"
_CORRUPT = ("corrupt", "checksum", "not a valid duckdb database file", "could not read enough bytes", "deserialize")
_NO_FAULT_OF_THE_FILE = ("no space left", "out of memory", "failed to allocate", "permission denied", "too many open")


class StoreSettings(Struct, frozen=True):
    """What DuckDB may use."""

    memory_limit_mb: int = 256
    threads: int = 1


def open_reader(state: StatePaths, wait_s: float = 5.0) -> duckdb.DuckDBPyConnection:
    """Open the store for reading, waiting while the loader has it. Close it soon: the loader waits for you, too.

    Raises NotFoundError when nothing was loaded yet, StoreLockedError after `wait_s`, StorageError when unreadable.
    """
    if not state.store.exists():
        raise NotFoundError(f"There is no store at {state.store} yet: no loader has run on this state directory.")
    try:
        return _connect_waiting(state.store, StoreSettings(), read_only=True, wait_s=wait_s)
    except Exception as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Cannot read {state.store}: {error}. The loader moves a damaged store aside.") from error


def open_writer(
    state: StatePaths, settings: StoreSettings | None = None, wait_s: float = 5.0
) -> duckdb.DuckDBPyConnection:
    """Open the store for writing at the newest schema; an unreadable WAL or file is quarantined first.

    Raises StoreLockedError when readers did not leave within `wait_s`, StorageError for a full disk and the like.
    """
    settings = settings or StoreSettings()
    for _ in range(3):  # as it is, without the WAL, a new file
        connection = None
        try:
            connection = _connect_waiting(state.store, settings, read_only=False, wait_s=wait_s)
            migrate(connection)
        except Exception as error:
            close_quietly(connection)
            if not quarantine_if_corrupt(state, error):
                raise as_storage_error(state, error) from error
        else:
            with contextlib.suppress(OSError):
                state.store.chmod(FILE_MODE)
            return connection
    raise StorageError(f"Cannot open {state.store}, not even a new one. See {state.quarantine}.")


def close_quietly(connection: duckdb.DuckDBPyConnection | None) -> None:
    """Close a connection that may be beyond closing: a checkpoint on closing can fail, and is not needed."""
    with contextlib.suppress(Exception):
        if connection is not None:
            connection.close()


def is_storage_fault(error: Exception) -> bool:
    """Say whether the error is the disk's or DuckDB's, and no mistake of ours."""
    return isinstance(error, StorageError | OSError) or type(error).__module__ in ("duckdb", "_duckdb")


def as_storage_error(state: StatePaths, error: Exception) -> StorageError:
    """Return DuckDB's error as one of ours, with the place in its message."""
    if isinstance(error, StorageError):
        return error
    return StorageError(f"Cannot write to {state.store}: {str(error).splitlines()[0]}")


def quarantine_if_corrupt(state: StatePaths, error: Exception) -> bool:
    """Move the WAL, or else the store with its WAL, aside if the error says it is unreadable. Says whether it did.

    Rows that only the WAL had are still in their segments, which go only after a checkpoint, so they are loaded again.
    """
    if not is_corruption(error):
        return False
    if _WAL in str(error).lower() and state.store_wal.exists():
        _move_aside(state, (state.store_wal,), error)
    else:
        _move_aside(state, (state.store, state.store_wal), error)
    return True


def is_corruption(error: Exception) -> bool:
    """Say whether DuckDB's error means that the file is damaged, and not the disk full or the memory short."""
    text = str(error).lower()
    if isinstance(error, StorageError) or any(phrase in text for phrase in _NO_FAULT_OF_THE_FILE):
        return False
    named = type(error).__name__ in ("SerializationException", "FatalException")
    return named or _WAL in text or any(phrase in text for phrase in _CORRUPT)


def quarantine(state: StatePaths, file: Path, label: str = "") -> Path:
    """Move a file into the quarantine under the time and its name; return where it is."""
    make_folder(state.quarantine)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = state.quarantine / f"{stamp}-{label}{file.name}"
    for number in range(1, 1000):
        if not target.exists():
            break
        target = state.quarantine / f"{stamp}-{number}-{label}{file.name}"
    file.rename(target)
    return target


def log_line(level: str, event: str, **fields: Any) -> None:
    """Write one JSON line to stderr."""
    line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "level": level, "event": event, **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)


def _move_aside(state: StatePaths, files: tuple[Path, ...], error: Exception) -> None:
    moved = [str(quarantine(state, file)) for file in files if file.exists()]
    if state.store in files and moved:
        Path(moved[0] + ".unread").touch(mode=FILE_MODE)  # what is still readable goes into the next store
    log_line("error", "store_quarantined", moved_to=moved, reason=str(error).splitlines()[0])


def _connect_waiting(
    path: Path, settings: StoreSettings, *, read_only: bool, wait_s: float
) -> duckdb.DuckDBPyConnection:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return connect(path, settings, read_only=read_only)
        except Exception as error:
            if not any(phrase in str(error).lower() for phrase in _LOCKED):
                raise
            if time.monotonic() >= deadline:
                raise StoreLockedError(f"{path} is in use by another process; waited {wait_s:g} s.") from error
        time.sleep(random.uniform(0.005, 0.02))  # noqa: S311  - so that waiters do not march in step


def connect(path: Path, settings: StoreSettings, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file with no way out of it. Raises DuckDB's own errors."""
    import duckdb  # noqa: PLC0415  - 50 MB that a serving process does without

    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{settings.memory_limit_mb}MB",
        "threads": str(settings.threads),
        "enable_external_access": "false",
        "lock_configuration": "true",
    }
    if read_only:
        return duckdb.connect(str(path), read_only=True, config=config)
    mask = os.umask(0o077)
    try:
        return duckdb.connect(str(path), config=config)
    finally:
        os.umask(mask)
