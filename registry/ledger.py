"""The ledger of stage moves: append-only, every entry signed and chained to the one before.

One entry a line, a DSSE envelope. Beside the signing key lies a signed note of the last entry (the head), because a
chain by itself cannot tell that its end was cut off. Knows nothing of manifests or adapters.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from .errors import BadInputError, IntegrityError, StorageError
from .private_files import FILE_MODE, make_private_folder, sync_folder, write_private
from .signing import Signer, Statement, Subject, Verifier
from .stage_moves import Move, Stages, after_moves

ENTRY_TYPE: Final = "urn:journeyman:stage-move:v1"
HEAD_TYPE: Final = "urn:journeyman:ledger-head:v1"
FILE: Final = "ledger.jsonl"
START: Final = "0" * 64
"""What the first entry names as the one before it."""
MAX_TEXT: Final = 2_000


class LedgerEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry: who moved what, when and why. Its moves count together or not at all."""

    seq: Annotated[int, Meta(ge=1)]
    """Counted from one."""
    previous: str
    """The digest of the entry before."""
    kind: Literal["registered", "moved"]
    at_ms: int
    moves: Annotated[tuple[Move, ...], Meta(min_length=1)]
    """First the one that was asked for, then those that follow from it."""
    manifest: str = ""
    """When registered: the digest of the specialist's manifest."""
    actor: str = ""
    reason: str = ""
    evidence: str = ""
    """The digest, or the name, of what spoke for it."""
    undoes: int | None = None
    """The number of the entry whose promotion this one takes back."""


class SignedEntry(Struct, frozen=True):
    """An entry that was verified, its digest (it is its id), and the key that signed it."""

    entry: LedgerEntry
    digest: str
    key_id: str


class Draft(Struct, frozen=True, kw_only=True):
    """An entry before it has a number."""

    moves: tuple[Move, ...]
    actor: str
    reason: str = ""
    evidence: str = ""
    manifest: str = ""
    undoes: int | None = None


class History(Struct, frozen=True):
    """A verified ledger: its entries, and where they leave every specialist."""

    entries: tuple[SignedEntry, ...] = ()
    stages: Stages = msgspec.field(default_factory=dict)

    @property
    def manifests(self) -> dict[str, str]:
        """The digest of each specialist's manifest."""
        registered = (signed.entry for signed in self.entries if signed.entry.kind == "registered")
        return {entry.moves[0].specialist: entry.manifest for entry in registered}


class _Known(Struct, frozen=True):
    """What was verified already: replaced as a whole, so that threads may read at once."""

    history: History = msgspec.field(default_factory=History)
    lines: tuple[bytes, ...] = ()
    keys: frozenset[str] = frozenset()


