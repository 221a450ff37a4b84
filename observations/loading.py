"""From the spool into the store: every event exactly once, and a segment goes only after a checkpoint.

A transaction holds the rows of some segments and their names and digests; ids that are there already are left out.
So a crash anywhere is mended by loading again. What an event erases is gone from the file when the load is done. Knows
nothing of processes and signals (`observations.loader`), and the serving process never imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from registry.errors import StoreLockedError

from .erasure import apply_erasures
from .records import Event
from .rewriting import mark_unclean, rewrite_if_unclean
from .rows import SPEC_OF, TABLES, TableSpec, insert_statement, to_arrow
from .salvage import mend_store
from .segments import Scan, scan_segment
from .sources import SegmentFile, adopt_abandoned, remove_empty, sealed_segments
from .state import StatePaths, open_private
from .store import (
    StoreSettings,
    as_storage_error,
    close_quietly,
    is_storage_fault,
    log_line,
    open_writer,
    quarantine,
    quarantine_if_corrupt,
)

if TYPE_CHECKING:
    import duckdb

_BETWEEN_TURNS_S = 0.03
_FORGET_SEGMENTS_AFTER_MS = 7 * 24 * 3600 * 1000


class LoaderSettings(Struct, frozen=True):
    """How much at once, and for how long the store is kept from its readers."""

    batch_bytes: int = 16 << 20
    """Segments of about this size are one transaction."""
    turn_s: float = 1.0
    """After this the store is closed for a moment, so that readers get in."""
    wait_s: float = 5.0
    """For readers to leave, and for another loader to finish."""
    store: StoreSettings = StoreSettings()


class LoadReport(Struct, frozen=True):
    """What one load did. `rows` counts new rows by table."""

    segments: int = 0
    events: int = 0
    rows: dict[str, int] = {}
    duplicates: int = 0
    damaged: int = 0
    """Records that could not be read or stored; their segments are in the quarantine."""
    torn_bytes: int = 0
    """Unfinished last writes; never acknowledged."""
    quarantined: tuple[str, ...] = ()

    def plus(self, other: LoadReport) -> LoadReport:
        """Return the sum of both."""
        names = self.rows.keys() | other.rows.keys()
        return LoadReport(
            segments=self.segments + other.segments,
            events=self.events + other.events,
            rows={name: self.rows.get(name, 0) + other.rows.get(name, 0) for name in sorted(names)},
            duplicates=self.duplicates + other.duplicates,
            damaged=self.damaged + other.damaged,
            torn_bytes=self.torn_bytes + other.torn_bytes,
            quarantined=self.quarantined + other.quarantined,
        )


class _Read(Struct, frozen=True):
    """One segment in memory."""

    file: SegmentFile
    digest: str
    scan: Scan


def load_once(state: StatePaths, settings: LoaderSettings | None = None) -> LoadReport:
    """Load every segment that is sealed now, those of dead writers included, and return what was done.

    Raises StoreLockedError when another loader or a reader stays for longer than `wait_s`, and StorageError when the
    disk is full or the store unusable; nothing is lost then, the next call goes on.
    """
    settings = settings or LoaderSettings()
    state.create()
    report = LoadReport()
    with _only_loader(state, settings.wait_s):
        mend_store(state, settings.store, settings.wait_s)
        adopt_abandoned(state.spool)
        waiting = sealed_segments(state.spool)
        newest = waiting[-1].path.name if waiting else ""
        while waiting or not state.store.exists():
            report = report.plus(_take_turn(state, waiting, settings))
            waiting = [file for file in sealed_segments(state.spool) if file.path.name <= newest]
            if waiting:
                time.sleep(_BETWEEN_TURNS_S)
        mend_store(state, settings.store, settings.wait_s)
        remove_empty(state.spool)
        rewrite_if_unclean(state, settings.store, settings.wait_s)
    return report


def prepare_store(state: StatePaths, settings: LoaderSettings | None = None) -> None:
    """Make the store, or bring it to the newest schema and forget segments that cannot come back.

    Raises StorageError.
    """
    settings = settings or LoaderSettings()
    state.create()
    with (
        _only_loader(state, settings.wait_s),
        contextlib.closing(open_writer(state, settings.store, settings.wait_s)) as store,
    ):
        oldest_ms = int(time.time() * 1000) - _FORGET_SEGMENTS_AFTER_MS
        store.execute("DELETE FROM loaded_segments WHERE loaded_at_ms < ?", [oldest_ms])
        store.execute("CHECKPOINT")


def _take_turn(state: StatePaths, waiting: list[SegmentFile], settings: LoaderSettings) -> LoadReport:
    """Hold the store for one turn and load batches. A store found damaged is quarantined, and the turn is over."""
    report = LoadReport()
    ends_at = time.monotonic() + settings.turn_s
    store = open_writer(state, settings.store, settings.wait_s)
    try:
        for batch in _batches(waiting, settings.batch_bytes):
            report = report.plus(_load_batch(state, store, batch))
            if time.monotonic() > ends_at:
                break
    except Exception as error:
        close_quietly(store)
        if not is_storage_fault(error):
            raise
        if not quarantine_if_corrupt(state, error):
            raise as_storage_error(state, error) from error
    finally:
        close_quietly(store)
    return report


def _load_batch(state: StatePaths, store: duckdb.DuckDBPyConnection, batch: list[SegmentFile]) -> LoadReport:
    """Rows and segment names in one transaction, a checkpoint, and only then the segments go."""
    reads = [_read(file) for file in batch]
    fresh = [read for read in reads if not _was_loaded(store, read)]
    events = [event for read in fresh for event in read.scan.events]
    store.execute("BEGIN")
    erased = apply_erasures(store, events)
    if erased.emptied_rows:
        mark_unclean(state)
    events = erased.events
    rows: dict[str, int] = {}
    unstorable: set[str] = set()
    for spec in TABLES:
        count, refused = _insert(store, spec, [event for event in events if SPEC_OF[type(event)] is spec])
        rows[spec.name] = count
        unstorable |= refused
    now_ms = int(time.time() * 1000)
    for read in fresh:
        row = [read.file.path.name, read.digest, len(read.scan.events), now_ms]
        store.execute("INSERT INTO loaded_segments VALUES (?, ?, ?, ?)", row)
    store.execute("COMMIT")
    store.execute("CHECKPOINT")
    moved = [_dismiss(state, read, unstorable) for read in reads]
    return LoadReport(
        segments=len(reads),
        events=len(events),
        rows=rows,
        duplicates=len(events) - sum(rows.values()) - len(unstorable),
        damaged=sum(read.scan.damaged for read in fresh) + len(unstorable),
        torn_bytes=sum(read.scan.torn_bytes for read in fresh),
        quarantined=tuple(name for name in moved if name),
    )


def _read(file: SegmentFile) -> _Read:
    data = file.path.read_bytes()
    return _Read(file, hashlib.sha256(data).hexdigest(), scan_segment(data))


def _was_loaded(store: duckdb.DuckDBPyConnection, read: _Read) -> bool:
    """Say whether this very segment is in the store: a crash came between the checkpoint and the removal."""
    found = store.execute(
        "SELECT count(*) FROM loaded_segments WHERE name = ? AND digest = ?", [read.file.path.name, read.digest]
    ).fetchone()
    return found is not None and found[0] > 0


def _insert(store: duckdb.DuckDBPyConnection, spec: TableSpec, events: list[Event]) -> tuple[int, set[str]]:
    """Insert what is not there yet. Returns the number of new rows and the ids that no column could hold."""
    unique = {event.id: event for event in reversed(events)}
    if not unique:
        return 0, set()
    ordered = list(reversed(unique.values()))
    refused: set[str] = set()
    try:
        batch = to_arrow(spec, ordered)
    except (ArithmeticError, ValueError, TypeError):
        refused = {event.id for event in ordered if not _is_storable(spec, event)}
        batch = to_arrow(spec, [event for event in ordered if event.id not in refused])
    store.register("batch", batch)
    times = [event.at_ms for event in ordered if event.id not in refused] or [0]
    found = store.execute(insert_statement(spec, min(times), max(times))).fetchone()
    store.unregister("batch")
    return (int(found[0]) if found else 0), refused


def _is_storable(spec: TableSpec, event: Event) -> bool:
    try:
        to_arrow(spec, [event])
    except (ArithmeticError, ValueError, TypeError):
        return False
    return True


def _dismiss(state: StatePaths, read: _Read, unstorable: set[str]) -> str:
    """Delete a loaded segment; one with damage is moved aside instead, and its new place returned."""
    damage = [stretch for stretch in read.scan.stretches if stretch.reason != "torn"]
    if not damage and not any(event.id in unstorable for event in read.scan.events):
        read.file.path.unlink(missing_ok=True)
        return ""
    target = quarantine(state, read.file.path, label=f"{read.file.writer}-")
    log_line(
        "error",
        "segment_quarantined",
        moved_to=str(target),
        records_read=len(read.scan.events),
        records_lost=read.scan.damaged + sum(event.id in unstorable for event in read.scan.events),
        stretches=[f"{stretch.start}-{stretch.end} {stretch.reason}" for stretch in damage[:16]],
    )
    return str(target)


def _batches(files: list[SegmentFile], most_bytes: int) -> Iterator[list[SegmentFile]]:
    batch: list[SegmentFile] = []
    total = 0
    for file in files:
        if batch and total + file.size > most_bytes:
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += file.size
    if batch:
        yield batch


@contextlib.contextmanager
def _only_loader(state: StatePaths, wait_s: float) -> Iterator[None]:
    """Hold the lock of the one loader. Raises StoreLockedError after `wait_s`."""
    fd = open_private(state.loader_lock, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise StoreLockedError(f"Another loader works on {state.root}; waited {wait_s:g} s.") from error
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)
