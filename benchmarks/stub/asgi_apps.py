"""The same tiny application in several forms, so that what is compared is the server or the framework around it.

`POST /v1/chat/completions` decodes a 1 kB chat call with msgspec and answers 1 kB of JSON, or 32 server-sent events
when the call says `stream`. The rest of the routes let a probe see how a server behaves.
"""

# ruff: noqa: PLC0415 - a form imports its framework only when it is the one that is measured

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from benchmarks.loopback import chat_answer

EVENT = (
    b'data: {"id":"chatcmpl-stub","object":"chat.completion.chunk",'
    b'"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
)
EVENTS = [*[EVENT] * 31, b"data: [DONE]\n\n"]
SEEN: dict[str, float] = {}


class Message(msgspec.Struct):
    """One message of a call."""

    role: str
    content: str


class ChatCall(msgspec.Struct):
    """What the application reads of a call."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    stream: bool = False


DECODER = msgspec.json.Decoder(ChatCall)
ENCODER = msgspec.json.Encoder()
ANSWER_VALUE = msgspec.json.decode(chat_answer())
JSON_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(ENCODER.encode(ANSWER_VALUE))).encode()),
]
SSE_HEADERS = [(b"content-type", b"text/event-stream")]


async def _body(receive: Any) -> bytes:
    parts = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _chat(receive: Any, send: Any) -> None:
    call = DECODER.decode(await _body(receive))
    if not call.stream:
        answer = ENCODER.encode(ANSWER_VALUE)
        await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})
        await send({"type": "http.response.body", "body": answer})
        return
    await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
    for event in EVENTS:
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _reply(send: Any, status: int, value: object) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": ENCODER.encode(value)})


async def _hold(receive: Any, send: Any) -> None:
    """Answer after three seconds; note when a caller's going away was told."""
    await _body(receive)
    begun = time.monotonic()
    gone = asyncio.ensure_future(receive())
    done, _ = await asyncio.wait({gone}, timeout=3.0)
    if done and gone.result()["type"] == "http.disconnect":
        SEEN["hold"] = time.monotonic() - begun
        return
    gone.cancel()
    await _reply(send, 200, {"held": True})


async def _stream(receive: Any, send: Any, name: str, every_s: float) -> None:
    """Stream for five seconds; note when the caller's going away was told, by `receive` or by `send`."""
    await _body(receive)
    begun = time.monotonic()
    await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
    await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    gone = asyncio.ensure_future(receive())
    try:
        while time.monotonic() < begun + 5.0:
            done, _ = await asyncio.wait({gone}, timeout=every_s)
            if done:
                SEEN[name] = time.monotonic() - begun
                return
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    except OSError:
        SEEN[f"{name}_send"] = time.monotonic() - begun
        return
    finally:
        gone.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _flood(receive: Any, send: Any) -> None:
    """Send up to 256 MiB as fast as `send` lets it; note how much it took."""
    await _body(receive)
    chunk = b"x" * 65536
    await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
    for count in range(4096):
        SEEN["flood_mib"] = count / 16
        try:
            await asyncio.wait_for(send({"type": "http.response.body", "body": chunk, "more_body": True}), 3.0)
        except (TimeoutError, OSError):
            return
    await send({"type": "http.response.body", "body": b""})


async def _early_413(receive: Any, send: Any) -> None:
    """Refuse after the first 64 KiB of the body, unread."""
    size = 0
    while True:
        event = await receive()
        size += len(event.get("body", b""))
        SEEN["read_mib"] = size / 2**20
        if size > 65536:
            return await _reply(send, 413, {"error": "too large"})
        if event["type"] == "http.disconnect" or not event.get("more_body"):
            return await _reply(send, 200, {})


async def _slow_body(receive: Any, send: Any) -> None:
    """The application's own deadline on a body."""
    try:
        async with asyncio.timeout(1.0):
            await _body(receive)
    except TimeoutError:
        return await _reply(send, 408, {"error": "body too slow"})
    return await _reply(send, 200, {})


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """The application on bare ASGI."""
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    match scope["path"]:
        case "/v1/chat/completions":
            await _chat(receive, send)
        case "/hold":
            await _hold(receive, send)
        case "/stream":
            await _stream(receive, send, "stream", 0.1)
        case "/quiet":
            await _stream(receive, send, "quiet", 4.0)
        case "/flood":
            await _flood(receive, send)
        case "/early413":
            await _early_413(receive, send)
        case "/slowbody":
            await _slow_body(receive, send)
        case "/seen":
            await _body(receive)
            await _reply(send, 200, SEEN)
        case _:
            await _reply(send, 404, {})
    return None


def litestar_plain() -> Any:
    """Litestar as its tutorial has it: typed `data`, a value returned, OpenAPI on."""
    from litestar import Litestar, post
    from litestar.response import Stream

    @post("/v1/chat/completions", status_code=200)
    async def chat(data: ChatCall) -> Any:
        return Stream(_events(), media_type="text/event-stream") if data.stream else ANSWER_VALUE

    return Litestar([chat])


def litestar_lean() -> Any:
    """Litestar without OpenAPI; the handler takes the request, decodes by itself and answers bytes."""
    return _lean([])


def litestar_middleware() -> Any:
    """`litestar_lean` behind one `ASGIMiddleware` that looks at each message sent."""
    from litestar.middleware import ASGIMiddleware

    class Timing(ASGIMiddleware):
        async def handle(self, scope: Any, receive: Any, send: Any, next_app: Any) -> None:
            async def noted(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message.setdefault("headers", []).append((b"x-journeyman-id", b"0"))
                await send(message)

            await next_app(scope, receive, noted)

    return _lean([Timing()])


def _lean(middleware: list[Any]) -> Any:
    from litestar import Litestar, Request, Response, post
    from litestar.response import Stream

    @post("/v1/chat/completions", status_code=200)
    async def chat(request: Request[Any, Any, Any]) -> Response[Any]:
        call = DECODER.decode(await request.body())
        if call.stream:
            return Stream(_events(), media_type="text/event-stream")
        return Response(ENCODER.encode(ANSWER_VALUE), media_type="application/json")

    return Litestar([chat], openapi_config=None, middleware=middleware)


def litestar_mounted() -> Any:
    """The bare application as a Litestar `@asgi` handler: routing, state and exceptions, but no request object."""
    from litestar import Litestar, asgi

    @asgi("/v1/chat/completions", copy_scope=False)
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await _chat(receive, send)

    return Litestar([chat], openapi_config=None)


async def _events() -> AsyncIterator[bytes]:
    for event in EVENTS:
        yield event


def raw_app() -> Any:
    """The bare application, as a factory like the others."""
    return raw
