"""The engine as a process: refuses when full, ends with its parent, says why it cannot start. A tiny model is quick."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.engine_process import ROOT, EngineProcess, model_folder, start_engine

torch = pytest.importorskip("torch", reason="the engine extra is not installed")
pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's tokenizer with one small random layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_folder() / name, folder / name)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=49152, max_position_embeddings=8192, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


def complete(engine: EngineProcess, max_tokens: int) -> tuple[int, Any, str | None]:
    body = {"model": engine.model, "prompt": "a", "max_tokens": max_tokens, "ignore_eos": True}
    request = urllib.request.Request(f"{engine.url}/v1/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read()), None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers["retry-after"]


def test_a_full_engine_answers_503_with_a_wait_and_the_rest_as_usual(tiny: Path) -> None:
    with (
        start_engine("--model", str(tiny), "--max-running", "1", "--max-waiting", "2") as engine,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: complete(engine, 400), range(8)))
    served = [body for status, body, _ in answers if status == 200]
    refused = [(body, wait) for status, body, wait in answers if status == 503]
    assert len(served) + len(refused) == 8
    assert len(served) >= 2  # two wait; whether one runs already when the last comes is chance
    assert refused
    assert all(body["usage"]["completion_tokens"] == 400 for body in served)
    assert all(int(wait) >= 1 and body["error"]["code"] == "engine_overloaded" for body, wait in refused)


def test_it_ends_with_the_process_it_was_told_to_watch(tiny: Path) -> None:
    watched = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        engine = start_engine("--model", str(tiny), "--parent-pid", str(watched.pid))
    finally:
        watched.kill()
        watched.wait()
    assert engine.process.wait(timeout=20) == 0


def start_and_fail(*options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "specialists.engine", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_a_taken_port_and_a_bad_folder_are_named(tiny: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = start_and_fail("--model", str(tiny), "--port", str(port))
    assert code == 3
    assert f"127.0.0.1:{port}" in said
    code, said = start_and_fail("--model", str(tmp_path))
    assert code == 2
    assert "config.json" in said
    assert start_and_fail("--model", str(tiny), "--lora", "nameless")[0] == 2
