"""Signatures: made by a key that only its owner reads, believed only from trusted keys."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from registry.errors import EnvironmentFaultError, IntegrityError
from registry.signing import KEY_FILE, TRUSTED, Signer, Statement, Subject, Verifier, pae
from tests.unit.made_specialists import keys

STATEMENT = Statement((Subject("a", {"sha256": "0" * 64}),), "urn:example:v1", {"text": "déjà", "n": 1})


def test_the_encoding_that_is_signed_is_dsse_s_own() -> None:
    """The example of the DSSE protocol, v1.0.2."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_what_was_signed_is_read_back_with_its_signer(tmp_path: Path) -> None:
    signer, verifier = keys(tmp_path)
    signed = verifier.open(signer.sign(STATEMENT), "here")
    assert (signed.statement, signed.key_id) == (STATEMENT, signer.key_id)
    assert Signer.load_or_create(tmp_path).key_id == signer.key_id


def test_the_envelope_is_one_that_others_can_open(tmp_path: Path) -> None:
    signer, _ = keys(tmp_path)
    envelope = json.loads(signer.sign(STATEMENT))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(envelope["payload"])
    said = json.loads(payload)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["subject"] == [{"name": "a", "digest": {"sha256": "0" * 64}}]
    assert said["predicateType"] == "urn:example:v1"
    key = Signer.load(tmp_path / KEY_FILE)._key.public_key()
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), pae(envelope["payloadType"], payload))


def test_keys_are_their_owner_s_alone(tmp_path: Path) -> None:
    keys(tmp_path / "signing")
    folder = tmp_path / "signing"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in folder.iterdir() if p.name not in (KEY_FILE, TRUSTED)] == []
    assert b"PRIVATE" not in next((folder / TRUSTED).iterdir()).read_bytes()


def test_many_first_uses_at_once_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: Signer.load_or_create(tmp_path).key_id, range(16)))
    assert len(ids) == 1 and Verifier(tmp_path / TRUSTED).key_ids == ids


@pytest.mark.parametrize("field", ["payload", "sig"])
def test_any_flipped_bit_is_refused(tmp_path: Path, field: str) -> None:
    signer, verifier = keys(tmp_path)
    whole = json.loads(signer.sign(STATEMENT))
    holder = whole if field == "payload" else whole["signatures"][0]
    good = base64.b64decode(holder[field])
    for bit in range(0, len(good) * 8, 7):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        holder[field] = base64.b64encode(bad).decode()
        with pytest.raises(IntegrityError, match=r"^there: the signature of key .* does not fit"):
            verifier.open(json.dumps(whole).encode(), "there")


def test_a_stranger_s_signature_is_refused_until_its_key_is_trusted(tmp_path: Path) -> None:
    stranger, _ = keys(tmp_path / "theirs")
    _, verifier = keys(tmp_path / "ours")
    envelope = stranger.sign(STATEMENT)
    with pytest.raises(IntegrityError, match=rf"{stranger.key_id[:16]}, and no such key is trusted.*{TRUSTED}"):
        verifier.open(envelope, "here")
    (tmp_path / "ours" / TRUSTED / "them.pem").write_bytes(stranger.public_pem())
    assert Verifier(tmp_path / "ours" / TRUSTED).open(envelope, "here").key_id == stranger.key_id


def test_a_signature_under_another_key_s_name_is_refused(tmp_path: Path) -> None:
    stranger, _ = keys(tmp_path / "theirs")
    signer, verifier = keys(tmp_path / "ours")
    envelope = json.loads(stranger.sign(STATEMENT))
    envelope["signatures"][0]["keyid"] = signer.key_id
    with pytest.raises(IntegrityError, match="does not fit"):
        verifier.open(json.dumps(envelope).encode(), "here")


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"{}",
        b"null",
        b"\xff",
        b'{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}',
        b'{"payloadType":"text/plain","payload":"e30=","signatures":[]}',
        b'{"payloadType":"application/vnd.in-toto+json","payload":"!","signatures":[]}',
    ],
)
def test_what_is_no_envelope_is_refused(tmp_path: Path, envelope: bytes) -> None:
    _, verifier = keys(tmp_path)
    with pytest.raises(IntegrityError, match=r"^here: "):
        verifier.open(envelope, "here")


def test_a_key_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("hello")
    with pytest.raises(EnvironmentFaultError, match=KEY_FILE):
        Signer.load_or_create(tmp_path)
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / KEY_FILE).write_bytes(other)
    with pytest.raises(EnvironmentFaultError, match="no Ed25519 key"):
        Signer.load_or_create(tmp_path)
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "x.pem").write_bytes(private)
    with pytest.raises(IntegrityError, match=r"x\.pem is no Ed25519 public key"):
        Verifier(tmp_path / "keys")
