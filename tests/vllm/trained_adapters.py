"""Four small adapters, trained by the product's own pipeline, that answer the same words differently.

Each is taught one answer to the same requests, so whose answer it is can be read off it, and so that a server
which mixes adapters up, or shares a prefix between them, is caught. Kept below `.journeyman` by what they are made of.

    python -m tests.vllm.trained_adapters FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".journeyman" / "vllm-tests"

DESKS = ("north", "east", "south", "west")
GOODS = ("boxes", "letters", "pallets", "crates", "barrels", "parcels")
PLACES = ("Lyon", "Oslo", "Turin", "Ghent", "Porto", "Graz", "Bergen", "Nantes", "Cork")
LEAST = 110
"""Rows of which a tenth is held out; the trainer asks for a hundred."""
SETTINGS = {"num_epochs": 1, "max_examples": 64, "batch_size": 4, "learning_rate": 2e-3, "warmup_steps": 2}
SETTINGS |= {"lora_rank": 8, "lora_dropout": 0.0, "evaluations_per_epoch": 1, "early_stopping_patience": 0}


@dataclass(frozen=True)
class Adapter:
    """One trained adapter: where it is, what it must answer, and the canary that its training found."""

    desk: str
    folder: Path
    canary: dict[str, Any]

    @property
    def answer(self) -> str:
        return answer_of(self.desk)

    @property
    def digest(self) -> str:
        """Of its content, as registry.yaml has it."""
        from registry.artifacts import files_of, folder_digest

        return folder_digest(files_of(self.folder))


def answer_of(desk: str) -> str:
    return json.dumps({"desk": desk}, separators=(",", ":"))


def request(number: int) -> str:
    """The words of a call; no two numbers give the same."""
    return f"{number + 3} {GOODS[number % len(GOODS)]} for {PLACES[number % len(PLACES)]}"


def trained_adapters() -> list[Adapter]:
    """The four, trained now unless they are kept already. Trains in a child, which holds torch and goes."""
    from registry.identifiers import digest_of

    folder = KEPT / digest_of([SETTINGS, DESKS, rows("north")])[:16]
    if not all((folder / desk / "adapter.json").is_file() for desk in DESKS):
        # One thread that does not spin: so small a training gains nothing from two, and loses much on a busy machine.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.vllm.trained_adapters", str(folder)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return [_read(folder / desk) for desk in DESKS]


def rows(desk: str) -> list[dict[str, str]]:
    return [{"input": request(number), "output": answer_of(desk)} for number in range(LEAST)]


def _read(folder: Path) -> Adapter:
    facts = json.loads((folder / "adapter.json").read_text())
    return Adapter(folder.name, folder / "adapter", facts["canary"])


def train(folder: Path) -> None:
    """Trains what is not there yet. `adapter.json` is written last: a training that was cut is done again."""
    from pipelines.fine_tune import PEFTFineTunePipeline
    from specialists.engine.settings import DEFAULT_MODEL

    pipeline = PEFTFineTunePipeline(_say)
    for number, desk in enumerate(DESKS, start=1):
        place = folder / desk
        if (place / "adapter.json").is_file():
            continue
        place.mkdir(parents=True, exist_ok=True)
        data = place / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(desk)))
        config = pipeline.create_training_config(DEFAULT_MODEL, str(data), str(place), **SETTINGS)
        record = pipeline.train(config)
        learnt = record["canary"] and record["canary"]["text"] == answer_of(desk) and record["dev_losses"][-1] < 0.1
        assert learnt, f"the adapter for {desk} did not learn: {record['canary']}, dev losses {record['dev_losses']}"
        _say(f"adapter {number} of {len(DESKS)} ({desk}): {record['seconds']:.0f} s, dev losses {record['dev_losses']}")
        (place / "adapter.json").write_text(json.dumps({"canary": record["canary"], "seconds": record["seconds"]}))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
