"""A loopback upstream that says, byte for byte, what a test tells it to, and counts who is connected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

REGISTRY = """
version: 1
defaults: {{frontier: remote, max_tokens: 100}}
backends:
  - name: remote
    kind: openai
    url: "{url}/v1"
    max_retries: 0
    breaker_failures: 100000
    deadlines: {{connect_ms: 500, first_token_ms: 700, between_tokens_ms: 500, total_ms: 1500}}
models:
  - model_name: remote
    backend: remote
    safety_grade: A
    context_len: 32768
    eval_scores: {{"*": 0.9}}
    prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
"""

WHOLE = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hello there"}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }
).encode()


def events(*texts: str) -> bytes:
    """A whole stream, as OpenAI sends it."""
    out = b""
    for text in texts:
        out += b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return out + b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n"


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def stream(body: bytes) -> bytes:
    """An event stream that ends when the connection does."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + body


class ScriptedUpstream:
    """`pieces`: what is sent for each request: bytes, or seconds to wait; then the connection is closed."""

    def __init__(self) -> None:
        self.url = ""
        self.pieces: list[bytes | float] = [answer(WHOLE)]
        self.connected = 0
        self.asked = asyncio.Semaphore(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        gone = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
            await reader.readexactly(length)
            self.asked.release()
            gone = asyncio.create_task(reader.read(1))
            await self._say(writer, gone)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if gone is not None:
                gone.cancel()
            self.connected -= 1
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, gone: asyncio.Task[bytes]) -> None:
        for piece in list(self.pieces):
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            else:
                await asyncio.wait([gone], timeout=piece)
            if gone.done():
                return


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
