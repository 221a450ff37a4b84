"""What a training, or a dry run of one, tells: plain values, and the record that the manifest and metrics come from.

Knows no torch.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.training_config import TrainingConfig
from pipelines.training_data import TrainingData
from registry.entries import CanaryEntry

_CONFIG_OF_CHECKPOINTS: Final = "made-with.json"

Report = Callable[[str], None]


class Progress(Struct, frozen=True):
    """How far a training is."""

    step: int
    steps: int
    loss: float | None = None
    """Mean over the steps since the last report."""
    dev_loss: float | None = None


class Trained(Struct, frozen=True, kw_only=True):
    """What a training made, and how it went."""

    adapter: Path
    """In PEFT's layout."""
    steps: int
    epochs: float
    seconds: float
    examples: int
    left_out: int
    """Examples that were too long."""
    tokens: int
    """Without padding, over all epochs."""
    train_loss: float
    dev_losses: list[float]
    """In the order in which they were taken; the adapter is that of the least."""
    stopped_early: bool
    canary: CanaryEntry | None
    base_digest: str
    device: str
    precision: str
    """Of the matrix products: float32 or bfloat16."""
    peak_memory_bytes: int


class DryRun(Struct, frozen=True, kw_only=True):
    """What a training would take, from a few steps that change nothing."""

    steps: int
    examples: int
    left_out: int
    seconds: float
    """Estimate, without what loading and evaluations take."""
    step_seconds: list[float]
    memory_bytes: int
    """Most that this process (CPU) or the device (CUDA) held."""
    cost_usd: float | None
    """None when the config names no price."""
    trained_parameters: int
    all_parameters: int
    examples_shown: list[str]
    """Two examples; what is learnt stands between ⟦ and ⟧."""
    measured_seconds: float
    """What the dry run itself took."""


def training_record(config: TrainingConfig, data: TrainingData, trained: Trained) -> dict[str, Any]:
    """Return everything about a training as plain values: what the manifest and the metrics are made of."""
    facts: dict[str, Any] = msgspec.to_builtins(trained, enc_hook=str)
    return {
        "dataset": data.source,
        "dataset_sha256": data.sha256,
        "template": msgspec.to_builtins(data.template),
        "config": config.to_dict(),
        "config_digest": config.digest,
        **facts,
        "metrics": {"journeyman_training_jobs_total": 1, "journeyman_training_seconds": trained.seconds},
    }


def prepare_checkpoints(folder: Path, made_with: str, report: Report) -> str | None:
    """Return the newest whole checkpoint of the same config and data; those of others are removed."""
    mark = folder / _CONFIG_OF_CHECKPOINTS
    if not mark.is_file() or mark.read_text() != made_with:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mark.write_text(made_with)
        return None
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if newest is not None:
        report(f"going on from {newest.name}")
    return None if newest is None else str(newest)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' hints, which are about their own defaults, out of our output."""
    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "datasets", "accelerate")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
