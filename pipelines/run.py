"""A run of the loop: a folder with a folder for each step, whose manifest is written last.

A step is done when its manifest is there, was made from the same inputs, and its outputs are still what they were. Then
it is skipped; otherwise it is done again from the start, so that a cut step leaves nothing behind. Two runs have two
folders, and one run has one process at a time. Knows files and digests; nothing of what a step does.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.state import make_folder, open_private
from pipelines.heartbeat import STALL_S, Heartbeat, Tracker, read_beat
from registry.errors import BadInputError, NotFoundError, StorageError

MANIFEST: Final = "manifest.json"
RUNS: Final = "runs"
"""The folder of all runs in the state folder."""

_LOCK: Final = "run.lock"
_STARTED: Final = "started"
"""The digest of the inputs of the work under way."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_ENCODER: Final = msgspec.json.Encoder(order="sorted")


class StepManifest(Struct, frozen=True, forbid_unknown_fields=False):
    """What a finished step was made of and made."""

    step: str
    version: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    """Name relative to the step's folder, to sha256 in hex."""
    facts: dict[str, Any]
    code_version: str
    started_at_ms: int
    ended_at_ms: int

    @property
    def inputs_digest(self) -> str:
        """The digest that decides whether the step must be done again."""
        return inputs_digest(self.step, self.version, self.inputs)


class Run:
    """An open run. Use it as a context manager: it holds a lock and a heartbeat until it is closed."""

    def __init__(self, folder: Path, lock_fd: int, heartbeat: Heartbeat) -> None:
        self.folder = folder
        self._lock_fd: int | None = lock_fd
        self._heartbeat = heartbeat

    @classmethod
    def open(
        cls,
        root: Path,
        run_id: str | None = None,
        say: Callable[[str], None] | None = None,
        stall_s: float = STALL_S,
    ) -> Run:
        """Open the run of that id, or begin a new one, named by the time. `say` replaces the console for progress.

        Raises:
            BadInputError: the id cannot name a folder.
            StorageError: the folder cannot be made, or another process works on this run.
        """
        if run_id is not None and not _NAME.fullmatch(run_id):
            raise BadInputError(f"{run_id!r} cannot name a run: letters, digits and . _ - are allowed.", param="run")
        make_folder(root)
        folder = make_folder(root / (run_id or new_run_id()))
        return cls(folder, _locked(folder), Heartbeat(folder, say, stall_s).start())

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.folder.name

    def step(self, name: str, inputs: Mapping[str, str], *, version: int = 1, keep_partial: bool = False) -> Step:
        """Return the step, emptied unless it is done. `inputs`: name to digest or value, all that it depends on.

        `version` is the step's own: raise it when the same inputs make other outputs. With `keep_partial` a step that
        was cut on the same inputs finds its files again; it must then check by itself that they are whole.
        """
        if not _NAME.fullmatch(name):
            raise BadInputError(f"{name!r} cannot name a step.", param="step")
        folder = self.folder / name
        found = read_manifest(folder)
        wanted = inputs_digest(name, version, inputs)
        done = found is not None and found.inputs_digest == wanted and first_changed(folder, found.outputs) is None
        if not done:
            _begin(folder, wanted, keep_partial=keep_partial)
            found = None
        self._heartbeat.doing(name)
        return Step(folder, StepPlan(name, version, dict(inputs), _now_ms()), found)

    def progress(self, line: str) -> None:
        """Tell one line; it counts as progress."""
        self._heartbeat.say(line)

    def doing(self, what: str) -> None:
        """Say what comes next, silently; should it stall, this names it."""
        self._heartbeat.doing(what)

    def track(self, label: str, total: int) -> contextlib.AbstractContextManager[Tracker]:
        """Follow `total` items: `with run.track("reading", n) as tracker: tracker.advance()`."""
        return self._heartbeat.track(label, total)

    def close(self) -> None:
        """Let go of the run. What is finished stays; may be called twice."""
        if self._lock_fd is not None:
            self._heartbeat.stop()
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class StepPlan(Struct, frozen=True):
    """What a step is about to be made of."""

    name: str
    version: int
    inputs: dict[str, str]
    started_at_ms: int


