"""A model server in the test's own process, as vLLM behaves; the test says how slow it is, how it fails, what fits."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

from aiohttp import web


class Server:
    """Answers with its own name; a test says how it fails: a status, or where its stream breaks."""

    def __init__(self, name):
        self.name = name
        self.url = ""
        self.calls = []
        self.adapters = {}
        self.status = 200
        self.pieces = 3
        self.delay_s = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.lists_always = False
        self.limit = 99
        self.load_s = 0.0
        self.most_loaded = 0

    async def answer(self, request):
        body = await request.json()
        self.calls.append(body["model"])
        if body["model"] not in ("base", *self.adapters):
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        if self.status != 200:
            return web.json_response({"error": {"message": "broken"}}, status=self.status)
        if body.get("stream"):
            return await self.stream(request)
        await self.gate.wait()
        await asyncio.sleep(self.delay_s)
        choice = {"index": 0, "finish_reason": "stop", "text": self.name, "message": {"content": self.name}}
        return web.json_response({"choices": [choice]})

    async def stream(self, request):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        deltas = [{"role": "assistant", "content": ""}, *[{"content": self.name}] * 3]
        for delta in deltas[: self.pieces]:
            await response.write(event({"index": 0, "delta": delta}))
        await self.gate.wait()
        if self.pieces < 3:
            request.transport.abort()
            return response
        await response.write(event({"index": 0, "delta": {}, "finish_reason": "stop"}) + b"data: [DONE]\n\n")
        return response

    async def models(self, request):
        if not self.lists_always:
            await self.gate.wait()
        return web.json_response({"data": [{"id": name} for name in ("base", *self.adapters)]})

    async def load(self, request):
        body = await request.json()
        if body["lora_path"] == f"/not/on/{self.name}":
            return web.json_response({"error": {"message": "no such folder"}}, status=400)
        if body["lora_name"] in self.adapters:
            return web.json_response({"error": {"message": "it has already been loaded"}}, status=400)
        if len(self.adapters) >= self.limit:
            return web.json_response({"error": {"message": "unload one first"}}, status=400)
        await asyncio.sleep(self.load_s)
        self.adapters[body["lora_name"]] = body["lora_path"]
        self.most_loaded = max(self.most_loaded, len(self.adapters))
        return web.Response()

    async def unload(self, request):
        self.adapters.pop((await request.json())["lora_name"], None)
        return web.Response()


def event(choice):
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@asynccontextmanager
async def serving(server, port=0):
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", server.answer), web.post("/v1/completions", server.answer)])
    app.add_routes([web.get("/v1/models", server.models), web.post("/v1/load_lora_adapter", server.load)])
    app.add_routes([web.post("/v1/unload_lora_adapter", server.unload)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
