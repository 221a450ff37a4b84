"""Starts the embedded engine as a real process, for any test that needs one; and makes LoRA adapters that answer
visibly differently.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class EngineProcess:
    """A running engine: `url`, `model`, `process`. Use as a context manager, or call `stop`."""

    def __init__(self, process: subprocess.Popen[str], url: str, model: str) -> None:
        self.process = process
        self.url = url
        self.model = model

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_engine(*options: str) -> EngineProcess:
    """Starts `python -m specialists.engine` on a free port and waits until it is ready (prepares the weights if
    need be).
    """
    command = [sys.executable, "-m", "specialists.engine", "--port", "0", "--parent-pid", str(os.getpid()), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the engine ended with {process.wait()} before it was ready")
    ready = json.loads(line)
    return EngineProcess(process, ready["url"], ready["model"])


def model_folder() -> Path:
    """The default model's folder, prepared if need be."""
    from specialists.engine.settings import DEFAULT_MODEL, default_cache_dir
    from specialists.engine.weights import ensure_model

    return ensure_model(DEFAULT_MODEL, default_cache_dir())


def make_adapter(folder: Path, *, seed: int, scale: float, rank: int = 8, targets: str = "all-linear") -> Path:
    """A LoRA adapter whose B is random rather than zero, so that its answers are not the base model's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    modules: str | list[str] = targets if targets == "all-linear" else targets.split(",")
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    model.save_pretrained(str(folder))
    return folder
