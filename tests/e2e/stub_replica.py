"""A model server of its own process, as vLLM behaves: chat, completions, streams, adapters loaded while it runs.

`python stub_replica.py PORT DELAY_S` prints its address and answers every call with its own port, after the delay. An
adapter that is not loaded is a model that does not exist; a killed server comes back without adapters.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "base"


@dataclass
class StubReplica:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.name}/v1"

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def stub_replica(delay_s: float = 0.0, port: int = 0) -> Iterator[StubReplica]:
    command = [sys.executable, str(Path(__file__)), str(port), str(delay_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield StubReplica(int(process.stdout.readline()), process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def main(port: int, delay_s: float) -> None:
    """Serve until killed."""
    import asyncio
    import json

    from aiohttp import web

    adapters: dict[str, str] = {}
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    own_port = listener.getsockname()[1]

    def refusal(status: int, text: str) -> web.Response:
        return web.json_response({"error": {"message": text}}, status=status)

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in (MODEL, *adapters)]})

    async def load(request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in adapters:
            return refusal(400, "has already been loaded")
        adapters[body["lora_name"]] = body["lora_path"]
        return web.Response()

    async def unload(request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        return web.Response() if adapters.pop(name, None) is not None else refusal(404, "not loaded")

    async def answer(request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        if body["model"] not in (MODEL, *adapters):
            return refusal(404, f"The model `{body['model']}` does not exist.")
        if body.get("stream"):
            return await stream(request)
        await asyncio.sleep(delay_s)
        choice = {"index": 0, "finish_reason": "stop", "text": str(own_port), "message": {"content": str(own_port)}}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for delta in ({"role": "assistant", "content": ""}, *[{"content": f"{own_port} "}] * 5):
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            await asyncio.sleep(delay_s)
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await response.write(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n")
        return response

    async def serve() -> None:
        app = web.Application()
        app.add_routes([web.get("/v1/models", models), web.post("/v1/load_lora_adapter", load)])
        app.add_routes([web.post("/v1/unload_lora_adapter", unload)])
        app.add_routes([web.post("/v1/chat/completions", answer), web.post("/v1/completions", answer)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.SockSite(runner, listener, backlog=1024).start()
        print(own_port, flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
