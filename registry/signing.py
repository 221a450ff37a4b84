"""Ed25519 signatures over in-toto statements, in DSSE envelopes; and who is trusted to make them.

DSSE (github.com/secure-systems-lab/dsse, v1.0.2) signs the payload together with its type. A key's id is the sha256 of
its public half (DER, SubjectPublicKeyInfo). Knows nothing of what a statement says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct, field

from .errors import EnvironmentFaultError, IntegrityError
from .private_files import make_private_folder, write_draft, write_private

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
KEY_FILE: Final = "ed25519.pem"
TRUSTED: Final = "trusted"

_ENCODER: Final = msgspec.json.Encoder(order="sorted")


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """One signature of an envelope."""

    keyid: str
    sig: str
    """Base64."""


class Envelope(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A DSSE envelope."""

    payload_type: str
    payload: str
    """Base64."""
    signatures: tuple[Signature, ...]


class Subject(Struct, frozen=True, forbid_unknown_fields=True):
    """What a statement is about: a name and its digests by algorithm."""

    name: str
    digest: dict[str, str]


class Statement(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """An in-toto Statement v1."""

    subject: tuple[Subject, ...]
    predicate_type: str
    predicate: dict[str, Any]
    type_: str = field(name="_type", default=STATEMENT_TYPE)


class Signed(Struct, frozen=True):
    """A statement whose signature holds, who signed it, and the sha256 of what was signed."""

    statement: Statement
    key_id: str
    digest: str


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a DSSE signature is over (its pre-authentication encoding)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return the sha256, in hex, of a public key."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


class Signer:
    """Signs with one private key, which never leaves this value."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = key_id_of(key.public_key())

    @classmethod
    def load_or_create(cls, folder: Path) -> Signer:
        """Return the signer whose key is in a folder; at first use the key is made and trusted.

        The folder is made 0700 and the key 0600. Raises EnvironmentFaultError when the key cannot be read or made.
        """
        path = folder / KEY_FILE
        try:
            if not path.exists():
                _make_key(folder)
            return cls.load(path)
        except OSError as error:
            raise EnvironmentFaultError(f"Cannot make the signing key {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Return the signer of a private key's PEM file. Raises EnvironmentFaultError; OSError when it is not there."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise EnvironmentFaultError(
                f"{path} is no Ed25519 key in PEM without a password: restore it from a backup."
            )
        return cls(key)

    def sign(self, statement: Statement) -> bytes:
        """Return the statement in a signed envelope, as one line of JSON without its end."""
        payload = _ENCODER.encode(statement)
        signature = self._key.sign(pae(PAYLOAD_TYPE, payload))
        signed = Signature(self.key_id, base64.b64encode(signature).decode())
        return msgspec.json.encode(Envelope(PAYLOAD_TYPE, base64.b64encode(payload).decode(), (signed,)))

    def public_pem(self) -> bytes:
        """Return the public half, which another machine needs in its `trusted` folder."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class Verifier:
    """Opens envelopes that one of the trusted keys has signed."""

    def __init__(self, folder: Path) -> None:
        """Read every `*.pem` of a folder. Raises IntegrityError, naming the file, for one that is no public key."""
        self.folder = folder
        self._keys: dict[str, tuple[Ed25519PublicKey, Path]] = {}
        for path in sorted(folder.glob("*.pem")):
            key = _public_key(path)
            self._keys[key_id_of(key)] = key, path

    @property
    def key_ids(self) -> frozenset[str]:
        """The trusted keys."""
        return frozenset(self._keys)

    def keys(self) -> dict[str, Path]:
        """Each trusted key's id and the file it was read from."""
        return {key_id: path for key_id, (_, path) in self._keys.items()}

    def open(self, envelope: bytes, place: str) -> Signed:
        """Return what was signed. Raises IntegrityError, beginning with `place`, unless a trusted key signed it."""
        try:
            opened = msgspec.json.decode(envelope, type=Envelope)
            payload = base64.b64decode(opened.payload, validate=True)
        except (msgspec.MsgspecError, UnicodeError, binascii.Error) as error:
            raise IntegrityError(f"{place}: not a signed envelope ({error}). Restore it from a backup.") from None
        key_id = self._signer_of(opened, payload, place)
        try:
            statement = msgspec.json.decode(payload, type=Statement)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise IntegrityError(f"{place}: signed, but no in-toto statement ({error}).") from None
        if statement.type_ != STATEMENT_TYPE:
            raise IntegrityError(f"{place}: its statement is a {statement.type_}, not {STATEMENT_TYPE}.")
        return Signed(statement, key_id, hashlib.sha256(payload).hexdigest())

    def _signer_of(self, envelope: Envelope, payload: bytes, place: str) -> str:
        if envelope.payload_type != PAYLOAD_TYPE:
            raise IntegrityError(f"{place}: its payload is {envelope.payload_type}, not {PAYLOAD_TYPE}.")
        for signature in envelope.signatures:
            if signature.keyid not in self._keys:
                continue
            try:
                raw = base64.b64decode(signature.sig, validate=True)
                self._keys[signature.keyid][0].verify(raw, pae(PAYLOAD_TYPE, payload))
            except (InvalidSignature, binascii.Error):
                raise IntegrityError(
                    f"{place}: the signature of key {signature.keyid[:16]} does not fit: it was changed after it was "
                    "signed. Restore it from a backup."
                ) from None
            return signature.keyid
        named = ", ".join(signature.keyid[:16] for signature in envelope.signatures) or "nobody"
        raise IntegrityError(
            f"{place}: signed by {named}, and no such key is trusted. If you trust it, put its public key (PEM) into "
            f"{self.folder}."
        )


def _make_key(folder: Path) -> None:
    """Make a key unless another process was faster; its public half goes among the trusted ones first."""
    trusted = make_private_folder(make_private_folder(folder) / TRUSTED)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = trusted / f"{key_id_of(key.public_key())[:16]}.pem"
    draft = write_draft(folder / KEY_FILE, pem)
    write_private(public, Signer(key).public_pem())
    try:
        os.link(draft, folder / KEY_FILE)
    except FileExistsError:
        public.unlink()
    finally:
        draft.unlink()


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise IntegrityError(f"{path} is no Ed25519 public key in PEM: remove it, or put the right one there.")
    return key
