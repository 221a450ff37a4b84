"""Where a deployment keeps what it must not forget: the paths under the state directory.

Everything in it is the operator's alone: folders 0700, files 0600. Knows the layout, not what the files mean.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from registry.errors import StorageError

DEFAULT_ROOT = Path(".journeyman")
FOLDER_MODE = 0o700
FILE_MODE = 0o600


class StatePaths(Struct, frozen=True):
    """The state directory. Making this value touches no disk; `create` does."""

    root: Path = DEFAULT_ROOT

    @property
    def spool(self) -> Path:
        """The spool's root; every writer process has a folder of its own in it."""
        return self.root / "spool"

    @property
    def store(self) -> Path:
        """The DuckDB file. Its write-ahead log lies beside it as `.wal`."""
        return self.root / "observations.duckdb"

    @property
    def store_wal(self) -> Path:
        """DuckDB's write-ahead log; there only while a batch is under way or after a kill."""
        return self.root / "observations.duckdb.wal"

    @property
    def store_suspect(self) -> Path:
        """An empty file that a reader leaves after it met a damaged block."""
        return self.root / "observations.suspect"

    @property
    def store_unclean(self) -> Path:
        """An empty file: the store's free blocks may hold what was erased, and the loader must write it anew."""
        return self.root / "observations.unclean"

    @property
    def quarantine(self) -> Path:
        """Damaged segments and stores, moved aside and never deleted by us."""
        return self.root / "quarantine"

    @property
    def loader_lock(self) -> Path:
        """Locked (flock) by the one loader."""
        return self.root / "loader.lock"

    @property
    def loader_status(self) -> Path:
        """One JSON object that the loader rewrites after every batch."""
        return self.root / "loader.json"

    def create(self) -> StatePaths:
        """Make the directory and the folders of the record. Raises StorageError, naming the place."""
        for folder in (self.root, self.spool, self.quarantine):
            make_folder(folder)
        return self

    def folder(self, name: str) -> Path:
        """Return a folder of that name under the root, made 0700 if it is not there."""
        make_folder(self.root)
        return make_folder(self.root / name)


def make_folder(folder: Path) -> Path:
    """Make a folder only its owner can enter. Raises StorageError when that cannot be."""
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(FOLDER_MODE)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"Cannot make the folder {folder}: {reason}. Name a writable one with --state.") from error
    return folder


def open_private(path: Path, flags: int) -> int:
    """Open a file 0600 and return its descriptor. Raises OSError."""
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
