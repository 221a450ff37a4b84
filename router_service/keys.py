"""Who a presented API key belongs to.

Follows the key file while the server runs: a new key works and a revoked one stops within a second. Fails closed: a
file that turned bad or vanished leaves the last good keys in force and never opens the door. Knows nothing of headers.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from registry.errors import AuthenticationError, ConfigError

from .key_file import KeyEntry, Role, digest, read

CHECK_EVERY_S = 1.0
"""How long a change of the file may go unseen."""

Clock = Callable[[], float]
_Stamp = tuple[int, int, int]


class Identity(Struct, frozen=True):
    """Whom a key stands for."""

    tenant: str = "default"
    key_id: str = "anonymous"
    role: Role = "caller"


class KeyRing:
    """The keys of one gateway. Safe to use from several threads."""

    def __init__(self, entries: Iterable[KeyEntry], *, loopback: bool) -> None:
        self._by_digest = {entry.sha256: entry for entry in entries}
        self._loopback = loopback
        self._had_keys = bool(self._by_digest)
        self._path: Path | None = None
        self._stamp: _Stamp | None = None
        self._clock: Clock = time.monotonic
        self._next_check_s = 0.0
        self._turn = threading.Lock()
        self.reload_error: str | None = None
        """Why the file as it is now is not in force; None when it is."""

    @classmethod
    def load(cls, path: Path, *, loopback: bool, clock: Clock = time.monotonic) -> KeyRing:
        """Read a key file and follow it; a missing one holds no keys. Raises ConfigError."""
        stamp = _stamp(path)
        ring = cls(read(path).keys, loopback=loopback)
        ring._path, ring._stamp, ring._clock = path, stamp, clock
        ring._next_check_s = clock() + CHECK_EVERY_S
        return ring

    def has_keys(self) -> bool:
        """Whether any key may be used."""
        return any(not entry.revoked for entry in self._by_digest.values())

    def authenticate(self, presented: str | None) -> Identity:
        """Return whom the key stands for. Raises AuthenticationError, the same for missing, unknown and revoked keys.

        Without a single key, revoked ones included, a loopback listener takes its callers for its operator.
        """
        if self._path is not None and self._clock() >= self._next_check_s:
            self._refresh()
        if not self._had_keys and self._loopback:
            return Identity(role="operator")
        found = digest(presented or "")
        entry = self._by_digest.get(found)
        if entry is None or entry.revoked or not hmac.compare_digest(entry.sha256, found):
            raise AuthenticationError("The API key is missing, unknown or revoked.")
        return Identity(entry.tenant, entry.id, entry.role)

    def _refresh(self) -> None:
        """Take the file's keys if it changed; another thread's turn is not waited for."""
        if self._path is None or not self._turn.acquire(blocking=False):
            return
        try:
            self._next_check_s = self._clock() + CHECK_EVERY_S
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._take(self._path, stamp)
        finally:
            self._turn.release()

    def _take(self, path: Path, stamp: _Stamp | None) -> None:
        self._stamp = stamp
        if stamp is None:
            self.reload_error = f"{path}: is gone; the keys it held last stay in force."
            return
        try:
            keys = read(path).keys
        except ConfigError as error:
            self.reload_error = error.message
            return
        self.reload_error = None
        self._by_digest = {entry.sha256: entry for entry in keys}
        self._had_keys = self._had_keys or bool(keys)


def _stamp(path: Path) -> _Stamp | None:
    """What changes when the file does; the inode too, as a replacement may have the same size and time."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino
