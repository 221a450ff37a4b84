"""Adapters on disk, each in a folder named by its content: what is read is what was stored, or the file is named.

Only safetensors and plain text are stored: nothing that loading could execute. Knows nothing of signatures or stages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from .adapter_checks import adapter_problems
from .errors import BadInputError, IntegrityError, NotFoundError, StorageError
from .identifiers import digest_of
from .private_files import make_private_folder, sync_folder, write_private

ALLOWED = frozenset({".safetensors", ".json", ".txt", ".md"})
MAX_HEADER_BYTES = 100 * 1024 * 1024
"""Safetensors' own limit on its header."""

Stats = tuple[tuple[str, int, int, int, int], ...]


class FileDigest(Struct, frozen=True, order=True):
    """One file of an adapter: its name relative to the folder (with `/`), its size in bytes, its sha256 in hex."""

    name: str
    size: int
    sha256: str


def folder_digest(files: Sequence[FileDigest]) -> str:
    """Return the digest of a folder's content: the sha256, in hex, over its sorted (name, size, sha256)."""
    return digest_of([[file.name, file.size, file.sha256] for file in sorted(files)])


def files_of(folder: Path) -> tuple[FileDigest, ...]:
    """Return every file below a folder with its digest, sorted by name. Raises BadInputError or StorageError."""
    try:
        return tuple(sorted(_file_digest(folder, path) for path in _walk(folder)))
    except OSError as error:
        raise StorageError(f"Cannot read {error.filename or folder}: {error.strerror}.") from error


class ArtifactStore:
    """Folders under one root, each named by `folder_digest` of what is in it, with a listing beside it.

    The listing needs no signature: the folder's name is its digest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[str, Stats] = {}

    def put(self, folder: Path) -> str:
        """Copy an adapter's folder into the store and return its digest; one that is there already is checked.

        Raises BadInputError, naming the file, for a folder that is no LoRA adapter or holds anything but
        safetensors and text; StorageError when it cannot be written.
        """
        _refuse_bad(folder)
        try:
            make_private_folder(self.root)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".put-") as name:
                draft = Path(name) / "adapter"
                shutil.copytree(folder, draft, copy_function=_copy_private)
                _refuse_bad(draft)
                files = files_of(draft)
                digest = folder_digest(files)
                self._keep(draft, digest, files)
        except OSError as error:
            raise StorageError(f"Cannot store {folder} under {self.root}: {error.strerror or error}.") from error
        self.verify(digest)
        return digest

    def path(self, digest: str) -> Path:
        """Return where the files of a digest lie; says nothing of whether they do."""
        return self.root / digest

    def files(self, digest: str) -> tuple[FileDigest, ...]:
        """Return what a stored folder must hold. Raises NotFoundError, IntegrityError when the listing was changed."""
        path = self._listing(digest)
        try:
            files = msgspec.json.decode(path.read_bytes(), type=tuple[FileDigest, ...])
        except FileNotFoundError:
            raise NotFoundError(f"No adapter {digest} in {self.root}: restore it from a backup.") from None
        except OSError as error:
            raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
        except (msgspec.MsgspecError, UnicodeError):
            files = ()
        if folder_digest(files) != digest:
            raise IntegrityError(f"{path} was changed: it lists other files than {digest}. {_RESTORE}")
        return files

    def verify(self, digest: str) -> None:
        """Raise IntegrityError, naming the file, unless the folder holds exactly what its name says.

        A folder whose files' sizes, times and inodes are those of the last good check is not read again.
        """
        stats = self.stats(digest)
        if stats and self._verified.get(digest) == stats:
            return
        wanted = {file.name: file for file in self.files(digest)}
        folder = self.path(digest)
        if not folder.is_dir():
            raise IntegrityError(f"{folder} is missing. {_RESTORE}")
        try:
            found = {file.name: file for file in files_of(folder)}
        except BadInputError as error:
            raise IntegrityError(f"{error.message} {_RESTORE}") from None
        for name in sorted(wanted.keys() | found.keys()):
            _compare(folder / name, wanted.get(name), found.get(name))
        self._verified[digest] = stats

    def stats(self, digest: str) -> Stats:
        """Return what changes when a file of the folder is written or replaced, without reading any."""
        folder = self.path(digest)
        try:
            return tuple(sorted(_stat(folder, path) for path in _entries(folder)))
        except OSError:
            return ()

    def _keep(self, draft: Path, digest: str, files: Sequence[FileDigest]) -> None:
        """Move a copy to its place, unless a good one is there."""
        write_private(self._listing(digest), msgspec.json.encode(files))
        if self._holds(digest):
            return
        shutil.rmtree(self.path(digest), ignore_errors=True)
        draft.rename(self.path(digest))
        sync_folder(self.root)

    def _holds(self, digest: str) -> bool:
        try:
            self.verify(digest)
        except IntegrityError:
            return False
        return True

    def _listing(self, digest: str) -> Path:
        return self.root / f"{digest}.files.json"


_RESTORE = "It is not loaded: restore it from a backup, or train and register it again."


def _refuse_bad(folder: Path) -> None:
    problems = [f"{message} ({hint})" for _, message, hint in adapter_problems(folder)]
    if problems:
        raise BadInputError(f"{folder} cannot be registered: {'; '.join(problems)}.")
    for path in _walk(folder):
        name = path.relative_to(folder)
        if path.suffix not in ALLOWED:
            raise BadInputError(f"{folder} holds {name}: only {', '.join(sorted(ALLOWED))} files are stored.")
        if path.suffix == ".safetensors" and (reason := _not_safetensors(path)):
            raise BadInputError(f"{path} is no safetensors file: {reason}.")


def _not_safetensors(path: Path) -> str:
    """Say why a file cannot be one: its header's length and JSON are looked at, the tensors are not."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            return "its header is longer than the file"
        try:
            header = msgspec.json.decode(stream.read(length), type=dict[str, dict[str, object]])
        except (msgspec.MsgspecError, UnicodeError):
            return "its header is not JSON"
    ends = [t["data_offsets"] for name, t in header.items() if name != "__metadata__" and "data_offsets" in t]
    last = max((end[1] for end in ends if isinstance(end, list) and len(end) == 2), default=0)
    return "" if last == size - 8 - length else f"its tensors end at byte {last}, its data at {size - 8 - length}"


