"""The loader as a process: `python -m observations.loader --state DIR --parent-pid PID`.

It loads every half second, ends when its parent is gone (after a last load, for the segments the dead left) and on
SIGTERM or SIGINT (after a last load with --drain). Its log is JSON lines on stderr, its state `loader.json`. Knows
processes and time; the loading itself is in `observations.loading`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import threading
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from registry.errors import StorageError, StoreLockedError

from .loading import LoaderSettings, LoadReport, load_once, prepare_store
from .state import StatePaths
from .store import StoreSettings, log_line

_LONGEST_PAUSE_S = 30.0


class LoaderStatus(Struct, frozen=True):
    """What `loader.json` says, for `/readyz`."""

    pid: int
    at_ms: int
    total: LoadReport
    """Since this process started."""
    last_error: str = ""


class Parent:
    """Tells whether a process is still there. A zombie counts as gone."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._was_ours = os.getppid() == pid
        self._pidfd = -1
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(pid)

    def is_gone(self) -> bool:
        """Ask the system; cheap."""
        if self._was_ours:
            return os.getppid() != self._pid
        if self._pidfd >= 0:
            return bool(select.select([self._pidfd], [], [], 0)[0])
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Loader:
    """The loop and what it has done so far."""

    def __init__(self, state: StatePaths, settings: LoaderSettings) -> None:
        self._state = state
        self._settings = settings
        self._total = LoadReport()
        self._error = ""
        self._failures = 0

    def run(self, parent: Parent, stop: threading.Event, interval_s: float, *, drain: bool) -> None:
        """Load until `stop` is set or the parent is gone."""
        prepared = False
        while True:
            prepared = prepared or self._attempt(prepare=True)
            self._attempt()
            if stop.wait(self._pause_s(interval_s)) or parent.is_gone():
                break
        if drain or parent.is_gone():
            self._attempt()
        log_line("info", "loader_ended", **msgspec.to_builtins(self._total))

    def _pause_s(self, interval_s: float) -> float:
        return min(interval_s * 2**self._failures, _LONGEST_PAUSE_S) if self._failures else interval_s

    def _attempt(self, *, prepare: bool = False) -> bool:
        """Load once; a fault is logged and the next attempt waits longer."""
        try:
            if prepare:
                prepare_store(self._state, self._settings)
            else:
                self._note(load_once(self._state, self._settings))
        except StoreLockedError as error:
            self._error = error.message  # a long export; the spool holds meanwhile
            return False
        except StorageError as error:
            if error.message != self._error:
                log_line("error", "load_failed", reason=error.message)
            self._error = error.message
            self._failures = min(self._failures + 1, 16)
            self._write_status()
            return False
        self._failures = 0
        return True

    def _note(self, report: LoadReport) -> None:
        if report.segments or self._error or not self._state.loader_status.exists():
            self._total = self._total.plus(report)
            self._error = ""
            self._write_status()

    def _write_status(self) -> None:
        status = LoaderStatus(os.getpid(), int(time.time() * 1000), self._total, self._error)
        target = self._state.loader_status
        with contextlib.suppress(OSError):
            beside = target.with_suffix(".new")
            beside.write_bytes(msgspec.json.encode(status))
            beside.rename(target)


def main(arguments: list[str] | None = None) -> None:
    """Run the loader until its parent ends."""
    options = _parse(arguments)
    os.umask(0o077)
    with contextlib.suppress(OSError):
        os.nice(5)  # callers come first
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = LoaderSettings(store=StoreSettings(memory_limit_mb=options.memory_limit_mb))
    loader = Loader(StatePaths(options.state), settings)
    loader.run(Parent(options.parent_pid), stop, options.interval_s, drain=options.drain)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m observations.loader", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the state directory")
    parser.add_argument("--parent-pid", type=int, required=True, help="end when this process is gone")
    parser.add_argument("--drain", action="store_true", help="on SIGTERM load what is sealed before ending")
    parser.add_argument("--interval-s", type=float, default=0.5, help="seconds between two loads")
    parser.add_argument("--memory-limit-mb", type=int, default=256, help="for DuckDB")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
