"""Datasets: immutable versions `ds://project/name@semver` under the state directory, made of recorded calls.

A version is a folder `datasets/NAME/SEMVER/` with train.jsonl, dev.jsonl, test.jsonl, shadow.jsonl, shapes.json,
card.md and, written last, manifest.json with the sha256 of each. It is never changed: other calls make another version,
the same calls give the version that is there. Format 1 had no shadow part. Knows nothing of training.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from pipelines.dataset_card import card
from pipelines.dataset_contents import Contents
from pipelines.dataset_split import PARTS, Part, SplitShares
from pipelines.loop_rows import read_rows, write_rows
from pipelines.render import Example, Shape
from registry.entries import TemplateEntry
from registry.errors import BadInputError, NotFoundError, StorageError
from registry.identifiers import digest_of

MANIFEST: Final = "manifest.json"
SHAPES: Final = "shapes.json"
CARD: Final = "card.md"
FORMAT_VERSION: Final = 2
_READABLE: Final = (1, FORMAT_VERSION)
_URI: Final = re.compile(r"ds://([a-z0-9][a-z0-9._-]*)/([a-z0-9][a-z0-9._-]*)@(\d+)\.(\d+)\.(\d+)\Z")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")


class DatasetUri(Struct, frozen=True, order=True):
    """`ds://project/name@semver`."""

    project: str
    name: str
    version: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> DatasetUri:
        """Read a uri. Raises BadInputError that shows the form."""
        match = _URI.match(text)
        if match is None:
            raise BadInputError(f"{text!r} is no dataset: write ds://project/name@1.0.0, in lower case.")
        return cls(match[1], match[2], (int(match[3]), int(match[4]), int(match[5])))

    @property
    def semver(self) -> str:
        """`1.0.0`."""
        return ".".join(map(str, self.version))

    def __str__(self) -> str:
        return f"ds://{self.project}/{self.name}@{self.semver}"


class FileFacts(Struct, frozen=True):
    """A file of a version."""

    sha256: str
    rows: int


class DatasetManifest(Struct, frozen=True, kw_only=True):
    """What a version says of itself. `sha256` is of all the rest but the time, so equal contents have equal digests."""

    format_version: int
    uri: str
    cluster: str
    template: TemplateEntry
    shares: SplitShares
    files: dict[str, FileFacts]
    lineage: dict[str, str]
    """What it was made of: digests of the steps' files, the run."""
    dropped: dict[str, int]
    """Calls that are not in it, by reason."""
    first_at_ms: int
    last_at_ms: int
    created_at_ms: int = 0
    sha256: str = ""

    @property
    def content_key(self) -> str:
        """Digest of what would be learnt: template, shapes and lines. Equal contents are one version."""
        files = {name: facts.sha256 for name, facts in self.files.items()}
        return digest_of((msgspec.to_builtins(self.template), msgspec.to_builtins(self.shares), files))


class Dataset(Struct, frozen=True):
    """A version on disk, checked against its manifest when it was opened."""

    folder: Path
    manifest: DatasetManifest

    @property
    def uri(self) -> str:
        """`ds://project/name@semver`."""
        return self.manifest.uri

    @property
    def sha256(self) -> str:
        """The manifest's digest; it covers every file."""
        return self.manifest.sha256

    def rows(self, part: Part) -> Iterator[Example]:
        """Yield the examples of a part in their stored order; none of a part that the version's format had not."""
        name = f"{part}.jsonl"
        return read_rows(self.folder / name, Example) if name in self.manifest.files else iter(())

    def sizes(self) -> dict[str, int]:
        """Return how many examples each part has."""
        files = self.manifest.files
        return {part: files[f"{part}.jsonl"].rows if f"{part}.jsonl" in files else 0 for part in PARTS}

    def shapes(self) -> dict[str, Shape]:
        """Return what answers must look like, by the digest that each example names."""
        return msgspec.json.decode((self.folder / SHAPES).read_bytes(), type=dict[str, Shape])

    def parts_of_calls(self) -> dict[str, Part]:
        """Return which part each call is in."""
        return {call_id: part for part in PARTS for row in self.rows(part) for call_id in row.call_ids}


