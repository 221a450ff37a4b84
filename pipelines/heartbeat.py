"""Signs of life of long work: a bar or a line per 10 %, a file that is rewritten every second, and why nothing moves.

Knows a folder and a console; nothing of what the work is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from observations.state import open_private

HEARTBEAT: Final = "heartbeat.json"
STALL_S: Final = 60.0
"""After this long without progress the cause is named, and again after twice, four times ... as long."""

_BEAT_S: Final = 1.0
_DRAW_S: Final = 0.1
_LOW_DISK_BYTES: Final = 64 << 20
_LOW_MEMORY_BYTES: Final = 200 << 20
_IDLE_CPU_SHARE: Final = 0.05


class Beat(Struct, frozen=True):
    """What the heartbeat file says."""

    pid: int
    at_ms: int
    """When the process last gave a sign of life."""
    moved_at_ms: int
    """When its work last got on."""
    doing: str = ""
    done: int = 0
    total: int = 0
    stalled: str = ""
    """Why nothing moves; empty while something does."""


class Heartbeat:
    """Keeps the file and says what happens. One for each run; safe to use from several threads."""

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None, stall_s: float = STALL_S) -> None:
        self._folder = folder
        self._console = Console(stderr=True)
        self._say = say
        self._stall_s = stall_s
        self._doing, self._done, self._total, self._stalled = "", 0, 0, ""
        self._moved_s = time.monotonic()
        self._moved_cpu_s = time.process_time()
        self._moved_at_ms = _now_ms()
        self._next_complaint_s = stall_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> Heartbeat:
        """Begin to beat; returns itself."""
        self._write()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Beat no more. The file stays, with the last word in it."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write()

    def say(self, line: str) -> None:
        """Tell one line, and count it as progress."""
        self._moved(line)
        self._tell(line)

    def doing(self, what: str) -> None:
        """Name what comes next without a line: a stall is then named by it."""
        self._moved(what)
        self._write()

    @contextlib.contextmanager
    def track(self, label: str, total: int) -> Iterator[Tracker]:
        """Follow `total` items: a bar on a terminal, else a line per 10 %."""
        self._moved(label)
        if self._say is not None or not self._console.is_terminal:
            yield Tracker(self, label, total, None)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            yield Tracker(self, label, total, bar)

    def advanced(self, label: str, done: int, total: int) -> None:
        """Note that the work got on."""
        self._done, self._total = done, total
        self._moved(label)

    def _moved(self, what: str) -> None:
        self._doing, self._stalled = what, ""
        self._moved_s, self._moved_cpu_s = time.monotonic(), time.process_time()
        self._moved_at_ms = _now_ms()
        self._next_complaint_s = self._stall_s

    def _tell(self, line: str) -> None:
        if self._say is not None:
            self._say(line)
        else:
            self._console.print(line, highlight=False, markup=False)

    def _beat(self) -> None:
        while not self._over.wait(min(_BEAT_S, self._stall_s)):
            still_s = time.monotonic() - self._moved_s
            if still_s >= self._next_complaint_s:
                self._next_complaint_s = 2 * still_s
                self._stalled = stall_cause(self._folder, (time.process_time() - self._moved_cpu_s) / still_s)
                self._tell(f"no progress for {still_s:.0f} s at: {self._doing or 'the start'}. {self._stalled}")
            self._write()

    def _write(self) -> None:
        beat = Beat(os.getpid(), _now_ms(), self._moved_at_ms, self._doing, self._done, self._total, self._stalled)
        beside = self._folder / f".{HEARTBEAT}.{os.getpid()}"
        with contextlib.suppress(OSError):  # a full disk is named by stall_cause and fails the step itself
            with os.fdopen(open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.write(msgspec.json.encode(beat))
            beside.replace(self._folder / HEARTBEAT)


class Tracker:
    """Counts items of one stretch of work."""

    def __init__(self, heartbeat: Heartbeat, label: str, total: int, bar: Progress | None) -> None:
        self._heartbeat, self._label, self._total, self._bar = heartbeat, label, total, bar
        self._task = bar.add_task(label, total=total) if bar is not None else None
        self._done = self._tenths = 0
        self._next_s = 0.0

    def advance(self, count: int = 1) -> None:
        """Count more items as done."""
        self._done += count
        now_s = time.monotonic()
        if now_s < self._next_s and self._done < self._total:  # drawing and noting cost more than most items do
            return
        self._next_s = now_s + _DRAW_S
        self._heartbeat.advanced(self._label, self._done, self._total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)
            return
        tenths = self._done * 10 // max(self._total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            self._heartbeat.say(f"{self._label}: {self._done} of {self._total} ({tenths * 10} %)")


def stall_cause(folder: Path, cpu_share: float) -> str:
    """Return in words why work in `folder` stands still. `cpu_share`: of one core, since it last got on."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < _LOW_DISK_BYTES:
            return f"The disk of {folder} is full: {free >> 20} MiB are free. Make room."
    available = _available_memory_bytes()
    if available is not None and available < _LOW_MEMORY_BYTES:
        return f"The machine is short of memory: {available >> 20} MiB are left. End something else."
    if cpu_share < _IDLE_CPU_SHARE:
        return "The process waits and does not compute: for a lock, the disk or another process."
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 1.5 * cores:
        return f"The machine is busy: a load of {load:.1f} on {cores} cores, {cpu_share:.0%} of a core for this."
    return f"The process computes ({cpu_share:.0%} of a core): this item is large."


def read_beat(folder: Path) -> Beat | None:
    """Return the last beat of a run's folder; None when there is none."""
    try:
        return msgspec.json.decode((folder / HEARTBEAT).read_bytes(), type=Beat)
    except (OSError, msgspec.DecodeError):
        return None


def _available_memory_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _now_ms() -> int:
    return int(time.time() * 1000)
