"""Files that only their owner may read, written whole or not at all, and on the disk before the call returns.

Knows nothing of what is in them.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def write_private(path: Path, content: bytes | BinaryIO) -> None:
    """Replace a file by other content, mode 0600, flushed to the disk. Raises OSError."""
    draft = write_draft(path, content)
    draft.replace(path)
    sync_folder(path.parent)


def write_draft(path: Path, content: bytes | BinaryIO) -> Path:
    """Write content beside a path and return where; the caller moves it there. Raises OSError."""
    draft = path.with_name(f".{path.name}.draft-{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(fd, "wb") as stream:
        if isinstance(content, bytes):
            stream.write(content)
        else:
            shutil.copyfileobj(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return draft


def make_private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter, and its parents. Raises OSError."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(FOLDER_MODE)
    return folder


def sync_folder(folder: Path) -> None:
    """Have the disk know which files are in a folder. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
