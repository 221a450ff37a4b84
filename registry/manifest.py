"""What a specialist is made of, signed: base, adapter, data, template, configuration, scores and code.

A specialist has two envelopes: the manifest, over all of it, and one over the adapter's files in the layout of OpenSSF
model signing 1.0 (a Sigstore bundle; one subject whose digest is over the files' digests, the files as resources).
Knows nothing of stages or of where adapters are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from .artifacts import FileDigest
from .entries import CanaryEntry, Fraction, Name, Prices, SafetyGrade, SpecialistEntry, TemplateEntry
from .errors import BadInputError, IntegrityError
from .identifiers import digest_of
from .signing import Signer, Statement, Subject, Verifier

MANIFEST_TYPE: Final = "urn:journeyman:specialist-manifest:v1"
WEIGHTS_TYPE: Final = "https://model_signing/signature/v1.0"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

Sha256 = Annotated[str, Meta(pattern=r"^(sha256:)?[0-9a-f]{64}\Z")]


class SpecialistManifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that makes a specialist what it is."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
    adapter_digest: Sha256
    """`registry.artifacts.folder_digest` of the adapter's files."""
    base: Name
    """The `model_name` in registry.yaml that it was trained on."""
    base_digest: str
    """What identifies the base model's weights."""
    dataset: str
    """`ds://project/name@version`."""
    dataset_sha256: Sha256
    clusters: Annotated[tuple[Name, ...], Meta(min_length=1)]
    signatures: tuple[str, ...] = ()
    """The fixed parts of the calls that it was trained on."""
    template: TemplateEntry | None = None
    confidence_threshold: Annotated[float, Meta(le=0)] | None = None
    canary: CanaryEntry | None = None
    safety_grade: SafetyGrade | None = None
    prices: Prices | None = None
    training: dict[str, Any] = field(default_factory=dict)
    """The configuration that it was trained with."""
    training_digest: str = ""
    """`identifiers.digest_of` of it."""
    eval_scores: dict[str, Fraction] = field(default_factory=dict)
    """Cluster to quality on held-out examples."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """Whatever else was measured."""
    code_version: str = ""
    created_at_ms: int = 0

    @property
    def digest(self) -> str:
        """Sha256, in hex, over all of it but the time it was made: made twice from the same, it is the same."""
        return _predicate_digest(msgspec.to_builtins(self))

    @property
    def id(self) -> str:
        """`name@digest12`."""
        return f"{self.name}@{self.digest[:12]}"

    def entry(self, digest: str, adapter: str) -> SpecialistEntry:
        """Return the registry's entry, as a candidate, under the digest that it was registered with."""
        return SpecialistEntry(
            name=self.name,
            digest=digest,
            base=self.base,
            adapter=adapter,
            clusters=self.clusters,
            template=self.template,
            confidence_threshold=self.confidence_threshold,
            safety_grade=self.safety_grade,
            eval_scores=self.eval_scores,
            prices=self.prices,
            canary=self.canary,
        )


def completed(manifest: SpecialistManifest, adapter_digest: str) -> SpecialistManifest:
    """Return the manifest with the digests of its adapter and of its training configuration filled in.

    Raises BadInputError when it names another adapter or configuration, or holds what its own rules forbid.
    """
    for name, said, found in (
        ("adapter_digest", manifest.adapter_digest, adapter_digest),
        ("training_digest", manifest.training_digest, digest_of(manifest.training)),
    ):
        if said and said.removeprefix("sha256:") != found:
            raise BadInputError(f"{name} is {said[:19]}, and what was given has {found[:12]}", param=name)
    whole = msgspec.structs.replace(
        manifest, adapter_digest=adapter_digest, training_digest=digest_of(manifest.training)
    )
    try:
        return msgspec.convert(msgspec.to_builtins(whole), SpecialistManifest)
    except msgspec.ValidationError as error:
        raise BadInputError(f"the manifest of {manifest.name} is wrong: {error}") from None


