"""The two ends of a gateway benchmark: nginx as the stub upstream, and our gateway as a user would start it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loopback import ROOT, Children, chat_answer, free_port, need, wait_for_answer

STUB = Path(__file__).resolve().parent / "stub"
JOURNEYMAN = [Path(sys.executable).parent / "journeyman", "serve"]
"""Our gateway's command; the options are added by `start_gateway`. One process answers."""


@dataclass(frozen=True)
class Server:
    """Something that answers chat calls: where, and as which process."""

    base_url: str
    pid: int

    @property
    def chat_url(self) -> str:
        """Where chat calls go."""
        return f"{self.base_url}/v1/chat/completions"


def start_nginx(group: Children) -> Server:
    """Start nginx with a fixed answer, its files in a folder of its own."""
    nginx = need("nginx", "nginx-light")
    port = free_port()
    folder = group.folder / "nginx"
    folder.mkdir(mode=0o755)
    answer = chat_answer().decode().replace("'", "")
    text = (STUB / "nginx.conf").read_text().replace("@PORT@", str(port)).replace("@ANSWER@", answer)
    config = folder / "nginx.conf"
    config.write_text(text)
    child = group.start("nginx", [nginx, "-p", folder, "-c", config, "-e", folder / "start.log"], port)
    return Server(f"http://127.0.0.1:{port}", child.pid)


def start_gateway(group: Children, upstream: Server, *, state: Path | None = None) -> Server:
    """Start our gateway with classification, planning, redaction and recording on, as they are by default."""
    port = free_port()
    options = ["--registry", STUB / "registry.yaml", "--port", port, "--state", state or group.folder / "state"]
    env = {"BENCHMARK_UPSTREAM": f"{upstream.base_url}/v1", "PYTHONPATH": str(ROOT)}
    child = group.start("journeyman", [*JOURNEYMAN, *map(str, options), "--log-level", "warning"], port, env=env)
    server = Server(f"http://127.0.0.1:{port}", child.pid)
    wait_for_answer(server.chat_url, child)
    return server
