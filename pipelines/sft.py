"""Fine-tunes a LoRA adapter on prompts and completions, of which only the completions are learnt (TRL and PEFT).

The one module that trains. It knows a config and pairs of texts; nothing of clusters, runs or the registry.
"""

from __future__ import annotations

import hashlib
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, cast

import torch
from datasets import Dataset
from msgspec import Struct, structs
from peft import LoraConfig, get_peft_model
from torch.utils.data import Sampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pipelines.training_config import TrainingConfig, check, least_steps, trainer_settings
from pipelines.training_data import (
    IGNORED,
    Pair,
    Tokens,
    TrainingData,
    bucketed_order,
    fitting,
    middling_batch,
    padded_tokens,
    shown,
    tokens_of,
)
from pipelines.training_precision import ATTENTION, dtype_of, four_bits, frozen_in_bfloat16
from pipelines.training_result import DryRun, Progress, Report, Trained, prepare_checkpoints, quiet
from registry.entries import CanaryEntry
from registry.errors import EnvironmentFaultError, GateFailedError
from specialists.engine.settings import default_cache_dir
from specialists.engine.weights import ensure_model, sha256_of

ADAPTER: Final = "adapter"
CHECKPOINTS: Final = "checkpoints"
_CANARIES_TRIED: Final = 6
_CANARY_TOKENS: Final = 32
_LONGEST_CANARY: Final = 400
_TIMED_STEPS: Final = 2
_SCALED_LOGITS: Final = ("final_logit_softcapping", "logit_scale", "lm_head_multiplier", "logits_scaling")


class Base(Struct, frozen=True):
    """A base model in memory with its tokenizer."""

    model: Any
    tokenizer: Any
    folder: Path

    @property
    def digest(self) -> str:
        """sha256 over the names and digests of its weights' files."""
        files = sorted(self.folder.glob("*.safetensors"))
        if len(files) == 1:
            return str(sha256_of(files[0]))
        listing = "\n".join(f"{file.name} {sha256_of(file)}" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()


def train(
    config: TrainingConfig, data: TrainingData, on_progress: Callable[[Progress], None], report: Report
) -> Trained:
    """Train, and write the adapter to `output_dir/adapter`. Goes on from a checkpoint of the same config and data.

    Raises ConfigError for a bad config, EnvironmentFaultError when the base model or a device cannot be had,
    GateFailedError when the loss is no longer finite.
    """
    check(config)
    base = load_base(config, report)
    train_set, left_out = _tokenized(data.train[: config.max_examples], base, config)
    dev_set, _ = _tokenized(data.dev, base, config)
    checkpoints = Path(config.output_dir) / CHECKPOINTS
    resumed = prepare_checkpoints(checkpoints, f"{config.digest} {data.sha256} {dtype_of(config)}", report)
    trainer = make_trainer(with_adapter(base, config), base, config, (train_set, dev_set))
    trainer.add_callback(_Watch(on_progress))
    begin = time.perf_counter()
    with quiet(), computing(trainer, base):
        done = trainer.train(resume_from_checkpoint=resumed)
    seconds = time.perf_counter() - begin
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapter = _save(model, config, Path(config.output_dir))
    canary = pick_canary(model, base.tokenizer, [pair.prompt for pair in data.dev])
    shutil.rmtree(checkpoints, ignore_errors=True)
    state = trainer.state
    return Trained(
        adapter=adapter,
        steps=state.global_step,
        epochs=round(float(state.epoch or 0), 3),
        seconds=seconds,
        examples=len(train_set),
        left_out=left_out,
        tokens=int(sum(len(one.input_ids) for one in train_set) * float(state.epoch or 0)),
        train_loss=float(done.training_loss),
        dev_losses=[float(entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry],
        stopped_early=state.global_step < state.max_steps,
        canary=canary,
        base_digest=base.digest,
        device=str(model.device),
        precision=str(dtype_of(config)).removeprefix("torch."),
        peak_memory_bytes=_peak_memory_bytes(),
    )


def dry_run(config: TrainingConfig, data: TrainingData, report: Report) -> DryRun:
    """Load, take three steps on the middling batch without keeping them, and estimate. Raises as `train` does."""
    check(config)
    begin = time.perf_counter()
    base = load_base(config, report)
    examples, left_out = _tokenized(data.train[: config.max_examples], base, config)
    steps = least_steps(len(examples), config)
    model = with_adapter(base, config)
    lengths = [len(one.input_ids) for one in examples]
    batch = middling_batch(examples, config.batch_size)
    with tempfile.TemporaryDirectory() as nowhere:  # the trainer makes its folder
        aside = structs.replace(config, output_dir=nowhere)
        trainer = make_trainer(model, base, aside, (batch, batch))
        with computing(trainer, base):
            seconds = _timed_steps(trainer, batch)
    a_pass = padded_tokens(lengths, config.batch_size, config.seed)
    of_batch = len(batch) * max(len(one.input_ids) for one in batch)
    estimate = sum(seconds) / len(seconds) * a_pass / of_batch * config.num_epochs
    trained, every = model.get_nb_trainable_parameters()
    price = config.machine_usd_per_hour
    return DryRun(
        steps=steps,
        examples=len(examples),
        left_out=left_out,
        seconds=estimate,
        step_seconds=seconds,
        memory_bytes=_peak_memory_bytes(),
        cost_usd=None if price is None else price * estimate / 3600,
        trained_parameters=trained,
        all_parameters=every,
        examples_shown=[shown(one, base.tokenizer.decode) for one in examples[:2]],
        measured_seconds=time.perf_counter() - begin,
    )


def load_base(config: TrainingConfig, report: Report) -> Base:
    """Load the base model: 32-bit floats on a CPU, bfloat16 on CUDA where it can, 4 bits where asked.

    Raises EnvironmentFaultError when it cannot be had, or 4 bits without CUDA or bitsandbytes.
    """
    cuda = torch.cuda.is_available()
    if config.threads:
        torch.set_num_threads(config.threads)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    options: dict[str, Any] = {"dtype": dtype_of(config) if cuda else torch.float32}
    if config.quantization == "4bit":
        options |= {"quantization_config": four_bits(cuda, dtype_of(config)), "device_map": {"": 0}}
    folder = ensure_model(config.base_model, default_cache_dir(), report=report)
    set_seed(config.seed)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), **options)
    return Base(model.to("cuda") if cuda and config.quantization == "none" else model, tokenizer, folder)