def seal_manifest(manifest: SpecialistManifest, files: Sequence[FileDigest], signer: Signer) -> bytes:
    """Return the manifest in a signed envelope whose subjects are the adapter's files."""
    subjects = tuple(Subject(file.name, {"sha256": file.sha256}) for file in sorted(files))
    return signer.sign(Statement(subjects, MANIFEST_TYPE, msgspec.to_builtins(manifest)))


def open_manifest(envelope: bytes, digest: str, verifier: Verifier, place: str) -> SpecialistManifest:
    """Return the manifest that was registered under a digest.

    Raises IntegrityError, beginning with `place`, unless it is that one, signed by a trusted key. The digest is taken
    over what was signed, so that a manifest keeps its name when later versions know more fields.
    """
    signed = verifier.open(envelope, place)
    if signed.statement.predicate_type != MANIFEST_TYPE:
        raise IntegrityError(f"{place}: a signed {signed.statement.predicate_type}, not a specialist's manifest.")
    try:
        manifest = msgspec.convert(signed.statement.predicate, SpecialistManifest)
    except msgspec.ValidationError as error:
        raise IntegrityError(f"{place}: signed, but not a manifest this version knows: {error}.") from None
    found = _predicate_digest(signed.statement.predicate)
    if found != digest:
        raise IntegrityError(
            f"{place}: it is the manifest of {manifest.name}@{found[:12]}, in the place of the one of digest "
            f"{digest[:12]}. Restore the right one from a backup."
        )
    if manifest.training_digest != digest_of(manifest.training):
        raise IntegrityError(f"{place}: its training configuration is not the one whose digest it carries.")
    return manifest


def seal_weights(specialist: str, files: Sequence[FileDigest], signer: Signer) -> bytes:
    """Return a bundle in OpenSSF model signing's layout over an adapter's files."""
    resources = [{"name": f.name, "algorithm": "sha256", "digest": f.sha256} for f in sorted(files)]
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    subject = Subject(specialist, {"sha256": _root_digest(files)})
    envelope = signer.sign(
        Statement((subject,), WEIGHTS_TYPE, {"serialization": serialization, "resources": resources})
    )
    material = {"publicKey": {"hint": signer.key_id}, "tlogEntries": []}
    bundle = {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": msgspec.Raw(envelope)}
    return msgspec.json.encode(bundle)


def check_weights(bundle: bytes, specialist: str, files: Sequence[FileDigest], verifier: Verifier, place: str) -> None:
    """Raise IntegrityError, beginning with `place`, unless the bundle is signed over just these files."""
    try:
        envelope = bytes(msgspec.json.decode(bundle, type=_Bundle).dsse_envelope)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise IntegrityError(f"{place}: not a signature bundle ({error}). Restore it from a backup.") from None
    statement = verifier.open(envelope, place).statement
    if statement.predicate_type != WEIGHTS_TYPE:
        raise IntegrityError(f"{place}: a signed {statement.predicate_type}, not a signature over weights.")
    if statement.subject != (Subject(specialist, {"sha256": _root_digest(files)}),):
        raise IntegrityError(f"{place}: it signs other files than {specialist}'s. Restore it from a backup.")
    listed = _resources(statement.predicate)
    for file in files:
        if listed.get(file.name) != file.sha256:
            raise IntegrityError(f"{place}: it does not sign {file.name} as it is. Restore it from a backup.")


def _predicate_digest(predicate: Mapping[str, Any]) -> str:
    return digest_of({key: value for key, value in predicate.items() if key != "created_at_ms"})


class _Bundle(Struct, frozen=True, rename="camel"):
    dsse_envelope: msgspec.Raw


def _resources(predicate: Mapping[str, Any]) -> dict[str, str]:
    resources = predicate.get("resources")
    if not isinstance(resources, list):
        return {}
    return {str(r.get("name")): str(r.get("digest")) for r in resources if isinstance(r, dict)}


def _root_digest(files: Sequence[FileDigest]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in sorted(files))).hexdigest()
