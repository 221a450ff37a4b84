"""A trained and evaluated adapter becomes a candidate: stored by its content, manifest signed, entered in the ledger.

What the manifest says is taken from the run's own manifests, so that a receipt leads back to every call.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import msgspec

from pipelines.datasets import Dataset
from pipelines.run import code_version, read_manifest
from registry.entries import CanaryEntry
from registry.errors import NotFoundError
from registry.manifest import SpecialistManifest
from registry.registrar import Note, Registrar

ACTOR: Final = "journeyman flywheel"
NOTHING: Final = 0.0
"""No answer's log-probabilities sum to more: nothing is believed until its shadow calibrates a threshold."""


def register(registrar: Registrar, run_folder: Path, dataset: Dataset, base: str) -> str:
    """Register the adapter that a run has trained and evaluated; return the specialist's id.

    `base` is the base model's name in registry.yaml. Doing it again changes nothing.

    Raises:
        NotFoundError: the run has not trained and evaluated.
        BadInputError: an adapter or a manifest that cannot be.
    """
    trained, evaluated = _facts(run_folder, "train"), _facts(run_folder, "evaluate")
    manifest = dataset.manifest
    cluster = manifest.cluster
    threshold = evaluated["threshold"]
    made = SpecialistManifest(
        name=specialist_name(cluster),
        adapter_digest="",
        base=base,
        base_digest=trained["base_digest"],
        dataset=dataset.uri,
        dataset_sha256=dataset.sha256,
        clusters=(cluster,),
        signatures=(manifest.template.signature,) if manifest.template.signature else (),
        template=manifest.template,
        confidence_threshold=NOTHING if threshold["threshold"] is None else min(threshold["threshold"], NOTHING),
        canary=msgspec.convert(trained["canary"], CanaryEntry | None),
        training=trained["config"],
        eval_scores={cluster: believed_quality(evaluated)},
        evaluation={name: evaluated[name] for name in ("specialist", "frontier", "threshold", "canary_holds")},
        code_version=code_version(),
        created_at_ms=int(time.time() * 1000),
    )
    return registrar.register(run_folder / "train" / "adapter", made, Note(ACTOR, f"trained on {dataset.uri}"))


def specialist_name(cluster: str) -> str:
    """The cluster's name as a specialist may be called."""
    kept = "".join(char if char.isalnum() or char in "._-" else "-" for char in cluster.lower()).strip("._-")
    return kept[:64] or "task"


def believed_quality(evaluated: dict[str, Any]) -> float:
    """P(right | believed) on held-out examples: what a caller gets. Of all answers where no threshold is justified."""
    threshold = evaluated["threshold"]
    if threshold["threshold"] is None or not threshold["coverage"]:
        return float(evaluated["specialist"]["exact"]["share"] or 0.0)
    return max(0.0, 1.0 - float(threshold["risk"]) / float(threshold["coverage"]))


def _facts(run_folder: Path, step: str) -> dict[str, Any]:
    manifest = read_manifest(run_folder / step)
    if manifest is None:
        raise NotFoundError(f"{run_folder / step} is not finished: run `journeyman flywheel {step}` first.")
    return manifest.facts
