"""The file of API keys: what is in it, how it is read, and how it is changed by one writer at a time.

Holds digests, never keys. A key has 256 random bits, so a plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from observations.state import make_folder
from registry.errors import ConfigError, EnvironmentFaultError, NotFoundError

Role = Literal["caller", "operator"]
TenantName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*\Z")]

NAME = "keys.json"
"""The file's name in the state folder."""
PREFIX = "jmk_"
"""Begins every key, so that secret scanners and people know one when they see it."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class KeyEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key as it is stored: its digest, never itself."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Lower-case hex digest of the key."""
    tenant: TenantName = "default"
    role: Role = "caller"
    created_at: str = ""
    """ISO 8601, UTC."""
    revoked: bool = False


class KeyFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of keys.json."""

    version: Literal[1] = 1
    keys: tuple[KeyEntry, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError, which decoding turns into an error with its place, for what is there twice."""
        for what in ("id", "sha256"):
            values = [getattr(entry, what) for entry in self.keys]
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} `{twice}` is there twice")


class NewKey(Struct, frozen=True):
    """A key that was just made; `secret` is shown once and kept nowhere."""

    secret: str
    entry: KeyEntry


def digest(secret: str) -> str:
    """Return what is stored in the key's place."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def read(path: Path) -> KeyFile:
    """Return the file's keys; a missing file holds none. Raises ConfigError, naming the place and the mend."""
    try:
        with path.open("rb") as source:
            mode = os.fstat(source.fileno()).st_mode
            text = source.read()
    except FileNotFoundError:
        return KeyFile()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    if mode & _WRITABLE_BY_OTHERS:
        raise ConfigError(f"{path}: other users may write to it, and so make themselves keys. Mend: chmod 600 {path}")
    try:
        return msgspec.json.decode(text, type=KeyFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mend = "Restore it from a backup, or move it away and make new keys with `journeyman keys add`."
        raise ConfigError(f"{path}: {error}. {mend}") from None


def add(path: Path, tenant: str, role: Role) -> NewKey:
    """Make a key and store its digest. Raises ConfigError or EnvironmentFaultError."""
    try:
        msgspec.convert(tenant, TenantName)
    except msgspec.ValidationError:
        raise ConfigError(
            f"`{tenant}` is no tenant name: 1 to 128 letters, digits and `._:@-`, beginning with a letter or a digit."
        ) from None
    secret = PREFIX + secrets.token_urlsafe(32)
    entry = KeyEntry(
        id=f"key_{secrets.token_hex(4)}",
        sha256=digest(secret),
        tenant=tenant,
        role=role,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _change(path, lambda keys: (*keys, entry))
    return NewKey(secret, entry)


def revoke(path: Path, key_id: str) -> KeyEntry:
    """Mark one key as revoked, for good. Raises NotFoundError, ConfigError or EnvironmentFaultError."""

    def changed(keys: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        if all(entry.id != key_id for entry in keys):
            raise NotFoundError(f"{path} has no key `{key_id}`. `journeyman keys ls` lists them.", param="id")
        return tuple(structs.replace(entry, revoked=True) if entry.id == key_id else entry for entry in keys)

    return next(entry for entry in _change(path, changed) if entry.id == key_id)


def _change(path: Path, change: Callable[[tuple[KeyEntry, ...]], tuple[KeyEntry, ...]]) -> tuple[KeyEntry, ...]:
    try:
        make_folder(path.parent)
        with _locked(path.with_suffix(".lock")):
            keys = change(read(path).keys)
            _write(path, KeyFile(keys=keys))
    except OSError as error:
        raise EnvironmentFaultError(f"{path}: cannot be written: {error.strerror}.") from None
    return keys


def _write(path: Path, content: KeyFile) -> None:
    """Replace the file whole, so that a reader sees the old one or the new one and never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
