"""Two other gateways to stand beside ours: installed apart from the project, started on loopback.

Neither records, classifies or plans; they forward. Portkey: the npm package, in Node. vllm-router: the PyPI package,
in Rust.
"""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.loopback import SCRATCH, Children, free_port, need, wait_for_answer
from benchmarks.upstream import Server

PORTKEY = "@portkey-ai/gateway@1.15.2"
VLLM_ROUTER = "vllm-router==0.1.17"


def install_portkey() -> None:
    """Install Portkey's gateway into a git-ignored node_modules, once."""
    if (SCRATCH / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js").exists():
        return
    print(f"installing {PORTKEY}", flush=True)
    (SCRATCH / "portkey").mkdir(parents=True, exist_ok=True)
    npm = [
        need("npm", "npm"),
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        SCRATCH / "portkey",
        PORTKEY,
    ]
    subprocess.run(npm, check=True)


def install_vllm_router() -> None:
    """Install vllm-router into an environment of its own, once."""
    if (SCRATCH / "vllm-router/bin/vllm-router").exists():
        return
    print(f"installing {VLLM_ROUTER}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", SCRATCH / "vllm-router"], check=True)
    subprocess.run([SCRATCH / "vllm-router/bin/python", "-m", "pip", "install", "--quiet", VLLM_ROUTER], check=True)


def portkey_headers(upstream: Server) -> dict[str, str]:
    """What tells Portkey where to forward to."""
    return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{upstream.base_url}/v1"}


def start_portkey(group: Children, upstream: Server) -> Server:
    """Start Portkey without its console."""
    install_portkey()
    port = free_port()
    script = SCRATCH / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    env = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    child = group.start("portkey", [need("node", "nodejs"), script, f"--port={port}", "--headless"], port, env=env)
    server = Server(f"http://127.0.0.1:{port}", child.pid)
    wait_for_answer(server.chat_url, child, headers=portkey_headers(upstream))
    return server


def start_vllm_router(group: Children, upstream: Server) -> Server:
    """Start vllm-router with the stub as its one worker."""
    install_vllm_router()
    port, metrics_port = free_port(), free_port()
    options = ["--host", "127.0.0.1", "--port", port, "--worker-urls", upstream.base_url, "--policy", "round_robin"]
    quiet = ["--log-level", "error", "--prometheus-host", "127.0.0.1", "--prometheus-port", metrics_port]
    command = [SCRATCH / "vllm-router/bin/vllm-router", *options, *quiet]
    no_proxy = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    child = group.start("vllm-router", [str(part) for part in command], port, env={**os.environ, **no_proxy})
    server = Server(f"http://127.0.0.1:{port}", child.pid)
    wait_for_answer(server.chat_url, child)
    return server
