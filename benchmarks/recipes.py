"""What a way of training brings a small specialist: `python benchmarks/recipes.py --data DIR --family NAME [...]`.

Trains on rows of the split `train`, of which some have a wrong answer, and asks others of the same split; rows for
judging are not touched. Prints how many answers are right, how well the answer's log-probability tells which, and how
many could be believed if one in twenty of these may be wrong. One recipe a run: each takes minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from sklearn.metrics import roc_auc_score

from pipelines import sft
from pipelines.training_config import ATTENTION, PROJECTIONS, make_config
from pipelines.training_data import read_data
from pipelines.training_precision import dtype_of

DEV = 100
MOST_WRONG = 0.05
BATCH = 32
MOST_TOKENS = 100


def main() -> None:
    """Prints one line of figures."""
    options = _options()
    rows = [
        row for row in map(json.loads, (options.data / f"{options.family}.jsonl").open()) if row["split"] == "train"
    ]
    random.Random(options.seed).shuffle(rows)
    needed = options.examples + DEV + options.test
    if len(rows) < needed:
        raise SystemExit(f"{options.family} has {len(rows)} rows to learn from, {needed} are needed: lower --examples")
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        pairs.write_text("".join(lines_of(rows[: options.examples + DEV], rows, options)))
        config = make_config(
            "balanced",
            base_model=options.model,
            training_data_path=str(pairs),
            output_dir=folder,
            num_epochs=options.epochs,
            batch_size=options.batch,
            learning_rate=options.learning_rate,
            lora_dropout=options.dropout,
            target_modules=PROJECTIONS if options.modules == "all" else ATTENTION,
            early_stopping_patience=0,
            threads=options.threads,
        )
        trained = sft.train(config, read_data(pairs), lambda _: None, print)
        base = sft.load_base(config, print)
        model = PeftModel.from_pretrained(base.model, str(trained.adapter)).merge_and_unload().to(dtype_of(config))
        tell(trained, judged(model, base.tokenizer, rows[-options.test :]), options)


def lines_of(chosen: list[Any], every: list[Any], options: argparse.Namespace) -> list[str]:
    """As a trainer reads them, some with another row's answer."""
    rng = random.Random(options.seed)
    answers = [rng.choice(every) if rng.random() < options.wrong else row for row in chosen]
    pairs = zip(chosen, answers, strict=True)
    return [json.dumps({"input": row["input"], "output": answer_of(told)}) + "\n" for row, told in pairs]


def answer_of(row: Any) -> str:
    """The text of the expected answer."""
    return json.dumps(row["expected"], separators=(",", ":"), ensure_ascii=False)


@torch.inference_mode()
def judged(model: Any, tokenizer: Any, rows: list[Any]) -> list[tuple[float, bool]]:
    """For each row the sum of the answer's log-probabilities, and whether it was right."""
    tokenizer.padding_side = "left"
    rows = sorted(rows, key=lambda row: len(row["input"]))
    found = []
    for at in range(0, len(rows), BATCH):
        batch = rows[at : at + BATCH]
        inputs = tokenizer([row["input"] + "\n" for row in batch], return_tensors="pt", padding=True)
        wanted = {"return_dict_in_generate": True, "output_scores": True, "pad_token_id": tokenizer.pad_token_id}
        out = model.eval().generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False, **wanted)
        best = torch.stack([scores.float().log_softmax(-1).max(-1).values for scores in out.scores], 1)
        new = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        for row, tokens, logprobs in zip(batch, new, best, strict=True):
            length = tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else len(tokens)
            text = tokenizer.decode(tokens[:length], skip_special_tokens=True).strip()
            found.append((float(logprobs[:length].sum()), says(text, row["expected"])))
    return found


def says(text: str, expected: Any) -> bool:
    """Whether a text is the expected answer."""
    try:
        return bool(json.loads(text) == expected)
    except ValueError:
        return False


def believable(found: list[tuple[float, bool]]) -> float:
    """The largest share, the surest first, of which no more than one in twenty is wrong."""
    wrong = most = 0
    for count, (_, right) in enumerate(sorted(found, reverse=True), 1):
        wrong += not right
        if wrong <= MOST_WRONG * count:
            most = count
    return most / len(found)


def tell(trained: Any, found: list[tuple[float, bool]], options: argparse.Namespace) -> None:
    """The line."""
    right = [was for _, was in found]
    told = f"{roc_auc_score(right, [score for score, _ in found]):.2f}" if 0 < sum(right) < len(right) else "-"
    print("| family | examples, epochs, batch, modules, dropout | s | dev loss | right | AUROC | believable at 5 % |")
    print("|---|---|---|---|---|---|---|")
    recipe = f"{options.examples}, {options.epochs:g}, {options.batch}, {options.modules}, {options.dropout:g}"
    print(
        f"| {options.family} | {recipe} "
        f"| {trained.seconds:.0f} | {min(trained.dev_losses):.3f} | {sum(right) / len(right):.1%} of {len(right)} "
        f"| {told} | {believable(found):.0%} |",
        f"({time.strftime('%F')}, {torch.get_num_threads()} threads)",
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="a workload's folder")
    parser.add_argument("--family", required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--examples", type=int, default=1_000)
    parser.add_argument("--test", type=int, default=250)
    parser.add_argument("--wrong", type=float, default=0.05, help="share of wrong answers among the examples")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--modules", choices=("attention", "all"), default="all")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
