"""Does the embedded engine write what PEFT writes? Greedy answers to real requests, adapters mixed, compared as text.

The requests are users' words from the workloads' train rows, in the model's chat template, 16 at a time.

    JOURNEYMAN_DATA=... python benchmarks/engine_equality.py --prompts 96
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.engine import Job, say, start_ours_and_peft

FAMILIES = ("intent_banking", "ticket_triage", "voice_tools", "intent_travel")
MODELS = ("base", "north", "south")
TOGETHER = 16


def chat(text: str) -> str:
    """The default model's chat template around one user's words."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def jobs(folder: Path, count: int) -> list[Job]:
    """`count` train rows, the families and models by turns."""
    rows = {name: (folder / f"{name}.jsonl").read_bytes().splitlines() for name in FAMILIES}
    inputs = {
        name: [row["input"] for row in map(json.loads, lines) if row["split"] == "train"]
        for name, lines in rows.items()
    }
    return [(MODELS[i % 3], chat(inputs[FAMILIES[i % 4]][i])) for i in range(count)]


def main() -> None:
    """Prints how many answers are the same, by model, and the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    if "JOURNEYMAN_DATA" not in os.environ:
        sys.exit("set JOURNEYMAN_DATA to the workloads' folder")
    work = jobs(Path(os.environ["JOURNEYMAN_DATA"]), options.prompts)
    found: list[tuple[str, str, str]] = []
    with contextlib.ExitStack() as stack:
        _, (ours, peft, _) = start_ours_and_peft(stack)
        for begin in range(0, len(work), TOGETHER):
            some = work[begin : begin + TOGETHER]
            pairs = zip(some, ours.run(some, options.tokens), peft.run(some, options.tokens), strict=True)
            found += [(model, mine, theirs) for (model, _), mine, theirs in pairs]
            say(f"{len(found)} of {len(work)}: {sum(a == b for _, a, b in found)} the same")
    for model in MODELS:
        mine = [(a, b) for name, a, b in found if name == model]
        print(f"{model}: {sum(a == b for a, b in mine)} of {len(mine)} the same")
    for model, a, b in found:
        if a != b:
            print(f"differs ({model}):\n  ours {a!r}\n  PEFT {b!r}")


if __name__ == "__main__":
    main()