class Ledger:
    """The ledger in a folder. Any number of processes may append and read at once."""

    def __init__(self, folder: Path, head: Path) -> None:
        """`head` is where the note of the last entry lies. Touches no disk."""
        self.path = folder / FILE
        self.head = head
        self._known = _Known()

    def read(self, verifier: Verifier) -> History:
        """Return the verified history; entries that were verified before are only compared.

        Raises IntegrityError, naming the line, for a ledger that was edited, reordered, cut, or signed by a stranger;
        StorageError when it cannot be read.
        """
        head = self._read_head(verifier)  # before the ledger, which may grow meanwhile
        lines = self._lines()
        history = self._continued(lines, verifier)
        self._check_head(history, head)
        self._known = _Known(history, tuple(lines), verifier.key_ids)
        return history

    def append(self, draft: Draft, signer: Signer, verifier: Verifier) -> SignedEntry:
        """Add an entry and return it once it is on the disk.

        Raises BadInputError for moves that the stages do not allow now, IntegrityError as `read` does (nothing is added
        to a ledger that does not hold), StorageError when it cannot be written.
        """
        for name, text in (("reason", draft.reason), ("evidence", draft.evidence), ("actor", draft.actor)):
            if len(text) > MAX_TEXT:
                raise BadInputError(f"{name} is {len(text)} characters long, and {MAX_TEXT} are allowed", param=name)
        try:
            make_private_folder(self.path.parent)
            with self._locked() as fd:
                history = self.read(verifier)
                entry = _numbered(draft, history)
                after_moves(history.stages, entry.moves, entry.seq, undoing=entry.undoes is not None)
                line = signer.sign(_statement(entry, history.manifests))
                signed = _opened(line, verifier, f"{self.path}: the new entry")
                self._write(fd, line)
                self._write_head(signed, signer)
        except OSError as error:
            raise StorageError(f"Cannot write {error.filename or self.path}: {error.strerror or error}.") from error
        return signed

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _lines(self) -> list[bytes]:
        """Whole lines; what stands behind the last line's end is being written, or was never acknowledged."""
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"Cannot read {self.path}: {error.strerror}.") from error

    def _continued(self, lines: Sequence[bytes], verifier: Verifier) -> History:
        """The history of the lines; those that are known already are not verified again."""
        seen = self._known
        known = seen.history if seen.keys == verifier.key_ids else History()
        self._refuse_other_past(lines, seen.lines)
        entries, stages = list(known.entries), dict(known.stages)
        for number, line in enumerate(lines[len(entries) :], start=len(entries) + 1):
            place = f"{self.path}:{number}"
            signed = _opened(line, verifier, place)
            _check_chain(signed.entry, entries[-1] if entries else None, place)
            try:
                undoing = signed.entry.undoes is not None
                stages = after_moves(stages, signed.entry.moves, signed.entry.seq, undoing=undoing)
            except BadInputError as error:
                raise IntegrityError(f"{place}: signed, but not a move that was possible: {error.message}") from None
            entries.append(signed)
        return History(tuple(entries), stages)

    def _refuse_other_past(self, lines: Sequence[bytes], seen: Sequence[bytes]) -> None:
        """A ledger only grows: what was read before must still be there, even if an older state holds by itself."""
        for number, known in enumerate(seen, start=1):
            if len(lines) < number:
                raise IntegrityError(f"{self.path}:{number}: entries from here on are gone. {_RESTORE}")
            if lines[number - 1] != known:
                raise IntegrityError(f"{self.path}:{number}: the entry was changed after it was read. {_RESTORE}")

    def _write(self, fd: int, line: bytes) -> None:
        """Append a line, whole or not at all."""
        end = self.path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(fd, end)  # takes back what a killed process left of a line
        try:
            if os.write(fd, line + b"\n") != len(line) + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(fd)
            if not end:
                sync_folder(self.path.parent)
        except OSError:
            os.ftruncate(fd, end)
            raise

    def _read_head(self, verifier: Verifier) -> tuple[int, str] | None:
        try:
            envelope = self.head.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"Cannot read {self.head}: {error.strerror}.") from error
        statement = verifier.open(envelope, str(self.head)).statement
        if statement.predicate_type != HEAD_TYPE:
            raise IntegrityError(f"{self.head}: a signed {statement.predicate_type}, not the ledger's head.")
        return int(statement.predicate["seq"]), str(statement.predicate["digest"])

    def _write_head(self, last: SignedEntry, signer: Signer) -> None:
        subject = Subject(self.path.name, {"sha256": last.digest})
        predicate = {"seq": last.entry.seq, "digest": last.digest}
        write_private(self.head, signer.sign(Statement((subject,), HEAD_TYPE, predicate)))

    def _check_head(self, history: History, head: tuple[int, str] | None) -> None:
        """The ledger may be an entry ahead of its head (a kill between the two), never behind it."""
        length = len(history.entries)
        if head is None:
            if length > 1:
                raise IntegrityError(f"{self.head} is missing, so the ledger's end cannot be checked. {_RESTORE}")
            return
        seq, digest = head
        if length < seq:
            raise IntegrityError(
                f"{self.path} ends after entry {length}, and {seq} were written: its end was cut off. {_RESTORE}"
            )
        if history.entries[seq - 1].digest != digest:
            raise IntegrityError(f"{self.path}:{seq}: not the entry that {self.head} was written for. {_RESTORE}")


_RESTORE: Final = "Restore the ledger and its head from a backup."


def _numbered(draft: Draft, history: History) -> LedgerEntry:
    last = history.entries[-1] if history.entries else None
    return LedgerEntry(
        seq=last.entry.seq + 1 if last else 1,
        previous=last.digest if last else START,
        kind="registered" if draft.moves[0].before is None else "moved",
        at_ms=int(time.time() * 1000),
        moves=draft.moves,
        manifest=draft.manifest,
        actor=draft.actor,
        reason=draft.reason,
        evidence=draft.evidence,
        undoes=draft.undoes,
    )


def _statement(entry: LedgerEntry, manifests: Mapping[str, str]) -> Statement:
    """The entry as an in-toto statement about the manifests of the specialists that it moves."""
    known = {**manifests, entry.moves[0].specialist: entry.manifest} if entry.manifest else manifests
    subjects = tuple(Subject(move.specialist, {"sha256": known[move.specialist]}) for move in entry.moves)
    return Statement(subjects, ENTRY_TYPE, msgspec.to_builtins(entry))


def _opened(line: bytes, verifier: Verifier, place: str) -> SignedEntry:
    signed = verifier.open(line, place)
    if signed.statement.predicate_type != ENTRY_TYPE:
        raise IntegrityError(f"{place}: a signed {signed.statement.predicate_type}, not a ledger entry.")
    try:
        entry = msgspec.convert(signed.statement.predicate, LedgerEntry)
    except msgspec.ValidationError as error:
        raise IntegrityError(f"{place}: signed, but not an entry this version knows: {error}.") from None
    return SignedEntry(entry, signed.digest, signed.key_id)


def _check_chain(entry: LedgerEntry, before: SignedEntry | None, place: str) -> None:
    """Each entry names its number and the digest of the one before, so none can be dropped, moved or repeated."""
    number = before.entry.seq + 1 if before else 1
    if entry.seq != number:
        raise IntegrityError(
            f"{place}: entry {entry.seq} stands where {number} belongs: a line was dropped, moved or repeated. "
            f"{_RESTORE}"
        )
    if entry.previous != (before.digest if before else START):
        raise IntegrityError(f"{place}: it does not follow the entry above it: one of the two was replaced. {_RESTORE}")
