"""Keeps what a router has learned on disk, one file a router, and reads what the others have learned.

Each router writes only its own outcomes; believing is adding up everybody's. An own file that cannot be read is moved
aside, never overwritten. One process at a time writes under a name: a lock file beside it says so, which the system
frees when the process ends, however it ends. Knows nothing of what the beliefs mean.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.state import make_folder, open_private
from policies.bandit_state import BanditState
from policies.confidence_book import read_state
from policies.reward import SilenceRow
from registry.errors import ConfigError, StorageError

from .log import get

SUFFIX: Final = ".beliefs"
VERSION: Final = 1
_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

_log = get("beliefs")


class Learned(Struct, frozen=True):
    """What one router has learned by itself."""

    bandit: BanditState
    confidence: dict[str, Any]
    judged: tuple[int, ...] = ()
    """Digests of the calls whose feedback has taught, the latest last."""
    silence: tuple[SilenceRow, ...] = ()
    """How much of what it has learned nobody judged."""


class _File(Struct, frozen=True):
    version: int
    saved_at_ms: int
    bandit: bytes
    confidence: dict[str, Any]
    judged: tuple[int, ...] = ()
    silence: tuple[SilenceRow, ...] = ()


class BeliefStore:
    """The folder of the routers' files; `name` is this router's.

    Raises ConfigError for a name that is no file's name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        if not _NAME.match(name):
            raise ConfigError(
                f"JOURNEYMAN_ROUTER_NAME={name!r}: use 1 to 64 letters, digits, dots, dashes and underscores."
            )
        self._folder = make_folder(folder)
        self._own = folder / (name + SUFFIX)
        self._saving = threading.Lock()
        self._lock_fd: int | None = None
        self._seen: dict[Path, tuple[int, int]] = {}
        self._others: dict[Path, Learned] = {}

    def save(self, learned: Learned) -> None:
        """Write this router's file in one step; threads take turns. Raises StorageError."""
        file = _File(
            version=VERSION,
            saved_at_ms=int(time.time() * 1000),
            bandit=learned.bandit.to_bytes(),
            confidence=learned.confidence,
            judged=learned.judged,
            silence=learned.silence,
        )
        content = msgspec.msgpack.encode(file)
        with self._saving:
            self._claim()
            self._write(content)

    def close(self) -> None:
        """Let another process write under this name."""
        with self._saving:
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def _claim(self) -> None:
        """Hold the name's lock; where the file system has no locks, trust the operator."""
        if self._lock_fd is not None:
            return
        try:
            lock_fd = open_private(self._own.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise StorageError(f"Cannot lock {self._own}: {error.strerror or error}.") from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            raise StorageError(
                f"Another process writes {self._own}: give each router a JOURNEYMAN_ROUTER_NAME of its own. What this "
                "one learns is in memory only."
            ) from None
        except OSError as error:
            _log.warning("no locks on this file system", folder=str(self._folder), reason=error.strerror)
        self._lock_fd = lock_fd

    def _write(self, content: bytes) -> None:
        partial = self._own.with_suffix(".partial")
        try:
            with os.fdopen(open_private(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._own)
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"Cannot write {self._own}: {reason}. What was learned is in memory only.") from error

    def own(self) -> Learned | None:
        """What this router had learned when it stopped; None when it never ran, or its file cannot be used.

        Such a file is moved aside, for a mend by hand. Raises StorageError when that cannot be done.
        """
        try:
            return _read(self._own)
        except StorageError as error:
            aside = self._own.with_name(f"{self._own.name}.unreadable-{int(time.time())}")
            try:
                self._own.replace(aside)
            except OSError as trouble:
                raise StorageError(f"Cannot move {self._own} aside: {trouble.strerror or trouble}.") from error
            _log.error("beliefs start anew", moved_to=str(aside), reason=error.message)
            return None

    def others(self) -> list[Learned] | None:
        """What the other routers have learned; None when nothing changed since the last look."""
        found = {path: _stamp(path) for path in sorted(self._folder.glob("*" + SUFFIX)) if path != self._own}
        if found == self._seen:
            return None
        changed = [path for path, stamp in found.items() if self._seen.get(path) != stamp]
        self._others = {path: learned for path, learned in self._others.items() if path in found}
        for path in changed:
            self._take(path)
        self._seen = found
        return list(self._others.values())

    def _take(self, path: Path) -> None:
        """Another router's file; one that cannot be read is left alone, and what it held before stays believed."""
        try:
            learned = _read(path)
        except StorageError as error:
            _log.warning("another router's beliefs left out", file=str(path), reason=error.message)
            return
        if learned is not None:
            self._others[path] = learned


def _read(path: Path) -> Learned | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error
    return _decoded(content)


def _decoded(content: bytes) -> Learned:
    try:
        file = msgspec.msgpack.decode(content, type=_File)
    except msgspec.DecodeError as error:
        raise StorageError(f"It is not a file of beliefs: {error}.") from None
    if file.version != VERSION:
        raise StorageError(f"It has version {file.version}; {VERSION} can be read.")
    read_state(file.confidence)
    return Learned(BanditState.from_bytes(file.bandit), file.confidence, file.judged, file.silence)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
