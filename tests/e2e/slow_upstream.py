"""A loopback upstream that answers slowly and notes when its caller goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

REGISTRY = """
version: 1
defaults: {{frontier: slow}}
backends:
  - {{name: upstream, kind: openai, url: "{url}/v1"}}
models:
  - model_name: slow
    backend: upstream
    safety_grade: A
    context_len: 32768
    eval_scores: {{"*": 0.9}}
    prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
"""


class SlowUpstream:
    """`tokens_before_stall` pieces come at once; then nothing more ever does."""

    def __init__(self) -> None:
        self.url = ""
        self.tokens_before_stall = 0
        self.asked = asyncio.Event()
        self.left_at: float | None = None
        self.left = asyncio.Event()
        self.bodies: list[dict[str, Any]] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        try:
            return await self._answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left_at = time.monotonic()
            self.left.set()
            raise

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if body.get("stream") and self.tokens_before_stall:
            await response.prepare(request)
            for number in range(self.tokens_before_stall):
                choice = {"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": None}
                await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        self.asked.set()
        await asyncio.sleep(3600)
        return response


@asynccontextmanager
async def slow_upstream() -> AsyncIterator[SlowUpstream]:
    upstream = SlowUpstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.chat)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    try:
        yield upstream
    finally:
        await runner.cleanup()