def _compare(path: Path, wanted: FileDigest | None, found: FileDigest | None) -> None:
    if wanted == found:
        return
    if found is None:
        raise IntegrityError(f"{path} is missing. {_RESTORE}")
    if wanted is None:
        raise IntegrityError(f"{path} was added: it is not part of the adapter. Remove it.")
    raise IntegrityError(
        f"{path} was changed: its sha256 is {found.sha256[:16]}... ({found.size} bytes), and {wanted.sha256[:16]}... "
        f"({wanted.size} bytes) was registered. {_RESTORE}"
    )


def _entries(folder: Path) -> Iterator[Path]:
    """Yield every file and link below a folder; a link is not followed."""
    for path, _, names in os.walk(folder, onerror=_raise):
        yield from (Path(path) / name for name in names)


def _walk(folder: Path) -> Iterator[Path]:
    for path, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            if (Path(path) / name).is_symlink():
                raise BadInputError(f"{Path(path) / name} is a link: an adapter holds its files itself.")
        for name in names:
            if not (Path(path) / name).is_file():
                raise BadInputError(f"{Path(path) / name} is no plain file.")
            yield Path(path) / name


def _raise(error: OSError) -> None:
    raise error


def _file_digest(folder: Path, path: Path) -> FileDigest:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileDigest(path.relative_to(folder).as_posix(), os.fstat(stream.fileno()).st_size, digest)


def _stat(folder: Path, path: Path) -> tuple[str, int, int, int, int]:
    stat = path.lstat()
    return path.relative_to(folder).as_posix(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _copy_private(source: str, target: str) -> str:
    """Copy a file's bytes and nothing else of it."""
    with Path(source).open("rb") as reader:
        write_private(Path(target), reader)
    return target
