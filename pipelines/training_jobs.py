"""Counts a training: whatever becomes of it, a line is left for the gateway's metrics. Knows nothing of training."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from observations.state import StatePaths
from observations.training_jobs import TrainingJob, TrainingOutcome, note_job
from pipelines.run import RUNS, Run
from registry.errors import StorageError


@contextlib.contextmanager
def counted(run: Run) -> Iterator[None]:
    """Note how what is done inside ended. SIGTERM ends it as Ctrl-C does, so that it is counted as well.

    A line that cannot be written is told on stderr: hours of training are not lost for a figure.
    """
    began_s = time.monotonic()
    outcome: TrainingOutcome = "failed"
    try:
        with _terminable():
            yield
        outcome = "succeeded"
    except (KeyboardInterrupt, SystemExit):
        outcome = "stopped"
        raise
    finally:
        _note(run, outcome, time.monotonic() - began_s)


def _note(run: Run, outcome: TrainingOutcome, seconds: float) -> None:
    if run.folder.parent.name != RUNS:
        return  # a run outside any state folder: no gateway would look there
    job = TrainingJob(at_ms=int(time.time() * 1000), outcome=outcome, seconds=seconds, run=run.run_id)
    try:
        note_job(StatePaths(run.folder.parent.parent), job)
    except StorageError as error:
        print(f"journeyman: the training is not counted: {error.message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM an exception, unless somebody handles it already or this is no main thread."""
    is_ours = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
