"""The PEFT fine-tuning workflow as one class: config, checks, dry run, provenance, training.

A thin front of the modules that do the work, for scripts and notebooks. The torch libraries are imported when a dry run
or a training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipelines.provenance import provenance_of, save_provenance
from pipelines.training_config import TrainingConfig, check, findings_of, make_config
from pipelines.training_data import TrainingData, read_data
from pipelines.training_result import Progress, training_record
from registry.errors import BadInputError, EnvironmentFaultError


class PEFTFineTunePipeline:
    """`create_training_config`, `validate_training_config`, `dry_run_training`, provenance, `train`.

    `report` is told what happens, a line at a time.
    """

    def __init__(self, report: Callable[[str], None] = lambda _: None) -> None:
        self._report = report

    def create_training_config(
        self, base_model: str, training_data_path: str, output_dir: str, **settings: Any
    ) -> TrainingConfig:
        """Return a config: the workflow's defaults, changed by `preset` and by the settings of `TrainingConfig`.

        `lora_rank`, `lora_alpha`, `lora_dropout` and `target_modules` may be given beside the others.
        Raises ConfigError for a setting that does not exist or has the wrong type.
        """
        return make_config(
            settings.pop("preset", None),
            base_model=base_model,
            training_data_path=str(training_data_path),
            output_dir=str(output_dir),
            **settings,
        )

    def validate_training_config(self, config: TrainingConfig) -> list[str]:
        """Return every finding about the config and its data, each with its path and mend; empty when all is well."""
        findings = findings_of(config)
        if not any(one.startswith("training_data_path") for one in findings):
            try:
                read_data(Path(config.training_data_path))
            except BadInputError as error:
                findings += [f"training_data_path: {line}" for line in error.message.splitlines()]
        return findings

    def dry_run_training(self, config: TrainingConfig) -> dict[str, Any]:
        """Take a few steps that are not kept. Returns what the training would take.

        `training_time_seconds`: what the dry run took; `total_estimated_steps`, `estimated_seconds`, `memory_bytes`,
        `cost_usd` (None without a price), `examples_shown` (what is learnt between ⟦ and ⟧) and more.
        Raises ConfigError with every finding, EnvironmentFaultError when the model or a package cannot be had.
        """
        check(config)
        found = _sft().dry_run(config, self._data(config), self._report)
        facts: dict[str, Any] = msgspec.to_builtins(found)
        return {
            "training_time_seconds": facts.pop("measured_seconds"),
            "total_estimated_steps": facts.pop("steps"),
            "estimated_seconds": facts.pop("seconds"),
            **facts,
        }

    def generate_provenance_record(self, config: TrainingConfig, job_id: str) -> dict[str, Any]:
        """Return job_id, timestamp, config, content_hash, pipeline_version, framework."""
        return provenance_of(config, job_id)

    def save_provenance_record(self, provenance: Mapping[str, Any], output_dir: str | Path) -> Path:
        """Write the record beside the adapter and return its path. Raises StorageError."""
        return save_provenance(provenance, Path(output_dir))

    def train(self, config: TrainingConfig, on_progress: Callable[[Progress], None] = lambda _: None) -> dict[str, Any]:
        """Train; returns the record (`training_record`): where the adapter is, steps, losses, canary, digests.

        Goes on from its own checkpoints when it was cut. Raises ConfigError, BadInputError, EnvironmentFaultError, and
        GateFailedError when the loss is no longer finite.
        """
        check(config)
        data = self._data(config)
        return training_record(config, data, _sft().train(config, data, on_progress, self._report))

    def _data(self, config: TrainingConfig) -> TrainingData:
        return read_data(Path(config.training_data_path))


def _sft() -> Any:
    """The one module that needs the training extra."""
    try:
        from pipelines import sft  # noqa: PLC0415 - configs and checks must work without torch
    except ImportError as error:
        raise EnvironmentFaultError(
            f"Training needs packages that are not here ({error}): pip install 'journeyman[engine,training]'."
        ) from error
    return sft
