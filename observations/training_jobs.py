"""What trainings leave behind for whoever counts them: one JSON line a job in `<state>/training/jobs.jsonl`.

A training is a process of its own, and often over before anybody asks; so it leaves a line, and a gateway on the same
state reads what is new when it is asked for its metrics. Knows the file; nothing of training or of metrics.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from registry.errors import StorageError

from .state import StatePaths, make_folder, open_private

TrainingOutcome = Literal["succeeded", "failed", "stopped"]
FOLDER: Final = "training"
FILE: Final = "jobs.jsonl"


class TrainingJob(Struct, frozen=True, kw_only=True):
    """One training that ended. A training that goes on from its checkpoint is another job."""

    at_ms: int
    """When it ended."""
    outcome: TrainingOutcome
    """stopped: by a person or by the system, before its end."""
    seconds: float
    run: str = ""


def jobs_file(state: StatePaths) -> Path:
    """Return where the lines are."""
    return state.root / FOLDER / FILE


def note_job(state: StatePaths, job: TrainingJob) -> None:
    """Append a job, whole or not at all; any number of processes may do so. Raises StorageError, naming the place."""
    path = jobs_file(state)
    make_folder(state.root)
    make_folder(path.parent)
    line = msgspec.json.encode(job) + b"\n"
    try:
        fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # what is cut off again on a full disk must not be another's line
            end = os.fstat(fd).st_size
            if os.write(fd, line) != len(line):
                os.ftruncate(fd, end)
                raise OSError(None, "the disk is full")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror}.") from error


class JobsReader:
    """Reads each job once; a file that was put in the place of the old one is read from its start."""

    def __init__(self, state: StatePaths) -> None:
        """Touches no disk."""
        self._path = jobs_file(state)
        self._at = 0
        self._file: tuple[int, int] | None = None
        self._decoder = msgspec.json.Decoder(TrainingJob)

    def new_jobs(self) -> list[TrainingJob]:
        """Return the jobs that ended since the last question. Cheap when there are none; never raises."""
        try:
            found = self._path.stat()
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self._at:
                self._file, self._at = (found.st_dev, found.st_ino), 0
            if found.st_size == self._at:
                return []
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [job for line in whole.splitlines() if (job := self._decoded(line)) is not None]

    def _decoded(self, line: bytes) -> TrainingJob | None:
        """A line of a newer version, or one that somebody wrote by hand, is passed over."""
        try:
            return self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
