"""Do the embedded engine, PEFT and vLLM write the same text? Greedy answers to 200 real calls by two real adapters.

The calls are rows that adapters were trained on, as the gateway asks them: the specialist's own prompt, no sampling,
the end token obeyed, up to 48 tokens. The servers get them 8 at a time, adapters mixed; transformers' `generate`
with PEFT answers padded batches of 8. Where two differ, the first token in which they do is weighed by PEFT: the gap
between the log-probabilities of both tokens after the same words. A gap near nothing is a tie that rounding decides.

    python -m benchmarks.same_answers --adapter ADAPTER ROWS --adapter ADAPTER ROWS   # trained ones, with JSON lines
    JOURNEYMAN_DATA=... python -m benchmarks.same_answers                             # trains two first: minutes

ROWS have `prompt`, or `input` to which the plain template adds a line end.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from benchmarks.engine import ROOT, ask_child, call, install_vllm, running, say
from tests.e2e.engine_process import model_folder, start_engine
from tests.vllm.vllm_process import running_vllm

FAMILIES: Final = ("intent_banking", "voice_tools")
CALLS: Final = 200
NEW_TOKENS: Final = 48
TOGETHER: Final = 8
VLLM_PYTHON: Final = ROOT / ".venv-vllm" / "bin" / "python"


class Job(NamedTuple):
    """One call."""

    adapter: str
    prompt: str


class System(Protocol):
    """Something that answers."""

    name: str

    def answer(self, jobs: Sequence[Job]) -> list[str]:
        """The answers' texts, in order."""


class Server:
    """An OpenAI-compatible server."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url

    def answer(self, jobs: Sequence[Job]) -> list[str]:
        """All at once, one request each."""
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(self._ask, jobs))

    def _ask(self, job: Job) -> str:
        body = {"model": job.adapter, "prompt": job.prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
        return str(call(f"{self._url}/v1/completions", body)["choices"][0]["text"])


class Peft:
    """A child that runs `generate`."""

    name = "PEFT"

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def answer(self, jobs: Sequence[Job]) -> list[str]:
        """One padded batch, the adapters mixed."""
        return list(ask_child(self._child, {"jobs": jobs})["texts"])

    def gap(self, job: Job, one: str, other: str) -> dict[str, Any]:
        """What PEFT thinks of the first token in which two answers differ."""
        return ask_child(self._child, {"gap": [*job, one, other]})


def child(adapters: dict[str, str]) -> None:
    """Reads jobs on stdin, answers on stdout: float32, as PEFT runs by default on a CPU."""
    import torch  # noqa: PLC0415 - the child only
    from peft import PeftModel  # noqa: PLC0415 - the child only
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - the child only
    from transformers.utils import logging  # noqa: PLC0415 - the child only

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    for name, folder in adapters.items():
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
    model.eval()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        with torch.inference_mode():
            said = _gap(model, tokenizer, *message["gap"]) if "gap" in message else _texts(model, tokenizer, message)
        print(json.dumps(said), flush=True)


def _texts(model: Any, tokenizer: Any, message: dict[str, Any]) -> dict[str, Any]:
    names, prompts = zip(*message["jobs"], strict=True)
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True)
    out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, adapter_names=list(names))
    new = out[:, inputs["input_ids"].shape[1] :]
    return {"texts": tokenizer.batch_decode(new, skip_special_tokens=True)}


def _gap(model: Any, tokenizer: Any, adapter: str, prompt: str, one: str, other: str) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - the child only

    prompt_ids = tokenizer(prompt)["input_ids"]
    a, b = ([*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in (one, other))
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if at is None:
        return {"at": None, "gap": None, "one": "", "other": ""}
    model.set_adapter(adapter)
    logits = model(torch.tensor([prompt_ids + a[:at]])).logits[0, -1]
    logprobs = torch.log_softmax(logits.double(), -1)
    gap = abs(float(logprobs[a[at]] - logprobs[b[at]]))
    return {"at": at, "gap": gap, "one": tokenizer.decode(a[at]), "other": tokenizer.decode(b[at])}


class Given(NamedTuple):
    """A trained adapter and the rows to ask it."""

    folder: Path
    rows: Path


def trained(folder: Path) -> list[Given]:
    """Trains one adapter a family by the product's pipeline, on $JOURNEYMAN_DATA."""
    from pipelines.fine_tune import PEFTFineTunePipeline  # noqa: PLC0415 - torch, only when it is needed
    from specialists.engine.settings import DEFAULT_MODEL  # noqa: PLC0415 - likewise

    if "JOURNEYMAN_DATA" not in os.environ:
        sys.exit("set JOURNEYMAN_DATA to the workloads' folder, or name trained adapters with --adapter")
    pipeline, found = PEFTFineTunePipeline(say), []
    for family in FAMILIES:
        rows = folder / f"{family}.jsonl"
        lines = (Path(os.environ["JOURNEYMAN_DATA"]) / f"{family}.jsonl").read_text().splitlines()
        every = [row for row in map(json.loads, lines) if row["split"] == "train"]
        pairs = [{"input": row["input"], "output": _compact(row["expected"])} for row in every]
        rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        config = pipeline.create_training_config(
            DEFAULT_MODEL, str(rows), str(folder / family), preset="balanced", max_examples=300, evaluations_per_epoch=1
        )
        say(f"training {family}")
        found.append(Given(Path(pipeline.train(config)["adapter"]), rows))
    return found


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def jobs_of(given: dict[str, Given], count: int) -> list[Job]:
    """Rows of each adapter by turns, the first of each file."""
    each = [[Job(name, prompt) for prompt in _prompts(one.rows)] for name, one in given.items()]
    mixed = [job for jobs in itertools.zip_longest(*each) for job in jobs if job is not None]
    return mixed[:count]


