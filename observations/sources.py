"""The spool as the loader sees it: which segments wait, and which writers are dead.

A writer holds a lock on its folder for as long as it lives, so a free lock means that nobody will write there again.
Knows files; not what is in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from msgspec import Struct

from .segments import OPEN_SUFFIX, SEALED_SUFFIX
from .spool import LOCK_NAME

_UNFINISHED_FOLDER_AGE_S = 60.0


class SegmentFile(Struct, frozen=True):
    """A segment on disk and the folder name of its writer."""

    path: Path
    writer: str
    size: int


def sealed_segments(spool: Path) -> list[SegmentFile]:
    """Return the segments that no one writes any more, the oldest first."""
    found = []
    for folder in _writer_folders(spool):
        for path in folder.glob(f"*{SEALED_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                found.append(SegmentFile(path, folder.name, path.stat().st_size))
    return sorted(found, key=lambda file: file.path.name)


def segments_newest_first(spool: Path) -> list[Path]:
    """Return every segment, open ones included: what a reader must look at beside the store."""
    found = [
        path
        for folder in _writer_folders(spool)
        for path in folder.glob("*")
        if path.suffix in (OPEN_SUFFIX, SEALED_SUFFIX)
    ]
    return sorted(found, key=lambda path: path.name, reverse=True)


def adopt_abandoned(spool: Path) -> int:
    """Seal what dead writers left open; return how many segments that were."""
    adopted = 0
    for folder in _writer_folders(spool):
        left = list(folder.glob(f"*{OPEN_SUFFIX}"))
        if not left or _is_alive(folder):
            continue
        for path in left:
            path.rename(path.with_suffix(SEALED_SUFFIX))
            adopted += 1
    return adopted


def remove_empty(spool: Path) -> None:
    """Remove the folders of dead writers that have nothing left to load."""
    for folder in spool.iterdir():
        with contextlib.suppress(OSError):  # a writer gives its folder its name at this moment
            if folder.is_dir() and not _is_being_made(folder) and not _is_alive(folder):
                _remove_if_empty(folder)


def _is_being_made(folder: Path) -> bool:
    return folder.name.startswith(".") and time.time() - folder.stat().st_mtime < _UNFINISHED_FOLDER_AGE_S


def _remove_if_empty(folder: Path) -> None:
    if all(entry.name == LOCK_NAME for entry in folder.iterdir()):
        (folder / LOCK_NAME).unlink(missing_ok=True)
        folder.rmdir()


def _writer_folders(spool: Path) -> list[Path]:
    if not spool.is_dir():
        return []
    return [folder for folder in spool.iterdir() if folder.is_dir() and not folder.name.startswith(".")]


def _is_alive(folder: Path) -> bool:
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
