"""Small made specialists for tests: an adapter's folder that is one in shape, its manifest, and keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry.manifest import SpecialistManifest
from registry.signing import TRUSTED, Signer, Verifier


def safetensors(values: bytes = b"\x00" * 16) -> bytes:
    """A safetensors file with one tensor."""
    tensor = {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}
    header = json.dumps({"lora_A.weight": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + values


def make_folder(folder: Path, values: bytes = b"\x01" * 16, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(values))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def manifest(name: str = "sorter", **other: Any) -> SpecialistManifest:
    given: dict[str, Any] = {
        "name": name,
        "adapter_digest": "",
        "base": "small",
        "base_digest": "b" * 64,
        "dataset": "ds://demo/parcels@1.0.0",
        "dataset_sha256": "d" * 64,
        "clusters": ("parcels",),
        "training": {"learning_rate": 0.002, "epochs": 2},
        "eval_scores": {"parcels": 0.95},
        "created_at_ms": 1,
    }
    return SpecialistManifest(**given | other)


def keys(folder: Path) -> tuple[Signer, Verifier]:
    signer = Signer.load_or_create(folder)
    return signer, Verifier(folder / TRUSTED)


def flip(path: Path, at: int = -1) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
