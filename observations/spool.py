"""The spool: where a record is safe before the answer's last byte has gone out.

`append` is one write() to an append-only segment, so a killed process loses nothing that was acknowledged; a background
thread fsyncs in groups and seals old segments for the loader. Knows nothing of DuckDB, tenants or redaction.

Over `max_bytes` on disk the newest is shed: `append` writes nothing, returns False and counts it in `dropped`. What was
acknowledged before is never given up for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path

from msgspec import Struct

from registry.errors import StorageError
from registry.identifiers import new_ulid

from .records import Event
from .segments import OPEN_SUFFIX, SEALED_SUFFIX, encode_footer, encode_record
from .state import make_folder, open_private

LOCK_NAME = "writer.lock"
_MEASURE_EVERY_S = 1.0


class SpoolSettings(Struct, frozen=True):
    """Sizes in bytes, ages in seconds."""

    segment_bytes: int = 8 << 20
    """A segment that has reached this is sealed."""
    segment_age_s: float = 2.0
    """So is one this old, so that the store is never far behind."""
    fsync_interval_ms: int = 200
    """What a power cut can cost at most; a killed process costs nothing."""
    max_bytes: int = 1 << 30
    """All segments of all writers that are not loaded yet."""


class SpoolStats(Struct, frozen=True):
    """Counts since this writer was opened, and the spool's size on disk."""

    appended: int
    dropped: int
    """Shed because the spool was full."""
    failed: int
    """Appends that raised, most of all for a full disk."""
    sync_failures: int
    """fsync or seal attempts that the system refused."""
    used_bytes: int