def _prompts(path: Path) -> list[str]:
    rows = map(json.loads, path.read_text().splitlines())
    return list(dict.fromkeys(row["prompt"] if "prompt" in row else row["input"] + "\n" for row in rows))


@contextlib.contextmanager
def systems(given: dict[str, Given], folder: Path) -> Iterator[tuple[Peft, list[System]]]:
    """The three, each with the adapters; all end with the context."""
    adapters = {name: str(one.folder.resolve()) for name, one in given.items()}
    with contextlib.ExitStack() as stack:
        say("starting the embedded engine")
        engine = stack.enter_context(start_engine(*[f"--lora={name}={path}" for name, path in adapters.items()]))
        say("starting vLLM")
        vllm = stack.enter_context(running_vllm(str(VLLM_PYTHON), folder))
        for name, path in adapters.items():
            call(f"{vllm.base_url}/load_lora_adapter", {"lora_name": name, "lora_path": path})
        say("starting transformers with PEFT")
        command = [sys.executable, "-m", "benchmarks.same_answers", "--child", json.dumps(adapters)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        peft = Peft(stack.enter_context(running(process)))
        assert process.stdout
        process.stdout.readline()
        yield peft, [peft, Server("embedded engine", engine.url), Server("vLLM", vllm.url)]


def compare(given: dict[str, Given], jobs: list[Job], folder: Path) -> None:
    """Asks everyone, prints the agreement of each pair and every difference."""
    with systems(given, folder) as (peft, every):
        texts: dict[str, list[str]] = {system.name: [] for system in every}
        for begin in range(0, len(jobs), TOGETHER):
            for system in every:
                texts[system.name] += system.answer(jobs[begin : begin + TOGETHER])
            say(f"{min(begin + TOGETHER, len(jobs))} of {len(jobs)} calls")
        print(f"{len(jobs)} calls: " + ", ".join(f"{sum(j.adapter == n for j in jobs)} of {n}" for n in given))
        print("| pair | the same text | % |\n|---|---|---|")
        differing: list[tuple[str, str, int]] = []
        for one, other in itertools.combinations(texts, 2):
            different = [i for i, (a, b) in enumerate(zip(texts[one], texts[other], strict=True)) if a != b]
            same = len(jobs) - len(different)
            print(f"| {one} / {other} | {same} of {len(jobs)} | {100 * same / len(jobs):.1f} |")
            differing += [(one, other, i) for i in different]
        for one, other, i in differing:
            found = peft.gap(jobs[i], texts[one][i], texts[other][i])
            gap = "the same tokens" if found["gap"] is None else f"gap {found['gap']:.5f} at token {found['at']}"
            print(f"{jobs[i].adapter}, call {i}, {gap}:\n  {one}: {texts[one][i]!r}\n  {other}: {texts[other][i]!r}")


def main() -> None:
    """Trains where nothing was given, then compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", action="append", nargs=2, type=Path, metavar=("FOLDER", "ROWS"), default=[])
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    install_vllm()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        found = [Given(*pair) for pair in options.adapter] or trained(folder)
        given = {f"adapter-{number}": one for number, one in enumerate(found, start=1)}
        compare(given, jobs_of(given, options.calls), folder)
    say(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
