"""One HTTP exchange on bare ASGI: reads a bounded body in bounded time, answers whole or in events,
and cancels the work when the caller goes.

Knows nothing of OpenAI. It exists beside the framework's own responses because this is the hot path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec

from registry.errors import InvalidRequestError, PayloadTooLargeError, RateLimitedError

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"


class CallerGoneError(Exception):
    """The caller closed the connection before it had the answer."""


class Intake:
    """What bodies may take: each its size and time, and all that are still arriving their memory together."""

    def __init__(self, max_bytes: int, timeout_s: float, room_bytes: int = 256 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self._left_bytes = max(room_bytes, max_bytes)

    def take(self, count: int) -> None:
        """Count bytes that wait for the rest of their body. Raises RateLimitedError."""
        if count > self._left_bytes:
            raise RateLimitedError("Too many large bodies are arriving at once; try again shortly.")
        self._left_bytes -= count

    def give_back(self, count: int) -> None:
        """They wait no more."""
        self._left_bytes += count


async def read_body(scope: Mapping[str, Any], receive: Receive, intake: Intake) -> bytes:
    """Return the body.

    Raises PayloadTooLargeError before buffering too much, CallerGoneError, InvalidRequestError, RateLimitedError.
    """
    _check_declared_length(scope, intake.max_bytes)
    try:
        async with asyncio.timeout(intake.timeout_s):
            return await _receive_all(receive, intake)
    except TimeoutError:
        raise InvalidRequestError(f"The body did not arrive within {intake.timeout_s:g} s.") from None


def _check_declared_length(scope: Mapping[str, Any], max_bytes: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > max_bytes:
            raise _too_large(max_bytes)
        if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise InvalidRequestError("Compressed request bodies are not accepted.", param="content-encoding")


async def _receive_all(receive: Receive, intake: Intake) -> bytes:
    piece, more = await _receive(receive)
    if not more:
        if len(piece) > intake.max_bytes:
            raise _too_large(intake.max_bytes)
        return piece
    pieces, held = [piece], 0
    try:
        intake.take(len(piece))
        held = len(piece)
        while more:
            piece, more = await _receive(receive)
            if held + len(piece) > intake.max_bytes:
                raise _too_large(intake.max_bytes)
            intake.take(len(piece))
            held += len(piece)
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        intake.give_back(held)


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """The next piece of the body, and whether there is more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise CallerGoneError
    return message.get("body", b""), bool(message.get("more_body"))


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body is over the limit of {max_bytes} bytes.")


async def until_gone(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run the work in this task; cancel it, and raise CallerGoneError, as soon as the caller disconnects."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise CallerGoneError from None
        raise
    finally:
        watcher.cancel()


async def send_bytes(send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Answer with a whole JSON body."""
    await send({"type": "http.response.start", "status": status, "headers": _head(JSON, headers, len(body))})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_json(send: Send, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
    """Answer with a JSON value."""
    await send_bytes(send, status, msgspec.json.encode(value), headers)


class EventStream:
    """A stream of server-sent events; the head goes out with the first event."""

    def __init__(self, send: Send, headers: Mapping[str, str] | None = None) -> None:
        self._send = send
        self.headers: dict[str, str] = dict(headers or {})
        self.started = False

    async def write(self, event: bytes) -> None:
        """Send one event, already framed."""
        if not self.started:
            self.started = True
            head = [*_head(EVENTS, self.headers, None), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
            await self._send({"type": "http.response.start", "status": 200, "headers": head})
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def close(self) -> None:
        """End the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _head(content_type: bytes, headers: Mapping[str, str] | None, length: int | None) -> list[tuple[bytes, bytes]]:
    head = [(b"content-type", content_type)]
    if length is not None:
        head.append((b"content-length", str(length).encode()))
    if headers:
        head.extend((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items())
    return head
