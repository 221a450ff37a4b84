"""Made specialists for the catalog: the ledger says which there are, and only those whose every byte holds are let in.

What fails is left out with its reason; the others serve on. A ledger that does not hold changes nothing: the last
stages that did stay in force. Knows nothing of registry.yaml.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, field, structs, to_builtins

from .artifacts import ArtifactStore
from .entries import SpecialistEntry
from .errors import JourneymanError
from .identifiers import digest_of
from .ledger import History
from .made_paths import MadePaths, open_specialist
from .signing import Verifier
from .stage_moves import StageNow


class Made(Struct, frozen=True):
    """What the ledger brings into the catalog at one moment."""

    entries: tuple[SpecialistEntry, ...] = ()
    left_out: tuple[str, ...] = ()
    """What is wrong, one line each: a specialist that is not served, or the ledger itself."""
    history: History = field(default_factory=History)

    @property
    def digest(self) -> str:
        """Changes with whatever of it matters to a gateway."""
        last = self.history.entries[-1].digest if self.history.entries else ""
        return digest_of([to_builtins(self.entries), self.left_out, last])


class MadeSpecialists:
    """Reads the made specialists below a state folder, again and again; files that did not change are read once."""

    def __init__(self, root: Path) -> None:
        """Touches no disk."""
        self._paths = MadePaths(Path(os.path.abspath(root)))  # noqa: PTH100 - links stay as the operator named them
        self._store = ArtifactStore(self._paths.artifacts)
        self._ledger = self._paths.ledger()
        self._last = Made()
        self._watched = self._files(self._last)
        self._lock = threading.Lock()

    @property
    def last(self) -> Made:
        """What the last look found."""
        return self._last

    def look(self) -> Made:
        """Return what should be served now. Never raises for what the state folder holds."""
        with self._lock:
            self._last = self._look(self._last)
            self._watched = self._files(self._last)
            return self._last

    def watched(self) -> list[Path]:
        """The files and folders whose change may change what `look` finds; as the last look saw them."""
        return self._watched

    def _files(self, last: Made) -> list[Path]:
        paths, history = self._paths, last.history
        found = [self._ledger.path, self._ledger.head, paths.trusted, *sorted(paths.trusted.glob("*.pem"))]
        for specialist in history.stages:
            found += [paths.manifest(specialist), paths.weights(specialist)]
        for entry in last.entries:
            found += [Path(entry.adapter), *sorted(Path(entry.adapter).rglob("*"))]
        return found

    def _look(self, last: Made) -> Made:
        try:
            verifier = self._paths.verifier()
        except JourneymanError as error:
            return self._kept(last, error)
        try:
            history = self._ledger.read(verifier)
        except JourneymanError as error:
            signers = {signed.key_id for signed in last.history.entries}
            return self._kept(last if signers <= verifier.key_ids else Made(), error)
        entries: list[SpecialistEntry] = []
        left_out: list[str] = []
        for now in history.stages.values():
            try:
                entries += self._entry(now, history, verifier)
            except JourneymanError as error:
                left_out.append(f"specialist {now.specialist} ({now.place}) is left out: {error.message}")
        return Made(tuple(entries), tuple(left_out), history)

    def _kept(self, last: Made, error: JourneymanError) -> Made:
        """What held before, as far as its adapters still do."""
        said = "The stages as they were before stay in force." if last.entries else "No made specialist is served."
        entries, left_out = [], [f"ledger: {error.message} {said}"]
        for entry in last.entries:
            try:
                self._store.verify(Path(entry.adapter).name)
                entries.append(entry)
            except JourneymanError as problem:
                left_out.append(f"specialist {entry.id} is left out: {problem.message}")
        return Made(tuple(entries), tuple(left_out), last.history)

    def _entry(self, now: StageNow, history: History, verifier: Verifier) -> Iterator[SpecialistEntry]:
        """Yield the entry; nothing for what was retired and is not kept for a rollback."""
        standby = now.displaced_by is not None
        if now.stage == "deprecated" and not standby:
            return
        digest = history.manifests[now.specialist]
        manifest = open_specialist(self._paths, now.specialist, digest, verifier, self._store)
        entry = manifest.entry(digest, str(self._store.path(manifest.adapter_digest)))
        yield structs.replace(entry, stage=now.stage, share=now.place.share, standby=standby)
