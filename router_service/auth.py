"""Who is calling: the API key of a request, turned into a caller with everything that policy says about it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from policies.access import AccessPolicy, Tenant
from registry.errors import AuthenticationError

from .keys import Identity, KeyRing


class Caller(Struct, frozen=True):
    """A key and what its tenant may do."""

    key_id: str
    tenant: Tenant
    is_operator: bool = False
    """Whether it may see what belongs to other tenants."""


class Auth:
    """Asks the key ring; keyless calls pass only where there are no keys and the listener is loopback."""

    def __init__(self, keys: KeyRing, access: AccessPolicy) -> None:
        self._keys = keys
        self._access = access
        self._callers: dict[Identity, Caller] = {}

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Return the caller. Raises AuthenticationError."""
        presented = None
        for name, value in headers:
            if name == b"authorization":
                presented = _bearer(value)
            elif name == b"x-api-key" and presented is None:
                presented = value.decode("latin-1")
        return self._caller(self._keys.authenticate(presented))

    def _caller(self, identity: Identity) -> Caller:
        caller = self._callers.get(identity)
        if caller is None:
            caller = self._callers[identity] = Caller(
                key_id=identity.key_id,
                tenant=self._access.tenant(identity.tenant),
                is_operator=identity.role == "operator",
            )
        return caller


def _bearer(value: bytes) -> str:
    scheme, _, key = value.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AuthenticationError("Send the key as `Authorization: Bearer KEY`.")
    return key.strip()
