"""What a fine-tuning is told: base model, data, LoRA, optimizer. Plain values with their check; knows no torch.

Defaults of `TrainingConfig` are the workflow's recommended ones for models of a few hundred million parameters and up.
`PRESETS` are what was measured to work for the small default model on narrow tasks (benchmarks/LOG.md).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, structs

from registry.errors import BadInputError, ConfigError
from registry.identifiers import digest_of

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
PROJECTIONS: Final = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
"""What the embedded engine and vLLM can serve of a llama-like model."""
MAX_RANK: Final = 64
Quantization = Literal["none", "4bit"]
Precision = Literal["auto", "float32", "bfloat16"]


class LoraSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The low-rank update: `W + alpha / rank * B A` (Hu et al., arXiv:2106.09685)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ATTENTION

    def to_dict(self) -> dict[str, Any]:
        """As PEFT's `LoraConfig` names them."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(self.target_modules),
            "bias": "none",
            "task_type": "CAUSAL_LM",
        }


class TrainingConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fine-tuning. Equal configs on equal data train equal adapters on one machine."""

    base_model: str
    """The default model's name, a folder in Hugging Face's layout, or a Hugging Face id."""
    training_data_path: str
    """A dataset version's folder, or a file of JSON lines with `input` and `output` (or `prompt`, `completion`)."""
    output_dir: str
    """Gets `adapter/`, `training.json`, `heartbeat.json`, and `checkpoints/` while it runs."""
    lora_config: LoraSettings = LoraSettings()
    num_epochs: float = 3
    batch_size: int = 4
    """Examples of one forward pass."""
    gradient_accumulation_steps: int = 1
    """Passes of one optimizer step."""
    learning_rate: float = 2e-4
    warmup_steps: int = 100
    """At most a tenth of all steps, however large this is."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_sequence_tokens: int = 512
    """Longer examples are left out, never cut: half an answer would be learnt."""
    max_examples: int | None = None
    """Train on the first so many; None takes all."""
    evaluations_per_epoch: int = 2
    """How often the loss on the dev part is taken; the best adapter is kept."""
    early_stopping_patience: int = 3
    """Evaluations without a better dev loss that end the training; 0 never ends it early."""
    gradient_checkpointing: bool = False
    """Less memory for a third more time."""
    quantization: Quantization = "none"
    """`4bit`: QLoRA (Dettmers et al., arXiv:2305.14314); needs CUDA and bitsandbytes."""
    precision: Precision = "auto"
    """Of the matrix products; the learnt weights stay 32-bit, but bfloat16 under `4bit`. `auto` is bfloat16 where the
    GPU, or the CPU (avx512_bf16, amx), multiplies it by itself, and float32 elsewhere."""
    seed: int = 17
    threads: int | None = None
    """Compute threads on a CPU; torch's choice when absent."""
    machine_usd_per_hour: float | None = None
    """For the estimate of what it costs."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @property
    def digest(self) -> str:
        """Digest of what decides the result: everything but where it is written, how fast and at what price."""
        where = {"output_dir", "threads", "machine_usd_per_hour", "training_data_path"}
        return digest_of({name: value for name, value in self.to_dict().items() if name not in where})

    @property
    def step_examples(self) -> int:
        """Examples of one optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "quick": {"num_epochs": 1, "learning_rate": 2e-3, "batch_size": 4, "warmup_steps": 10, "lora_dropout": 0.0},
    "balanced": {
        "num_epochs": 2,
        "learning_rate": 2e-3,
        "batch_size": 8,
        "warmup_steps": 10,
        "lora_dropout": 0.0,
        "target_modules": PROJECTIONS,
    },
    "thorough": {"num_epochs": 5, "learning_rate": 1e-3, "batch_size": 8, "warmup_steps": 20},
}