class DatasetStore:
    """The datasets under one state directory."""

    def __init__(self, state: Path, project: str = "default") -> None:
        if not _NAME.match(project):
            raise BadInputError(f"The project {project!r} must be lower-case letters, digits, '.', '_' or '-'.")
        self._root = state / "datasets"
        self._project = project

    def add(self, name: str, contents: Contents, lineage: Mapping[str, str] | None = None) -> Dataset:
        """Write the contents as the next version of `name`, or return the version that already holds just this.

        Another template, shape or split raises the major number, other examples the minor one.
        Raises BadInputError for a name that cannot be used, StorageError when it cannot be written.
        """
        if not _NAME.match(name):
            raise BadInputError(f"The dataset name {name!r} must be lower-case letters, digits, '.', '_' or '-'.")
        (self._root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".building-", dir=self._root / name))
        try:
            manifest = _manifest_of(contents, dict(lineage or {}), _write_files(folder, contents))
            same = next((one for one in self.versions(name) if one.manifest.content_key == manifest.content_key), None)
            return same or self._publish(name, folder, manifest, contents)
        except OSError as error:
            raise StorageError(f"Cannot write the dataset {name}: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def open(self, uri: str) -> Dataset:
        """Open a version and check every byte. Raises NotFoundError, or StorageError naming the changed file."""
        wanted = DatasetUri.parse(uri)
        folder = self._root / wanted.name / wanted.semver
        if not (folder / MANIFEST).is_file():
            known = ", ".join(one.manifest.uri for one in self.versions(wanted.name)) or "none of this name"
            raise NotFoundError(f"There is no dataset {uri} under {self._root} ({known}).")
        dataset = read_dataset(folder)
        if dataset.uri != uri:
            raise NotFoundError(f"{folder} holds {dataset.uri}, not {uri}.")
        return dataset

    def latest(self, name: str) -> Dataset | None:
        """Return the newest version of a name, None when there is none."""
        versions = self.versions(name)
        return versions[-1] if versions else None

    def versions(self, name: str) -> list[Dataset]:
        """Return the versions of a name, the oldest first; manifests are read, files not checked."""
        folders = [path.parent for path in (self._root / name).glob(f"[0-9]*/{MANIFEST}")]
        found = [_opened(folder, _read_manifest(folder)) for folder in folders]
        return sorted(found, key=lambda one: DatasetUri.parse(one.uri).version)

    def earlier_parts(self, name: str) -> dict[str, Part]:
        """Return which part each call of any version is in; the newest version decides."""
        return {call_id: part for one in self.versions(name) for call_id, part in one.parts_of_calls().items()}

    def names(self) -> list[str]:
        """Return the names that have a version, sorted."""
        return sorted({path.parent.parent.name for path in self._root.glob(f"*/[0-9]*/{MANIFEST}")})

    def holding(self, call_ids: Iterable[str], name: str | None = None) -> dict[str, tuple[str, ...]]:
        """Return which versions, of one name or of all, hold any of the calls: uri to the call ids in it.

        What an erasure must remove. Raises StorageError, BadInputError for a version that cannot be read.
        """
        wanted = frozenset(call_ids)
        versions = (one for known in ([name] if name else self.names()) for one in self.versions(known))
        found = {one.uri: tuple(sorted(wanted & one.parts_of_calls().keys())) for one in versions}
        return {uri: held for uri, held in found.items() if held}

    def _publish(self, name: str, folder: Path, manifest: DatasetManifest, contents: Contents) -> Dataset:
        uri = DatasetUri(self._project, name, next_version(self.latest(name), manifest))
        manifest = structs.replace(manifest, uri=str(uri))
        manifest = structs.replace(manifest, sha256=digest_of_manifest(manifest), created_at_ms=time.time_ns() // 10**6)
        (folder / CARD).write_text(card(msgspec.to_builtins(manifest), contents.parts))
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        for path in folder.iterdir():
            path.chmod(0o400)
        target = self._root / name / uri.semver
        folder.rename(target)
        return Dataset(target, manifest)


def read_dataset(folder: Path) -> Dataset:
    """Open the version in a folder and check every byte. Raises StorageError naming the changed file."""
    raw = _read_manifest(folder)
    dataset = _opened(folder, raw)
    if _digest_of_raw(raw) != dataset.manifest.sha256:
        raise StorageError(f"{folder / MANIFEST}: was changed after it was written. Build the dataset again.")
    for name, facts in dataset.manifest.files.items():
        if _sha256(folder / name) != facts.sha256:
            raise StorageError(f"{folder / name}: is not what the manifest says. Restore it, or build another version.")
    return dataset


def next_version(before: Dataset | None, manifest: DatasetManifest) -> tuple[int, int, int]:
    """Return 1.0.0 at first; then a new major for another template, shape or split, else a new minor."""
    if before is None:
        return (1, 0, 0)
    major, minor, _ = DatasetUri.parse(before.uri).version
    old = before.manifest
    same_task = (old.template, old.shares, old.files[SHAPES].sha256) == (
        manifest.template,
        manifest.shares,
        manifest.files[SHAPES].sha256,
    )
    return (major, minor + 1, 0) if same_task else (major + 1, 0, 0)


def digest_of_manifest(manifest: DatasetManifest) -> str:
    """Return the digest of a manifest without its own digest and time."""
    return _digest_of_raw(msgspec.to_builtins(manifest))


def _digest_of_raw(raw: dict[str, Any]) -> str:
    """Over what was written, so that a version keeps its digest when later manifests have more fields."""
    return digest_of(raw | {"sha256": "", "created_at_ms": 0})


def _write_files(folder: Path, contents: Contents) -> dict[str, FileFacts]:
    for part in PARTS:
        write_rows(folder / f"{part}.jsonl", contents.parts[part])
    (folder / SHAPES).write_bytes(msgspec.json.encode(contents.shapes, order="sorted") + b"\n")
    rows = {f"{part}.jsonl": len(contents.parts[part]) for part in PARTS} | {SHAPES: len(contents.shapes)}
    return {name: FileFacts(_sha256(folder / name), count) for name, count in rows.items()}


def _manifest_of(contents: Contents, lineage: dict[str, str], files: dict[str, FileFacts]) -> DatasetManifest:
    times = [example.at_ms for examples in contents.parts.values() for example in examples]
    return DatasetManifest(
        format_version=FORMAT_VERSION,
        uri="",
        cluster=contents.cluster,
        template=contents.template,
        shares=contents.shares,
        files=files,
        lineage=lineage,
        dropped=contents.dropped,
        first_at_ms=min(times, default=0),
        last_at_ms=max(times, default=0),
    )


def _opened(folder: Path, raw: dict[str, Any]) -> Dataset:
    try:
        if raw["format_version"] == 1:
            raw = raw | {"shares": {"shadow": 0.0} | raw["shares"]}
        return Dataset(folder, msgspec.convert(raw, DatasetManifest))
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise StorageError(f"{folder / MANIFEST}: cannot be read ({error}). Build the dataset again.") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = msgspec.json.decode((folder / MANIFEST).read_bytes())
        known = raw.get("format_version") in _READABLE
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, AttributeError) as error:
        raise StorageError(f"{folder / MANIFEST}: cannot be read ({error}). Build the dataset again.") from error
    if not known:
        raise StorageError(f"{folder / MANIFEST}: this program reads the formats 1 to {FORMAT_VERSION} only.")
    return raw


def _sha256(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}). Restore it.") from error