class _Segment:
    """One open file. Only the spool's lock guards it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        self.opened_at = time.monotonic()
        self.records = 0
        self.size = 0
        self.synced_size = 0
        self.sound = True
        """False once a failed write could not be taken back: nothing more may be appended."""

    def write(self, data: bytes) -> None:
        """Write all of it or nothing. Raises OSError."""
        done = 0
        try:
            while done < len(data):
                done += os.write(self.fd, data[done:] if done else data)
        except OSError:
            if done:
                self._take_back()
            raise
        self.size += len(data)
        self.records += 1

    def _take_back(self) -> None:
        try:
            os.ftruncate(self.fd, self.size)
        except OSError:
            self.sound = False


class Spool:
    """One process's writer. `append` may be called from any thread."""

    def __init__(self, folder: Path, lock_fd: int, settings: SpoolSettings) -> None:
        self.folder = folder
        self.settings = settings
        self._root = folder.parent
        self._lock_fd = lock_fd
        self._lock = threading.Lock()
        self._tending = threading.Lock()
        self._current: _Segment | None = None
        self._retired: list[_Segment] = []
        self._appended = self._appended_bytes = self._dropped = self._failed = self._sync_failures = 0
        self._used_bytes = spool_bytes(self._root)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="spool", daemon=True)

    @classmethod
    def open(cls, folder: Path, settings: SpoolSettings | None = None) -> Spool:
        """Open a writer of its own in the spool at `folder`. Raises StorageError, naming the place."""
        make_folder(folder)
        try:
            own, lock_fd = _claim_folder(folder)
        except OSError as error:
            raise StorageError(f"Cannot write to the spool {folder}: {_reason(error)}.") from error
        spool = cls(own, lock_fd, settings or SpoolSettings())
        spool._thread.start()
        return spool

    def append(self, event: Event) -> bool:
        """Store the event; when this returns True a kill of the process cannot lose it. About 10 microseconds.

        Returns False when the spool is over `max_bytes` and the event was shed. Raises StorageError when the disk
        is full or the event cannot be written; then nothing of it is in the spool.
        """
        record = encode_record(event)
        with self._lock:
            if self._used_bytes + len(record) > self.settings.max_bytes:
                self._dropped += 1
                return False
            try:
                self._writable().write(record)
            except OSError as error:
                self._failed += 1
                raise StorageError(f"Cannot write to the spool {self.folder}: {_reason(error)}.") from error
            self._used_bytes += len(record)
            self._appended_bytes += len(record)
            self._appended += 1
        return True

    def sync(self) -> None:
        """Bring everything appended so far to the disk itself."""
        with self._tending:
            self._sync_current()
            self._finish_retired()

    def seal(self) -> None:
        """End the current segment now, so that the loader may have it."""
        with self._lock:
            self._retire_current()
        self.sync()

    def close(self) -> None:
        """Seal what is open and stop. Appending afterwards raises StorageError."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        self.seal()
        os.close(self._lock_fd)

    def stats(self) -> SpoolStats:
        """Return the counts; cheap."""
        return SpoolStats(
            appended=self._appended,
            dropped=self._dropped,
            failed=self._failed,
            sync_failures=self._sync_failures,
            used_bytes=self._used_bytes,
        )

    def _writable(self) -> _Segment:
        """Return the segment to append to. The lock is held. Raises OSError, or StorageError when closed."""
        if self._closed.is_set():
            raise StorageError(f"The spool {self.folder} is closed.")
        current = self._current
        if current is not None and (not current.sound or current.size >= self.settings.segment_bytes):
            self._retire_current()
            current = None
        if current is None:
            current = self._current = _Segment(self.folder / _segment_name())
        return current

    def _retire_current(self) -> None:
        if self._current is not None:
            self._retired.append(self._current)
            self._current = None

    def _tend(self) -> None:
        """The background thread: fsync in groups, seal by age, measure the disk."""
        measured_at = 0.0
        while not self._closed.wait(self.settings.fsync_interval_ms / 1000):
            with self._lock:
                if self._current and time.monotonic() - self._current.opened_at > self.settings.segment_age_s:
                    self._retire_current()
            self.sync()
            if time.monotonic() - measured_at > _MEASURE_EVERY_S:
                measured_at = time.monotonic()
                self._measure()

    def _sync_current(self) -> None:
        current = self._current
        if current is None or current.size == current.synced_size:
            return
        size = current.size
        try:
            os.fdatasync(current.fd)
            current.synced_size = size
        except OSError:
            self._give_up(current)

    def _finish_retired(self) -> None:
        with self._lock:
            retired, self._retired = self._retired, []
        for segment in retired:
            try:
                _seal(segment)
            except OSError:
                self._sync_failures += 1  # it stays `.open`; the loader seals it when this process is gone
            finally:
                os.close(segment.fd)

    def _give_up(self, segment: _Segment) -> None:
        """After a failed fsync the kernel may have dropped pages: append no more to that file."""
        with self._lock:
            self._sync_failures += 1
            if self._current is segment:
                self._retire_current()

    def _measure(self) -> None:
        """Take the spool's size from the disk: the loader deletes and other writers write."""
        before = self._appended_bytes
        used = spool_bytes(self._root)
        with self._lock:
            self._used_bytes = used + self._appended_bytes - before
            if self._current is not None and not self._current.path.exists():
                self._sync_failures += 1  # somebody removed the file under us: what follows must go elsewhere
                self._retire_current()


def spool_bytes(root: Path) -> int:
    """Return the size of all segments in a spool, sealed or open."""
    total = 0
    for folder in _scandir(root):
        for entry in _scandir(folder):
            if entry.suffix in (OPEN_SUFFIX, SEALED_SUFFIX):
                with contextlib.suppress(OSError):
                    total += entry.stat().st_size
    return total


def _scandir(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _claim_folder(root: Path) -> tuple[Path, int]:
    """Make a locked folder for this writer. It gets its name only when locked, so it never looks abandoned."""
    name = f"{os.getpid()}-{new_ulid()}"
    hidden = make_folder(root / f".{name}")
    lock_fd = open_private(hidden / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    hidden.rename(root / name)
    return root / name, lock_fd


def _segment_name() -> str:
    """Names sort by time, so that segments are loaded in the order they were written."""
    return f"{time.time_ns():020d}-{new_ulid()[-6:]}{OPEN_SUFFIX}"


def _seal(segment: _Segment) -> None:
    """Write the footer, fsync and rename. A full disk may refuse the footer; the records are whole without it."""
    records = segment.records
    if segment.sound:
        with contextlib.suppress(OSError):
            segment.write(encode_footer(records))
    os.fsync(segment.fd)
    segment.path.rename(segment.path.with_suffix(SEALED_SUFFIX))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
