"""Checks everything about made specialists below a state folder: keys, ledger, manifests, weights, leftovers.

Reads only; knows nothing of a running gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from .artifacts import ArtifactStore
from .errors import JourneymanError
from .ledger import History
from .made_paths import MadePaths, open_specialist
from .registrar import find
from .signing import Verifier


class Check(Struct, frozen=True):
    """What was looked at and whether it holds; a `note` is neither good nor bad."""

    subject: str
    verdict: Literal["good", "failed", "note"]
    detail: str


def verify_state(root: Path, only: str | None = None) -> list[Check]:
    """Return a check for the keys, the ledger and every registered specialist, or the one that is named.

    Raises NotFoundError for a name that the ledger does not know.
    """
    paths = MadePaths(root)
    try:
        verifier = paths.verifier()
        keys = Check("signing keys", "good", f"{len(verifier.key_ids)} trusted")
    except JourneymanError as error:
        return [Check("signing keys", "failed", error.message)]
    try:
        history = paths.ledger().read(verifier)
    except JourneymanError as error:
        return [keys, Check("ledger", "failed", error.message)]
    entries = len(history.entries)
    checks = [keys, Check("ledger", "good", f"{entries} entries, signed and chained")]
    names = list(history.stages) if only is None else [find(history, only)]
    store = ArtifactStore(paths.artifacts)
    checks += [_specialist(paths, name, history, verifier, store) for name in names]
    return checks if only is not None else [*checks, *_leftovers(paths, history)]


def _specialist(paths: MadePaths, name: str, history: History, verifier: Verifier, store: ArtifactStore) -> Check:
    place = history.stages[name].place
    try:
        manifest = open_specialist(paths, name, history.manifests[name], verifier, store)
    except JourneymanError as error:
        return Check(name, "failed", f"{place}: {error.message}")
    files = store.files(manifest.adapter_digest)
    size_mb = sum(file.size for file in files) / 1e6
    return Check(name, "good", f"{place}: manifest and weights signed, {len(files)} files, {size_mb:.1f} MB")


def _leftovers(paths: MadePaths, history: History) -> Iterator[Check]:
    """Folders of a registration that was cut short: they serve nobody."""
    folder = paths.root / "specialists"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and path.name not in history.stages:
            yield Check(path.name, "note", f"{path} is not in the ledger: register it again, or delete it")