def make_config(preset: str | None = None, **given: Any) -> TrainingConfig:
    """Return a config: the defaults, changed by a preset, changed by what is given.

    `lora_rank`, `lora_alpha`, `lora_dropout` and `target_modules` are taken as well as `lora_config`.
    Raises ConfigError for names and types that do not fit; values are for `findings_of`.
    """
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"preset: there is no {preset!r}; there are {', '.join(PRESETS)}.")
    values = {**(PRESETS[preset] if preset else {}), **{k: v for k, v in given.items() if v is not None}}
    lora = {
        "rank": values.pop("lora_rank", None),
        "alpha": values.pop("lora_alpha", None),
        "dropout": values.pop("lora_dropout", None),
        "target_modules": values.pop("target_modules", None),
    }
    _check_names(values)
    base = values.pop("lora_config", {})
    base = base if isinstance(base, Mapping) else msgspec.to_builtins(base)
    merged = {**base, **{name: value for name, value in lora.items() if value is not None}}
    try:
        return msgspec.convert({**values, "lora_config": merged}, TrainingConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The training config: {error}.") from None


def read_config(path: Path) -> TrainingConfig:
    """Read a config from JSON, as `to_dict` gives it. Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingConfig)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}.") from None


def findings_of(config: TrainingConfig) -> list[str]:
    """Return everything that is wrong with the values and places of a config, each with its path and mend."""
    return [*_place_findings(config), *_lora_findings(config.lora_config), *_number_findings(config)]


def _place_findings(config: TrainingConfig) -> Iterator[str]:
    data = Path(config.training_data_path)
    if not config.training_data_path or not data.exists():
        yield f"training_data_path: {config.training_data_path!r} is not there; name a dataset or .jsonl file"
    elif data.is_dir() and not (data / "manifest.json").is_file():
        yield f"training_data_path: {data} holds no manifest.json; name the folder of one version of a dataset"
    if not config.base_model.strip():
        yield "base_model: is empty; name a model, a folder or a Hugging Face id"
    elif _looks_like_a_path(config.base_model) and not (Path(config.base_model) / "config.json").is_file():
        yield f"base_model: {config.base_model} holds no config.json; name a folder in Hugging Face's layout"
    if not config.output_dir:
        yield "output_dir: is empty; name a folder for the adapter"
    elif fault := _unwritable(Path(config.output_dir)):
        yield f"output_dir: {fault}; name a folder that can be written"


def _lora_findings(lora: LoraSettings) -> Iterator[str]:
    if not 1 <= lora.rank <= MAX_RANK:
        yield f"lora_config.rank: {lora.rank} must be from 1 to {MAX_RANK}; 16 suits narrow tasks"
    if lora.alpha < 1:
        yield f"lora_config.alpha: {lora.alpha} must be at least 1; twice the rank is usual"
    if not 0 <= lora.dropout < 1:
        yield f"lora_config.dropout: {lora.dropout} must be at least 0 and below 1; 0.05 is usual"
    if not lora.target_modules:
        yield f"lora_config.target_modules: is empty; {', '.join(ATTENTION)} is usual"
    if len(set(lora.target_modules)) != len(lora.target_modules):
        yield "lora_config.target_modules: a module is named twice; name each once"
    for index, name in enumerate(lora.target_modules):
        if name not in PROJECTIONS:
            close = get_close_matches(name, PROJECTIONS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            yield f"lora_config.target_modules[{index}]: {name!r} is none of {', '.join(PROJECTIONS)}{hint}"


_LIMITS: Final[Mapping[str, tuple[float, float, str]]] = {
    "num_epochs": (0.01, 1000, "1 to 5 suit narrow tasks"),
    "batch_size": (1, 4096, "8 suits a CPU"),
    "gradient_accumulation_steps": (1, 4096, "1 unless memory is short"),
    "learning_rate": (1e-8, 0.1, "2e-3 suits LoRA on a small model, 2e-4 a large one"),
    "warmup_steps": (0, 1e6, "10 to 100 are usual"),
    "weight_decay": (0, 1, "0 is usual for LoRA"),
    "max_grad_norm": (1e-6, 1e6, "1 is usual"),
    "max_sequence_tokens": (8, 1 << 20, "512 suits short tasks"),
    "evaluations_per_epoch": (1, 1000, "2 is usual"),
    "early_stopping_patience": (0, 1000, "3 is usual, 0 switches it off"),
    "seed": (0, 2**32 - 1, "any whole number"),
}


def _number_findings(config: TrainingConfig) -> Iterator[str]:
    for name, (low, high, mend) in _LIMITS.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and low <= value <= high):
            yield f"{name}: {value} must be from {low:g} to {high:g}; {mend}"
    if config.max_examples is not None and config.max_examples < config.step_examples:
        yield f"max_examples: {config.max_examples} are less than one step's {config.step_examples}; take more"
    if config.threads is not None and config.threads < 1:
        yield f"threads: {config.threads} must be at least 1; leave it out for torch's choice"
    if config.machine_usd_per_hour is not None and not 0 <= config.machine_usd_per_hour < math.inf:
        yield f"machine_usd_per_hour: {config.machine_usd_per_hour} must be a price; leave it out if you have none"


def check(config: TrainingConfig) -> None:
    """Raise ConfigError with every finding, one a line; do nothing for a good config."""
    findings = findings_of(config)
    if findings:
        raise ConfigError("\n".join(findings))


def _check_names(values: Mapping[str, Any]) -> None:
    known = {field.name for field in structs.fields(TrainingConfig)}
    wrong = []
    for name in values.keys() - known:
        close = get_close_matches(name, known | {"lora_rank", "lora_alpha", "lora_dropout", "target_modules"}, n=1)
        wrong.append(f"{name}: there is no such setting" + (f" (did you mean {close[0]!r}?)" if close else ""))
    if wrong:
        raise ConfigError("\n".join(sorted(wrong)))


def _looks_like_a_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or Path(name).is_dir()


def _unwritable(folder: Path) -> str | None:
    """Return why a folder could not be made and written, looking only."""
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            if not place.is_dir():
                return f"{place} is a file"
            return None if os.access(place, os.W_OK) else f"{place} cannot be written"
    return f"{folder} cannot be made"


def least_steps(examples: int, config: TrainingConfig) -> int:
    """Return how many optimizer steps a training without an early stop takes. Raises BadInputError for none."""
    if examples < 1:
        raise BadInputError("There is nothing to train on: every example was left out. Look at max_sequence_tokens.")
    a_pass = math.ceil(math.ceil(examples / config.batch_size) / config.gradient_accumulation_steps)
    return max(1, math.ceil(a_pass * config.num_epochs))


def trainer_settings(config: TrainingConfig, examples: int, *, cuda: bool, bfloat16: bool) -> dict[str, Any]:
    """Return the config as TRL's `SFTConfig` names it, for so many examples. The tokens come ready, with labels."""
    steps = least_steps(examples, config)
    every = max(1, math.ceil(examples / config.step_examples) // config.evaluations_per_epoch)
    return {
        "num_train_epochs": config.num_epochs,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": max(8, config.batch_size),
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(config.warmup_steps, steps // 10),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "logging_steps": max(1, steps // 50),
        "activation_checkpointing": config.gradient_checkpointing,
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": not cuda,
        "bf16": cuda and bfloat16,  # on a CPU the trainer's loss sees to it
        "dataloader_pin_memory": cuda,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "disable_tqdm": True,
        "report_to": "none",
    }
