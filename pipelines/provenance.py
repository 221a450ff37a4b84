"""The record of where an adapter came from: its job, its config and a digest of it. Plain values in a JSON file.

The signed manifest (registry/manifest.py) holds more and is what the gateway trusts; this record lies beside the
adapter for people and for tools that know the fine-tuning workflow's format.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipelines.run import code_version, write_atomically
from pipelines.training_config import TrainingConfig
from registry.errors import BadInputError, StorageError

PROVENANCE: Final = "provenance.json"
PIPELINE_VERSION: Final = "1.0.0"
FRAMEWORK: Final = "peft-lora"


def provenance_of(config: TrainingConfig, job_id: str) -> dict[str, Any]:
    """Return the record of a job; `timestamp` is in seconds since 1970. Raises BadInputError for an empty id."""
    if not job_id.strip():
        raise BadInputError("The job needs an id, for instance job_2026_11_21_001.", param="job_id")
    return {
        "job_id": job_id,
        "timestamp": int(time.time()),
        "config": config.to_dict(),
        "content_hash": content_hash(config.to_dict()),
        "pipeline_version": PIPELINE_VERSION,
        "framework": FRAMEWORK,
        "code_version": code_version(),
    }


def content_hash(config: Mapping[str, Any]) -> str:
    """Return the sha256, in hex, of a config's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def save_provenance(record: Mapping[str, Any], folder: Path) -> Path:
    """Write the record to `provenance.json` in the folder, made if need be. Raises StorageError."""
    path = folder / PROVENANCE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


def read_provenance(path: Path) -> dict[str, Any]:
    """Return a record. Raises StorageError when it cannot be read or its config is not the one of its digest."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        said, found = record["content_hash"], content_hash(record["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: is no provenance record ({error}). Train again, or restore it.") from error
    if said != found:
        raise StorageError(
            f"{path}: its config was changed after it was written: sha256 {found[:12]}, not {said[:12]}."
        )
    return record
