"""API keys, hashed at rest: who a presented key belongs to."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from registry.errors import AuthenticationError, ConfigError

Role = Literal["caller", "operator"]


class Identity(Struct, frozen=True):
    """Whom a key stands for."""

    tenant: str = "default"
    key_id: str = "anonymous"
    role: Role = "caller"


class KeyEntry(Struct, frozen=True):
    """A key as it is stored: its digest, never itself."""

    id: str
    sha256: str
    tenant: str = "default"
    role: Role = "caller"
    created_at: str = ""
    revoked: bool = False


class KeyRing:
    """The keys of one gateway."""

    def __init__(self, entries: list[KeyEntry], *, loopback: bool) -> None:
        self._by_digest = {entry.sha256: entry for entry in entries}
        self._loopback = loopback

    @classmethod
    def load(cls, path: Path, *, loopback: bool) -> KeyRing:
        """Read a key file; a missing one holds no keys. Raises ConfigError."""
        if not path.exists():
            return cls([], loopback=loopback)
        try:
            return cls(msgspec.json.decode(path.read_bytes(), type=list[KeyEntry]), loopback=loopback)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}: {error}") from None

    def has_keys(self) -> bool:
        """Whether any key may be used."""
        return any(not entry.revoked for entry in self._by_digest.values())

    def authenticate(self, presented: str | None) -> Identity:
        """Return whom the key stands for. Raises AuthenticationError, the same for unknown and revoked keys."""
        if not self._by_digest and self._loopback:
            return Identity(role="operator")
        digest = hashlib.sha256((presented or "").encode()).hexdigest()
        entry = self._by_digest.get(digest)
        if entry is None or entry.revoked or not hmac.compare_digest(entry.sha256, digest):
            raise AuthenticationError("The API key is missing, unknown or revoked.")
        return Identity(entry.tenant, entry.id, entry.role)
