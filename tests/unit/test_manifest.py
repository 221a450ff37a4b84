"""A manifest: named by its content, believed only as it was signed and in its own place."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from registry.artifacts import FileDigest
from registry.entries import CanaryEntry, TemplateEntry
from registry.errors import BadInputError, IntegrityError
from registry.identifiers import digest_of
from registry.manifest import check_weights, completed, open_manifest, seal_manifest, seal_weights
from registry.signing import Statement
from tests.unit.made_specialists import keys, manifest

FILES = (FileDigest("adapter_config.json", 30, "1" * 64), FileDigest("adapter_model.safetensors", 90, "2" * 64))
WHOLE = completed(
    manifest(template=TemplateEntry(answer="json", stop=("\n",)), canary=CanaryEntry(prompt="hi\n", text="{}")),
    "a" * 64,
)


def test_it_is_named_by_what_it_is_made_of_and_not_by_when() -> None:
    later = msgspec.structs.replace(WHOLE, created_at_ms=99)
    assert later.id == WHOLE.id == f"sorter@{WHOLE.digest[:12]}"
    for change in (
        {"adapter_digest": "b" * 64},
        {"confidence_threshold": -0.5},
        {"template": None},
        {"base_digest": "c" * 64},
        {"dataset_sha256": "e" * 64},
        {"code_version": "2"},
        {"eval_scores": {"parcels": 0.5}},
    ):
        assert msgspec.structs.replace(WHOLE, **change).digest != WHOLE.digest


def test_what_was_sealed_is_read_back(tmp_path: Path) -> None:
    signer, verifier = keys(tmp_path)
    envelope = seal_manifest(WHOLE, FILES, signer)
    assert open_manifest(envelope, WHOLE.digest, verifier, "here") == WHOLE
    statement = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    assert [(s["name"], s["digest"]["sha256"]) for s in statement["subject"]] == [(f.name, f.sha256) for f in FILES]


def test_another_s_manifest_in_its_place_is_refused(tmp_path: Path) -> None:
    signer, verifier = keys(tmp_path)
    other = completed(manifest(confidence_threshold=-9.0), "a" * 64)
    with pytest.raises(IntegrityError, match=f"here: it is the manifest of {other.id}, in the place of"):
        open_manifest(seal_manifest(other, FILES, signer), WHOLE.digest, verifier, "here")


def test_an_older_program_s_manifest_keeps_its_digest(tmp_path: Path) -> None:
    """Fields that come later have defaults; the name was given over what was signed then."""
    signer, verifier = keys(tmp_path)
    predicate = msgspec.to_builtins(WHOLE)
    del predicate["evaluation"]
    digest = digest_of({key: value for key, value in predicate.items() if key != "created_at_ms"})
    envelope = signer.sign(Statement((), "urn:journeyman:specialist-manifest:v1", predicate))
    assert open_manifest(envelope, digest, verifier, "here") == WHOLE


def test_a_configuration_that_is_not_the_one_of_its_digest_is_refused(tmp_path: Path) -> None:
    signer, verifier = keys(tmp_path)
    swapped = msgspec.structs.replace(WHOLE, training={"learning_rate": 9})
    with pytest.raises(IntegrityError, match="training configuration is not the one"):
        open_manifest(seal_manifest(swapped, FILES, signer), swapped.digest, verifier, "here")


def test_any_other_signed_thing_is_no_manifest(tmp_path: Path) -> None:
    signer, verifier = keys(tmp_path)
    with pytest.raises(IntegrityError, match="a signed urn:x, not a specialist's manifest"):
        open_manifest(signer.sign(Statement((), "urn:x", {})), WHOLE.digest, verifier, "here")
    wrong = signer.sign(Statement((), "urn:journeyman:specialist-manifest:v1", {"name": "x"}))
    with pytest.raises(IntegrityError, match=r"not a manifest this version knows: .*missing required field"):
        open_manifest(wrong, WHOLE.digest, verifier, "here")


def test_digests_are_filled_in_and_wrong_ones_refused() -> None:
    assert WHOLE.adapter_digest == "a" * 64
    assert WHOLE.training_digest == digest_of(WHOLE.training)
    with pytest.raises(BadInputError, match="adapter_digest is bbbb"):
        completed(manifest(adapter_digest="b" * 64), "a" * 64)
    with pytest.raises(BadInputError, match="training_digest is bbbb"):
        completed(manifest(training_digest="b" * 64), "a" * 64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "No Spaces"}, r"\$\.name"),
        ({"clusters": ()}, r"\$\.clusters"),
        ({"eval_scores": {"parcels": 1.5}}, r"\$\.eval_scores"),
        ({"confidence_threshold": 0.5}, r"\$\.confidence_threshold"),
        ({"dataset_sha256": "short"}, r"\$\.dataset_sha256"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_with_the_place(change: dict, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        completed(manifest(**change), "a" * 64)


def test_the_weights_signature_has_the_layout_of_openssf_model_signing(tmp_path: Path) -> None:
    signer, verifier = keys(tmp_path)
    bundle = json.loads(seal_weights(WHOLE.id, FILES, signer))
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert len(statement["subject"]) == 1 and statement["subject"][0]["name"] == WHOLE.id
    assert statement["predicate"]["resources"][1] == {
        "name": "adapter_model.safetensors",
        "algorithm": "sha256",
        "digest": "2" * 64,
    }
    check_weights(json.dumps(bundle).encode(), WHOLE.id, FILES, verifier, "here")


def test_a_weights_signature_over_other_files_or_of_another_specialist_is_refused(tmp_path: Path) -> None:
    signer, verifier = keys(tmp_path)
    bundle = seal_weights(WHOLE.id, FILES, signer)
    other = (FILES[0], FileDigest("adapter_model.safetensors", 90, "3" * 64))
    with pytest.raises(IntegrityError, match="here: it signs other files"):
        check_weights(bundle, WHOLE.id, other, verifier, "here")
    with pytest.raises(IntegrityError, match="here: it signs other files"):
        check_weights(bundle, "labels@" + "0" * 12, FILES, verifier, "here")
    with pytest.raises(IntegrityError, match="here: not a signature bundle"):
        check_weights(b"{}", WHOLE.id, FILES, verifier, "here")
    manifest_envelope = {"dsseEnvelope": json.loads(seal_manifest(WHOLE, FILES, signer))}
    with pytest.raises(IntegrityError, match="not a signature over weights"):
        check_weights(json.dumps(manifest_envelope).encode(), WHOLE.id, FILES, verifier, "here")
