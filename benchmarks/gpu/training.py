"""LoRA and QLoRA: our trainer beside a bare PyTorch loop over the same batches, blocks of steps by turns."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from msgspec import Struct, structs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import EarlyStoppingCallback, PreTrainedTokenizerFast, TrainerCallback

from benchmarks.gpu.rows import Row, Side, begin_memory, first_line, free, peak_bytes, synchronize
from benchmarks.gpu.shapes import Shape
from pipelines import sft
from pipelines.training_config import TrainingConfig, make_config
from pipelines.training_data import IGNORED, Tokens
from pipelines.training_precision import dtype_of
from pipelines.training_result import quiet

ALTERNATIVE = "bare PyTorch loop"
LEARNT_SHARE = 4
"""One token in so many is learnt, as in prompts with short answers."""


class Work(Struct, frozen=True, kw_only=True):
    """What is trained, and for how long."""

    shape: Shape
    device: str
    steps: int
    """Timed steps of a block; one more warms it up."""
    blocks: int


def rows_of(label: str, model: Any, work: Work, note: str) -> list[Row]:
    """Two rows: without and with gradient checkpointing. The model is changed by it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        base = sft.Base(model, bare_tokenizer(), Path(folder))
        adapted = sft.with_adapter(base, config_of(work, folder, checkpointing=False))
        for checkpointing in (False, True):
            name = f"{label}, gradient checkpointing" if checkpointing else label
            try:
                rows.append(_compared(name, adapted, base, config_of(work, folder, checkpointing), work))
            except torch.OutOfMemoryError as error:
                rows.append(Row(name=name, alternative=ALTERNATIVE, note=f"out of memory: {first_line(error)}"))
                adapted.zero_grad(set_to_none=True)
                free()
    return [structs.replace(row, note=row.note or note) for row in rows]


def _compared(name: str, model: Any, base: sft.Base, config: TrainingConfig, work: Work) -> Row:
    examples = made_up(work)
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable()
    sides: dict[str, list[Side]] = {"ours": [], "theirs": []}
    for _ in range(work.blocks):
        sides["theirs"].append(_bare(model, base, config, examples))
        sides["ours"].append(_ours(model, base, config, examples))
    return Row(name=name, alternative=ALTERNATIVE, ours=_middle(sides["ours"]), theirs=_middle(sides["theirs"]))


def _middle(sides: list[Side]) -> Side:
    peaks = [side.peak_bytes for side in sides if side.peak_bytes is not None]
    return Side(statistics.median(side.tokens_per_s for side in sides), max(peaks) if peaks else None)


def config_of(work: Work, folder: str, checkpointing: bool) -> TrainingConfig:
    """One pass over the made-up examples."""
    return make_config(
        base_model=folder,
        training_data_path=folder,
        output_dir=folder,
        num_epochs=1,
        batch_size=work.shape.batch,
        max_sequence_tokens=work.shape.sequence_tokens,
        gradient_checkpointing=checkpointing,
    )


def made_up(work: Work) -> list[Tokens]:
    """Random tokens, all of one length: nothing is padded, so that tokens a second mean the same to both."""
    rng = random.Random(7)
    length = work.shape.sequence_tokens
    prompt = length - length // LEARNT_SHARE
    many = [[rng.randrange(3, work.shape.vocabulary) for _ in range(length)] for _ in range(_count(work))]
    return [Tokens(ids, [IGNORED] * prompt + ids[prompt:]) for ids in many]


def _count(work: Work) -> int:
    return (work.steps + 1) * work.shape.batch


def bare_tokenizer() -> Any:
    """Bytes and three special tokens: the trainer wants its padding, the engine a text for each token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=259,
        special_tokens=["<start>", "<end>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def _bare(model: Any, base: sft.Base, config: TrainingConfig, examples: list[Tokens]) -> Side:
    """What one writes by hand: the model's own loss, AdamW, clipping; the same precision."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0, fused=True)
    device = next(model.parameters()).device
    half = dtype_of(config) == torch.bfloat16
    model.train()
    begin_memory()
    begin = 0.0
    for at in range(0, len(examples), config.batch_size):
        if at == config.batch_size:
            synchronize()
            begin = time.perf_counter()
        some = examples[at : at + config.batch_size]
        ids = torch.tensor([one.input_ids for one in some], device=device)
        labels = torch.tensor([one.labels for one in some], device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    synchronize()
    return _side(time.perf_counter() - begin, examples, config)


class _Clock(TrainerCallback):
    """When the first step ended."""

    begin = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            synchronize()
            self.begin = time.perf_counter()


def _ours(model: Any, base: sft.Base, config: TrainingConfig, examples: list[Tokens]) -> Side:
    """Through the trainer as `sft.train` makes it, without evaluations and checkpoints."""
    trainer = sft.make_trainer(model, base, config, (examples, examples[:1]))
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    trainer.remove_callback(EarlyStoppingCallback)
    clock = _Clock()
    trainer.add_callback(clock)
    begin_memory()
    with quiet():
        trainer.train()
    synchronize()
    side = _side(time.perf_counter() - clock.begin, examples, config)
    extract_model_from_parallel(model, keep_fp32_wrapper=False)  # or each trainer wraps the last one's forward
    return side


def _side(seconds: float, examples: list[Tokens], config: TrainingConfig) -> Side:
    tokens = sum(len(one.input_ids) for one in examples[config.batch_size :])
    return Side(tokens / seconds, peak_bytes())