def with_adapter(base: Base, config: TrainingConfig) -> Any:
    """Return the base with a fresh adapter, the only part that is trained. Raises ConfigError's kind for misfits.

    PEFT's `prepare_model_for_kbit_training` is not for us: its 32-bit embeddings, head and norms cost memory and gain
    nothing beside bfloat16 (huggingface/trl#4457); get_peft_model freezes, and the trainer readies checkpointing.
    """
    lora = LoraConfig(**config.lora_config.to_dict())
    try:
        with quiet():
            return get_peft_model(base.model, lora)
    except ValueError as error:
        raise EnvironmentFaultError(
            f"lora_config.target_modules do not fit {config.base_model}: {error}. Name modules that it has."
        ) from error


class BucketSampler(Sampler[int]):
    """Gives batches of like length in a random order that follows from the seed and the epoch."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(bucketed_order(self._lengths, self._batch, self._seed * 1009 + self._epoch))

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer, also when it goes on from a checkpoint."""
        self._epoch = epoch


class BucketTrainer(SFTTrainer):
    """TRL's trainer with our order of examples, which does not depend on the state of a global generator."""

    bfloat16_on_cpu = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(ids) for ids in dataset["input_ids"]]
        return BucketSampler(lengths, self.args.train_batch_size, self.args.seed)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The same loss by a shorter way on a CPU, where TRL's fused head, made for GPUs, costs a quarter of a step."""
        plain = self.accelerator.unwrap_model(model).get_base_model()
        scaled = any(getattr(plain.config, name, None) for name in _SCALED_LOGITS)
        if return_outputs or scaled or plain.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        labels = inputs["labels"][:, 1:]
        learnt = labels != IGNORED
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16_on_cpu):
            hidden = plain.base_model(inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            logits = plain.get_output_embeddings()(hidden.last_hidden_state[:, :-1][learnt]).float()
        loss = torch.nn.functional.cross_entropy(logits, labels[learnt], reduction="sum")
        return loss / (learnt.sum() if num_items_in_batch is None else num_items_in_batch)


def make_trainer(model: Any, base: Base, config: TrainingConfig, sets: tuple[list[Tokens], list[Tokens]]) -> Any:
    """Return the trainer for a model with its adapter, and its train and dev sets."""
    train_set, dev_set = sets
    cuda, bfloat16 = torch.cuda.is_available(), dtype_of(config) == torch.bfloat16
    settings = trainer_settings(config, len(train_set), cuda=cuda, bfloat16=bfloat16)
    arguments = SFTConfig(output_dir=str(Path(config.output_dir) / CHECKPOINTS), **settings)
    if cuda:
        arguments._n_gpu = 1  # else it spreads over all GPUs: other batches, other steps than the config's
    patience = config.early_stopping_patience
    callbacks: list[TrainerCallback] = [EarlyStoppingCallback(patience)] if patience else []
    with quiet():
        trainer = BucketTrainer(
            model=model,
            args=arguments,
            train_dataset=_rows(train_set),
            eval_dataset=_rows(dev_set),
            processing_class=base.tokenizer,
            callbacks=callbacks,
        )
    trainer.remove_callback(PrinterCallback)
    if bfloat16 and not cuda:
        trainer.bfloat16_on_cpu = True
        base.model.set_attn_implementation(ATTENTION)
    return trainer


def computing(trainer: Any, base: Base) -> AbstractContextManager[None]:
    """While it trains: the base's weights as its products want them."""
    return frozen_in_bfloat16(base.model) if trainer.bfloat16_on_cpu else nullcontext()


def pick_canary(model: Any, tokenizer: Any, prompts: Sequence[str]) -> CanaryEntry | None:
    """Return the prompt that the model decodes with the widest margin, so that another machine decodes it alike.

    None when there is no short prompt, or none that the model answers with text and an end.
    """
    model.eval()
    short = [prompt for prompt in prompts if len(prompt) <= _LONGEST_CANARY][:_CANARIES_TRIED]
    found = [_decoded(model, tokenizer, prompt) for prompt in short]
    best = max(((margin, prompt, text) for margin, prompt, text in found if text), default=None)
    return None if best is None else CanaryEntry(prompt=best[1], text=best[2], max_tokens=_CANARY_TOKENS)


@torch.inference_mode()
def _decoded(model: Any, tokenizer: Any, prompt: str) -> tuple[float, str, str]:
    """Decode greedily. Returns the least margin between the best and the second token, the prompt, the text."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    wanted = {"return_dict_in_generate": True, "output_scores": True, "pad_token_id": tokenizer.pad_token_id}
    out = model.generate(**inputs, max_new_tokens=_CANARY_TOKENS, do_sample=False, **wanted)
    new = out.sequences[0, inputs["input_ids"].shape[1] :]
    best = torch.stack([torch.topk(scores[0].float(), 2).values for scores in out.scores])
    ended = int(new[-1]) == tokenizer.eos_token_id
    text = tokenizer.decode(new, skip_special_tokens=True).strip() if ended else ""
    return float((best[:, 0] - best[:, 1]).min()), prompt, text


class _Watch(TrainerCallback):
    """Tells how far it is, and stops a training whose loss is no number."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._tell = on_progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(Progress(state.global_step, state.max_steps))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss, dev_loss = (logs or {}).get("loss"), (logs or {}).get("eval_loss")
        for name, value in (("loss", loss), ("dev loss", dev_loss)):
            if value is not None and not math.isfinite(value):
                raise GateFailedError(
                    f"The training diverged: at step {state.global_step} the {name} is {value}. Lower learning_rate."
                )
        if loss is not None or dev_loss is not None:
            self._tell(Progress(state.global_step, state.max_steps, loss, dev_loss))


def _rows(examples: Sequence[Tokens]) -> Any:
    columns = {
        "input_ids": [one.input_ids for one in examples],
        "labels": [one.labels for one in examples],
    }
    return Dataset.from_dict(columns)


def _tokenized(pairs: Sequence[Pair], base: Base, config: TrainingConfig) -> tuple[list[Tokens], int]:
    """Return the examples that fit, and how many were too long."""
    backend = base.tokenizer.backend_tokenizer

    def encode(text: str) -> list[int]:
        return cast("list[int]", backend.encode(text).ids)

    def encode_more(text: str) -> list[int]:
        return cast("list[int]", backend.encode(text, add_special_tokens=False).ids)

    every = [tokens_of(pair, encode, encode_more, base.tokenizer.eos_token_id) for pair in pairs]
    good = fitting(every, config.max_sequence_tokens)
    least_steps(len(good), config)
    return good, len(every) - len(good)


def _timed_steps(trainer: Any, batch: Sequence[Tokens]) -> list[float]:
    """Forward, backward and optimizer step, once to warm up and then timed. The adapter is thrown away after."""
    trainer.create_optimizer()
    trainer.model.train()
    if trainer.args.activation_checkpointing:
        trainer.model.activation_checkpointing_enable()
    inputs = trainer.data_collator([{"input_ids": one.input_ids, "labels": one.labels} for one in batch])
    learnt = (inputs["labels"] != IGNORED).sum()
    seconds = []
    for _ in range(1 + _TIMED_STEPS):
        begin = time.perf_counter()
        trainer.training_step(trainer.model, dict(inputs), learnt)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def _save(model: Any, config: TrainingConfig, output: Path) -> Path:
    """Write the adapter whole or not at all. It names its base model by name: a path means nothing elsewhere."""
    draft, target = output / f".{ADAPTER}.partial", output / ADAPTER
    shutil.rmtree(draft, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = config.base_model
    model.save_pretrained(str(draft), save_embedding_layers=False)  # it would look for the base in a hub
    (draft / "README.md").unlink(missing_ok=True)  # a form of blanks; the dataset's card and the manifest say it
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return target


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
