"""Where made specialists lie below the state folder, and when one of them holds. Touches the disk only to check."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from .artifacts import ArtifactStore
from .errors import IntegrityError, StorageError
from .ledger import Ledger
from .manifest import SpecialistManifest, check_weights, open_manifest
from .signing import TRUSTED, Verifier


class MadePaths(Struct, frozen=True):
    """The layout below a state folder."""

    root: Path

    @property
    def signing(self) -> Path:
        """The signing key, the trusted keys and the ledger's head."""
        return self.root / "signing"

    @property
    def trusted(self) -> Path:
        """Public keys (PEM) whose signatures are believed."""
        return self.signing / TRUSTED

    @property
    def artifacts(self) -> Path:
        """Adapters, each in a folder named by its content."""
        return self.root / "artifacts"

    def manifest(self, specialist: str) -> Path:
        """The signed manifest of a specialist."""
        return self.root / "specialists" / specialist / "manifest.json"

    def weights(self, specialist: str) -> Path:
        """The signature over a specialist's weights."""
        return self.root / "specialists" / specialist / "weights.json"

    def ledger(self) -> Ledger:
        """The ledger, not yet read."""
        return Ledger(self.root / "ledger", self.signing / "head.json")

    def verifier(self) -> Verifier:
        """The keys that are trusted now. Raises IntegrityError for a file among them that is no key."""
        return Verifier(self.trusted)


def open_specialist(
    paths: MadePaths, specialist: str, digest: str, verifier: Verifier, store: ArtifactStore
) -> SpecialistManifest:
    """Return the manifest of a registered specialist once everything about it holds.

    Checked are the manifest's signature and digest, the signature over the weights, and every byte of the adapter.
    Raises IntegrityError or StorageError, naming the file and the mend.
    """
    manifest = read_manifest(paths, specialist, digest, verifier)
    store.verify(manifest.adapter_digest)
    weights = paths.weights(specialist)
    check_weights(_read(weights), specialist, store.files(manifest.adapter_digest), verifier, str(weights))
    return manifest


def read_manifest(paths: MadePaths, specialist: str, digest: str, verifier: Verifier) -> SpecialistManifest:
    """Return a registered specialist's manifest; its adapter is not looked at. Raises as `open_specialist`."""
    path = paths.manifest(specialist)
    manifest = open_manifest(_read(path), digest, verifier, str(path))
    if specialist != f"{manifest.name}@{digest[:12]}":
        raise IntegrityError(f"{path}: it is the manifest of {manifest.name}@{digest[:12]}, not of {specialist}.")
    return manifest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing: restore it from a backup, or register it again.") from None
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
