"""Registers made specialists and moves them from stage to stage; every step is a signed entry in the ledger.

Knows nothing of running gateways: they read the ledger.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from .artifacts import ArtifactStore
from .errors import BadInputError, NotFoundError, StorageError
from .findings import did_you_mean
from .ledger import Draft, History, SignedEntry
from .made_paths import MadePaths, open_specialist, read_manifest
from .manifest import SpecialistManifest, completed, seal_manifest, seal_weights
from .private_files import make_private_folder, write_private
from .signing import Signer, Verifier
from .stage_moves import Move, StageNow, demotion, name_of, promotion, rollback
from .stages import Stage, serves_callers


class Note(Struct, frozen=True):
    """Who does something, why, and the digest (or the name) of what speaks for it."""

    actor: str
    reason: str = ""
    evidence: str = ""


class Registrar:
    """Writes the registry of made specialists below a state folder. The signing key is made at first use."""

    def __init__(self, root: Path) -> None:
        self.paths = MadePaths(root)
        self._store = ArtifactStore(self.paths.artifacts)
        self._ledger = self.paths.ledger()

    def history(self) -> History:
        """Return the verified ledger. Raises IntegrityError, StorageError."""
        return self._ledger.read(self.paths.verifier())

    def register(self, adapter: Path, manifest: SpecialistManifest, note: Note) -> str:
        """Store an adapter, sign its manifest, enter it as a candidate; return its id (`name@digest12`).

        Digests that the manifest leaves empty (adapter, training) are filled in. Doing it again with the same content
        changes nothing. Raises BadInputError for an adapter or a manifest that cannot be, StorageError, IntegrityError.
        """
        signer = Signer.load_or_create(self.paths.signing)
        before = self.history()
        whole = completed(manifest, self._store.put(adapter))
        specialist, digest = whole.id, whole.digest
        if before.manifests.get(specialist, digest) != digest:
            raise BadInputError(f"{specialist} is registered already with another digest; change the name.")
        self._write_envelopes(whole, signer)
        if specialist not in before.stages:
            draft = self._draft((Move(specialist, None, "candidate"),), note, manifest=digest)
            self._ledger.append(draft, signer, self.paths.verifier())
        open_specialist(self.paths, specialist, digest, self.paths.verifier(), self._store)
        return specialist

    def check(self, specialist: str) -> SpecialistManifest:
        """Return a registered specialist's manifest once its signatures and its files hold.

        Raises NotFoundError, IntegrityError, StorageError.
        """
        history = self.history()
        specialist = find(history, specialist)
        digest = history.manifests[specialist]
        return open_specialist(self.paths, specialist, digest, self.paths.verifier(), self._store)

    def promote(self, specialist: str, note: Note, to: Stage | None = None, share: float | None = None) -> SignedEntry:
        """Move a specialist up: the next step unless another was asked for (`stage_moves.promotion`).

        Raises NotFoundError, BadInputError for a move that is not possible, IntegrityError for a specialist whose files
        or signatures do not hold.
        """
        history = self.history()
        specialist = find(history, specialist)
        moves = promotion(history.stages, specialist, to, share)
        self.check(specialist)
        return self._append(self._draft(moves, note))

    def demote(self, specialist: str, note: Note, to: Stage | None = None, share: float | None = None) -> SignedEntry:
        """Move a specialist down: out of service unless another place was asked for (`stage_moves.demotion`).

        Raises NotFoundError, BadInputError.
        """
        history = self.history()
        specialist = find(history, specialist)
        return self._append(self._draft(demotion(history.stages, specialist, to, share), note))

    def rollback(self, target: str, note: Note) -> SignedEntry:
        """Return a specialist, or the cluster of that name, to what answered before (`stage_moves.rollback`).

        Raises NotFoundError, BadInputError when there is nothing to undo, IntegrityError for a version before it whose
        files do not hold.
        """
        history = self.history()
        specialist = self._latest(history, target)
        moves, undoes = rollback(history.stages, specialist)
        for move in moves[1:]:
            self.check(move.specialist)
        return self._append(self._draft(moves, note, undoes=undoes))

    def _append(self, draft: Draft) -> SignedEntry:
        return self._ledger.append(draft, Signer.load_or_create(self.paths.signing), self.paths.verifier())

    def _draft(self, moves: tuple[Move, ...], note: Note, manifest: str = "", undoes: int | None = None) -> Draft:
        return Draft(
            moves=moves,
            actor=note.actor,
            reason=note.reason,
            evidence=note.evidence,
            manifest=manifest,
            undoes=undoes,
        )

    def _write_envelopes(self, manifest: SpecialistManifest, signer: Signer) -> None:
        files = self._store.files(manifest.adapter_digest)
        path = self.paths.manifest(manifest.id)
        try:
            make_private_folder(path.parent)
            write_private(self.paths.weights(manifest.id), seal_weights(manifest.id, files, signer))
            write_private(path, seal_manifest(manifest, files, signer))
        except OSError as error:
            raise StorageError(f"Cannot write {error.filename or path}: {error.strerror or error}.") from error

    def _latest(self, history: History, target: str) -> str:
        """The specialist that a target means: for a cluster, the one of it that serves and moved last."""
        if target in history.stages or any(now.name == target for now in history.stages.values()):
            return find(history, target)
        clusters = clusters_of(self.paths, history, self.paths.verifier())
        of_cluster = [now for now in history.stages.values() if target in clusters[now.specialist]]
        if not of_cluster:
            known = [*history.stages, *sorted({now.name for now in history.stages.values()})]
            raise NotFoundError(f"No specialist or cluster of one is called {target}; {did_you_mean(target, known)}.")
        return max(of_cluster, key=_serves_and_moved).specialist


def clusters_of(paths: MadePaths, history: History, verifier: Verifier) -> dict[str, tuple[str, ...]]:
    """Return each registered specialist's clusters; none for one whose manifest does not hold."""
    found: dict[str, tuple[str, ...]] = {}
    for specialist, digest in history.manifests.items():
        try:
            found[specialist] = read_manifest(paths, specialist, digest, verifier).clusters
        except StorageError:
            found[specialist] = ()
    return found


def find(history: History, name: str) -> str:
    """Return the id that an id or a short name stands for. Raises NotFoundError, BadInputError when it is several."""
    if name in history.stages:
        return name
    versions = [specialist for specialist in history.stages if name_of(specialist) == name]
    if len(versions) > 1:
        shown = (f"{specialist} ({history.stages[specialist].place})" for specialist in versions)
        raise BadInputError(f"{name} has several versions; name one: {', '.join(shown)}")
    if not versions:
        known = [*history.stages, *sorted({now.name for now in history.stages.values()})]
        raise NotFoundError(f"No specialist {name} is registered; {did_you_mean(name, known)}")
    return versions[0]


def _serves_and_moved(now: StageNow) -> tuple[bool, int]:
    return serves_callers(now.stage), now.steps[-1].seq if now.steps else 0
