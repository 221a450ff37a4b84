"""Starts the real vLLM server on this machine's CPU, on loopback, and ends it by its process id.

It runs in the environment that $JOURNEYMAN_VLLM_PYTHON names (`make test-vllm` makes it); nothing here imports vLLM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

READY_S = 300.0
"""Thirty-five seconds on two free cores; much longer on busy ones."""
MODEL = "smollm2-135m"
MAX_LORAS = 2
"""Adapters in one batch: fewer than there are, so that slots are contended for."""
MAX_CPU_LORAS = 4
OPTIONS = ("--enable-lora", "--max-lora-rank", "16", "--max-loras", str(MAX_LORAS))
OPTIONS += ("--max-cpu-loras", str(MAX_CPU_LORAS), "--dtype", "float32", "--enforce-eager")
OPTIONS += ("--max-model-len", "1024", "--max-num-seqs", "16", "--disable-uvicorn-access-log")
SETTINGS = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    # Threads that spin while they wait for each other make a busy machine's server forty times slower, not ten.
    "OMP_WAIT_POLICY": "passive",
    "KMP_BLOCKTIME": "0",
}


class VllmServer:
    """The server of one port; `start` and `kill` may follow one another."""

    def __init__(self, python: str, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        self._command += ["--port", str(self.port), "--model", str(model), "--served-model-name", MODEL, *OPTIONS]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it is ready, saying so every ten seconds."""
        begun = told = time.monotonic()
        with self.log.open("ab") as log:
            # A session of its own: its engine and worker are children, and all of them must go when it is killed.
            self._process = subprocess.Popen(
                self._command, env=os.environ | SETTINGS, stdout=log, stderr=log, start_new_session=True
            )
        while not self.is_ready():
            waited = time.monotonic() - begun
            if self._process.poll() is not None or waited > READY_S:
                self.stop()
                raise RuntimeError(f"vLLM was not ready after {waited:.0f} s:\n{self.log.read_text()[-4000:]}")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"waiting for vLLM: {waited:.0f} s of {READY_S:.0f}", file=sys.stderr, flush=True)
            time.sleep(0.5)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url + "/health", timeout=2):
            return True
        return False

    def kill(self) -> None:
        """SIGKILL, as an out-of-memory killer would: to the server and to what it started."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Asks it to end, then kills what is left of its session."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def metric(self, name: str) -> float:
        """The sum of a metric's series, 0 when it has none yet."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))


@contextlib.contextmanager
def running_vllm(python: str, folder: Path) -> Iterator[VllmServer]:
    from tests.e2e.engine_process import model_folder

    server = VllmServer(python, model_folder(), folder / "vllm.log")
    try:
        server.start()
        yield server
    finally:
        server.stop()
