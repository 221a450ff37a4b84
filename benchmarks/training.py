"""Training through TRL against a bare PyTorch loop over the same batches, in one run: `python benchmarks/training.py`.

Both take the same base model, adapter seed, order of examples and optimizer. Blocks of steps alternate, so that a
busy machine slows both; the CPU seconds of the process are told beside the wall's. Without --data the examples are
made up (short intents), of the project's own.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import get_cosine_schedule_with_warmup

from pipelines import sft
from pipelines.training_config import TrainingConfig, make_config
from pipelines.training_data import Pair, bucketed_order, read_data

STEPS = 8
WORDS = "please can you check my account for the last payment to the shop and tell me what is due"


def main() -> None:
    """Prints a table."""
    options = _options()
    pairs = read_data(options.data).train if options.data else made_up(400)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            "balanced",
            base_model=options.model,
            training_data_path=str(options.data or folder),
            output_dir=folder,
            threads=options.threads,
            batch_size=options.batch,
            max_examples=(options.steps + 1) * options.batch,
        )
        base = sft.load_base(config, print)
        examples, _ = sft._tokenized(pairs[: config.max_examples], base, config)
        model = sft.with_adapter(base, config)
        names = ("bare loop", "bare, learnt tokens only", "trl, weights rounded anew", "trl")
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(options.blocks):
            seconds["bare loop"].append(bare(model, base, config, examples, loss_of=whole_loss))
            seconds["bare, learnt tokens only"].append(bare(model, base, config, examples, loss_of=lean_loss))
            seconds["trl, weights rounded anew"].append(through_trl(model, base, config, examples, holds=False))
            seconds["trl"].append(through_trl(model, base, config, examples, holds=True))
    table(seconds, examples, config)


def whole_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own loss: logits of every position."""
    return model(**batch, use_cache=False).loss


def lean_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same loss from the logits of those positions alone whose next token is learnt."""
    labels = batch.pop("labels")[:, 1:]
    plain = model.get_base_model()
    hidden = plain.model(**batch, use_cache=False).last_hidden_state[:, :-1]
    learnt = labels != -100
    return torch.nn.functional.cross_entropy(plain.lm_head(hidden[learnt]), labels[learnt])


def bare(
    model: Any, base: sft.Base, config: TrainingConfig, examples: list[sft.Tokens], *, loss_of: Any
) -> tuple[float, float]:
    """Wall and CPU seconds of the steps after the first."""
    order = bucketed_order([len(one.input_ids) for one in examples], config.batch_size, config.seed * 1009)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, 1, len(order))
    model.train()
    begin = (0.0, 0.0)
    for number, at in enumerate(range(0, len(order), config.batch_size)):
        if number == 1:
            begin = (time.perf_counter(), time.process_time())
        batch = padded([examples[i] for i in order[at : at + config.batch_size]], base.tokenizer.pad_token_id)
        loss_of(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def padded(batch: list[sft.Tokens], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch as the model takes it."""
    longest = max(len(one.input_ids) for one in batch)
    ids = [one.input_ids + [pad_id] * (longest - len(one.input_ids)) for one in batch]
    labels = [one.labels + [-100] * (longest - len(one.labels)) for one in batch]
    mask = [[1] * len(one.input_ids) + [0] * (longest - len(one.input_ids)) for one in batch]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}


class _Clock(sft.TrainerCallback):
    """When the first and the last step ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))


def through_trl(
    model: Any, base: sft.Base, config: TrainingConfig, examples: list[sft.Tokens], *, holds: bool
) -> tuple[float, float]:
    """Likewise, through the trainer as `sft.train` makes it, without evaluations and checkpoints."""
    trainer = sft.make_trainer(model, base, config, (examples, examples[:8]))
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    trainer.args.num_train_epochs = 1
    clock = _Clock()
    trainer.callback_handler.callbacks = [
        one for one in trainer.callback_handler.callbacks if not isinstance(one, sft.EarlyStoppingCallback)
    ]
    trainer.add_callback(clock)
    with sft.computing(trainer, base) if holds else nullcontext():
        trainer.train()
    first, last = clock.ends[0], clock.ends[-1]
    return last[0] - first[0], last[1] - first[1]


def table(seconds: dict[str, list[tuple[float, float]]], examples: list[sft.Tokens], config: TrainingConfig) -> None:
    """Seconds a block, tokens a second, and the ratio of the medians."""
    steps = len(range(0, len(examples), config.batch_size)) - 1
    tokens = sum(len(one.input_ids) for one in examples) * steps / (steps + 1)
    print(
        f"\n{steps} steps a block, batch {config.batch_size}, {tokens:.0f} tokens a block, "
        f"{torch.get_num_threads()} threads"
    )
    print("| loop | wall s (each block) | median | CPU s median | tokens/s |\n|---|---|---|---|---|")
    middle = {}
    for name, blocks in seconds.items():
        wall, cpu = statistics.median(b[0] for b in blocks), statistics.median(b[1] for b in blocks)
        middle[name] = (wall, cpu)
        print(f"| {name} | {', '.join(f'{b[0]:.1f}' for b in blocks)} | {wall:.2f} | {cpu:.2f} | {tokens / wall:.0f} |")
    for other in list(middle)[:-1]:
        wall, cpu = (middle["trl"][i] / middle[other][i] for i in (0, 1))
        print(f"trl / {other}: wall {wall:.3f}, CPU {cpu:.3f}")


def made_up(count: int) -> list[Pair]:
    """Short requests with an intent each."""
    rng = random.Random(7)
    words = WORDS.split()
    return [
        Pair(" ".join(rng.choices(words, k=rng.randint(4, 16))) + "\n", f'{{"intent":"{rng.choice(words)}"}}')
        for _ in range(count)
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, help="JSON lines with input and output, or a dataset's folder")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=STEPS, help="timed steps a block (%(default)s)")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
