"""A small fitted model as a folder: `manifest.json` and one file of arrays, both under one digest.

The arrays' file is named by its own digest and the manifest is replaced last, so that a reader sees the old model or
the new one, never half of each. Nothing is unpickled. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from registry.errors import ConfigError, StorageError
from registry.identifiers import digest_of

MANIFEST: Final = "manifest.json"
FORMAT_VERSION: Final = 1
_DIGEST_SHOWN: Final = 12

Arrays = Mapping[str, NDArray[Any]]


class Manifest(Struct, frozen=True, kw_only=True):
    """What a model folder says of itself."""

    format_version: int
    kind: str
    """What the arrays are: `text-embedder`, `cluster-classifier`."""
    arrays_file: str
    arrays_sha256: str
    facts: dict[str, Any]
    """What the kind needs besides the arrays, and what it was fitted on."""
    digest: str = ""
    """sha256 of all of the above."""

    @property
    def short_digest(self) -> str:
        """The first digits of the digest, for names."""
        return self.digest[:_DIGEST_SHOWN]


class ModelFolder(Struct, frozen=True):
    """A model as it was read or is to be written."""

    manifest: Manifest
    arrays: dict[str, NDArray[Any]]


def pack(kind: str, facts: dict[str, Any], arrays: Arrays) -> tuple[Manifest, bytes]:
    """Return the manifest and the bytes of the arrays' file. The same values give the same bytes."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    np.savez(buffer, **named)
    data = buffer.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    bare = Manifest(
        format_version=FORMAT_VERSION,
        kind=kind,
        arrays_file=f"arrays-{sha256[:_DIGEST_SHOWN]}.npz",
        arrays_sha256=sha256,
        facts=facts,
    )
    return msgspec.structs.replace(bare, digest=_digest(bare)), data


def write(folder: Path, manifest: Manifest, data: bytes) -> None:
    """Write the model into the folder, over an older one of any kind. Raises StorageError, naming the place."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_whole(folder / manifest.arrays_file, data)
        text = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1)
        _write_whole(folder / MANIFEST, text + b"\n")
        for old in folder.glob("arrays-*.npz"):
            if old.name != manifest.arrays_file:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot write the model {folder}: {error.strerror or error}.") from error


def read(folder: Path, kind: str) -> ModelFolder:
    """Read a model and prove it whole.

    Raises:
        ConfigError: no model there, another kind or format, or bytes that are not those of the digest.
    """
    try:
        manifest = read_manifest(folder, kind)
        data = (folder / manifest.arrays_file).read_bytes()
    except FileNotFoundError:  # replaced in between: the newer manifest names the newer arrays
        manifest = read_manifest(folder, kind)
        data = _read_arrays(folder / manifest.arrays_file)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror or error}.") from error
    if hashlib.sha256(data).hexdigest() != manifest.arrays_sha256:
        raise ConfigError(f"{folder / manifest.arrays_file}: damaged, its digest is not the manifest's. {_MEND}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return ModelFolder(manifest, {name: stored[name] for name in stored.files})
    except Exception as error:
        raise ConfigError(f"{folder / manifest.arrays_file}: not a file of arrays: {error}. {_MEND}") from error


def read_manifest(folder: Path, kind: str) -> Manifest:
    """Read and check the manifest alone: enough to see whether the model changed. Raises ConfigError as `read`."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: no model here ({error.strerror or error}). Fit one, or mend the path.") from error
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}. {_MEND}") from None
    if manifest.format_version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format version {manifest.format_version}, and this program reads {FORMAT_VERSION}. {_MEND}"
        )
    if manifest.kind != kind:
        raise ConfigError(f"{path}: holds a {manifest.kind}, where a {kind} is needed.")
    if manifest.digest != _digest(manifest) or "/" in manifest.arrays_file or "\\" in manifest.arrays_file:
        raise ConfigError(f"{path}: was changed after it was written, its digest is another. {_MEND}")
    return manifest


_MEND: Final = "Fit it again, or restore the folder."


def _digest(manifest: Manifest) -> str:
    return digest_of(msgspec.to_builtins(msgspec.structs.replace(manifest, digest="")))


def _read_arrays(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: missing ({error.strerror or error}). {_MEND}") from error


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside, sync, and move over: never half a file under the name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