class Step:
    """One step of an open run."""

    def __init__(self, folder: Path, plan: StepPlan, manifest: StepManifest | None) -> None:
        self.folder = folder
        self.plan = plan
        self.manifest = manifest
        """None until it is finished."""

    @property
    def done(self) -> bool:
        """True when nothing needs to be done: skip the work and take the outputs that are there."""
        return self.manifest is not None

    @property
    def facts(self) -> dict[str, Any]:
        """What `finish` was told; empty before."""
        return self.manifest.facts if self.manifest else {}

    def finish(self, outputs: Sequence[Path], facts: Mapping[str, Any]) -> StepManifest:
        """Write the manifest: from now on the step is done. An output may be a folder, for all files in it.

        Raises:
            BadInputError: an output is not in the step's folder, or is not there.
            StorageError: the disk does not take it.
        """
        manifest = StepManifest(
            step=self.plan.name,
            version=self.plan.version,
            inputs=self.plan.inputs,
            outputs=dict(self._digests(outputs)),
            facts=dict(facts),
            code_version=code_version(),
            started_at_ms=self.plan.started_at_ms,
            ended_at_ms=_now_ms(),
        )
        try:
            write_atomically(self.folder / MANIFEST, _ENCODER.encode(manifest))
        except OSError as error:
            raise StorageError(f"Cannot write {self.folder / MANIFEST}: {error.strerror}.") from error
        self.manifest = manifest
        return manifest

    def _digests(self, outputs: Sequence[Path]) -> Iterator[tuple[str, str]]:
        for output in outputs:
            path = output if output.is_absolute() else self.folder / output
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise BadInputError(f"{path} is not in {self.folder}: a step's outputs lie in its folder.")
            if not path.exists():
                raise BadInputError(f"The step {self.plan.name} did not write {path}.")
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    yield file.resolve().relative_to(self.folder.resolve()).as_posix(), sha256_of(file)


def new_run_id() -> str:
    """Return an id that sorts by time and that no other run has."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


def newest_run(root: Path, step: str) -> str:
    """Return the id of the run whose `step` ended last. Raises NotFoundError when there is none."""
    found = [(manifest.ended_at_ms, folder.name) for folder, manifest in _finished(root, step)]
    if not found:
        raise NotFoundError(f"No run in {root} has finished the step {step}. Run `journeyman flywheel {step}` first.")
    return max(found)[1]


def read_manifest(folder: Path) -> StepManifest | None:
    """Return the manifest in a step's folder; None when there is none or it cannot be read."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=StepManifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def first_changed(folder: Path, outputs: Mapping[str, str]) -> str | None:
    """Return the name of the first output that is gone or no longer has its digest; None when all hold."""
    for name, digest in outputs.items():
        try:
            if sha256_of(folder / name) != digest:
                return name
        except OSError:
            return name
    return None


def inputs_digest(step: str, version: int, inputs: Mapping[str, str]) -> str:
    """Return the sha256, in hex, of what a step depends on."""
    return hashlib.sha256(_ENCODER.encode((step, version, dict(inputs)))).hexdigest()


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file, in hex. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file 0600: a reader sees all of it, or what was there before, also after a crash. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with os.fdopen(open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


@functools.cache
def code_version() -> str:
    """Return the product's version and a digest of the code of this layer."""
    try:
        version = metadata.version("journeyman")
    except metadata.PackageNotFoundError:
        version = "0"
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"{version}+{digest.hexdigest()[:12]}"


def _finished(root: Path, step: str) -> Iterator[tuple[Path, StepManifest]]:
    for folder in root.iterdir() if root.is_dir() else ():
        manifest = read_manifest(folder / step)
        if manifest is not None:
            yield folder, manifest


def _locked(folder: Path) -> int:
    lock_fd = open_private(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock_fd)
        beat = read_beat(folder)
        who = f"process {beat.pid} is at: {beat.doing or 'the start'}" if beat else "another process has it"
        raise StorageError(f"The run {folder.name} is under way ({who}). Wait for it, or begin another.") from error
    return lock_fd


def _begin(folder: Path, inputs: str, *, keep_partial: bool) -> None:
    """Empty the folder, the manifest first: half-removed outputs must never look finished."""
    started = folder / _STARTED
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        is_same = keep_partial and started.is_file() and started.read_text() == inputs
        if folder.exists() and not is_same:
            shutil.rmtree(folder)
        make_folder(folder)
        write_atomically(started, inputs.encode())
    except OSError as error:
        raise StorageError(f"Cannot empty {folder}: {error.strerror or error}.") from error


def _now_ms() -> int:
    return int(time.time() * 1000)
