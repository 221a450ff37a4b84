"""Starts a real `journeyman serve` on a free port and ends it by its process id."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ECHO_REGISTRY = """
version: 1
defaults: {frontier: echo, aliases: {gpt-4o: auto}}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: echo, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {"*": 0.95}}
"""


@dataclass
class GatewayProcess:
    url: str
    process: subprocess.Popen[bytes]
    state: Path
    registry: Path
    log: Path

    @property
    def base_url(self) -> str:
        return self.url + "/v1"


def write_registry(folder: Path, text: str) -> Path:
    path = folder / "registry.yaml"
    path.write_text(textwrap.dedent(text))
    return path


@contextlib.contextmanager
def running_gateway(
    folder: Path, registry: str = ECHO_REGISTRY, *arguments: str, **environment: str
) -> Iterator[GatewayProcess]:
    path = write_registry(folder, registry)
    state, log = folder / "state", folder / "gateway.log"
    command = [sys.executable, "-m", "router_service.cli", "serve", "--registry", str(path), "--state", str(state)]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*command, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=errors, env=os.environ | environment
        )
    try:
        yield GatewayProcess(_ready_url(process, log), process, state, path, log)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _ready_url(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout is not None
    end = time.monotonic() + 60
    while time.monotonic() < end:
        line = process.stdout.readline()
        if not line and process.poll() is not None:
            break
        if line.startswith(b"{"):
            ready = json.loads(line)
            if ready.get("event") == "ready":
                return str(ready["url"])
    raise AssertionError(f"the gateway did not start:\n{log.read_text()[-4000:]}")
