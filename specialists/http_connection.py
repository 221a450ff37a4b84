"""One kept-alive HTTP/1.1 connection to a backend, one call at a time; llhttp (by httptools) takes the answers apart.

Knows nothing of pools, JSON or models. benchmarks/http_clients.py chose it: a third of the CPU.
Raises the standard library's ConnectionError and TimeoutError, and AnswerTooLargeError or MalformedAnswerError.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

MAX_HEAD_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
_PAUSE_BYTES = 512 * 1024
_RESUME_BYTES = 128 * 1024


class MalformedAnswerError(ConnectionError):
    """What came back is not HTTP/1.1."""


class AnswerTooLargeError(ConnectionError):
    """The answer is larger than this client is ready to hold."""


class Connection(asyncio.Protocol):
    """A socket with at most one call in flight.

    `send`, then `wait_head`, then `read_chunk` until it returns nothing. `reusable` says if another call may follow.
    Whoever gives up half-way must `abort`; the next caller would read the rest of this answer otherwise.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.idle_since = 0.0
        self.was_idle = False
        """Whether the call under way found it idle: the server may have been closing it just then."""
        self.sent_at = 0.0
        self._reset()
        self._ended = True

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._received = 0
        self._paused = False
        self._has_head = False
        self._ended = False
        self._keeps_alive = False
        self._error: Exception | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the socket is gone."""
        return self._transport is None or self._transport.is_closing()

    @property
    def has_ended(self) -> bool:
        """Whether the whole answer is here, read or not, or no more of it can come."""
        return self._ended or self._error is not None

    @property
    def was_closed_while_idle(self) -> bool:
        """Whether an idle connection was lost before a byte of the answer: the request was hardly seen."""
        return self.was_idle and self.is_closed and not self._received

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end and the server keeps the connection."""
        return (
            self._ended
            and self._keeps_alive
            and self._error is None
            and not self._chunks
            and self._transport is not None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0
        )

    def send(self, head: bytes, body: bytes) -> None:
        """Write a request; the answer's state starts anew."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was closed before the request")
        self._reset()
        self.sent_at = self._loop.time()
        self._transport.write(head + body)

    async def wait_head(self, due_at: float) -> int:
        """Return the status once the answer's head is here. `due_at` is on the loop's clock; raises TimeoutError."""
        while not self._has_head:
            if self._error is not None:
                raise self._error
            await self._wait(due_at)
        return self.status

    async def read_chunk(self, due_at: float) -> bytes:
        """Return the next piece of the body, or nothing at its end."""
        while not self._chunks:
            if self._ended:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait(due_at)
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._paused and self._buffered < _RESUME_BYTES:
            self._paused = False
            self._resume()
        return chunk

    def abort(self) -> None:
        """Close at once; the other side sees it within a round trip."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, due_at: float) -> None:
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_at(due_at, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # The loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; whatever arrives while nothing was asked ends the connection."""
        if self._ended:
            self._fail(MalformedAnswerError("bytes that nobody asked for"))
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(MalformedAnswerError(f"not an HTTP/1.1 answer: {error}"))
            return
        if self._received > MAX_ANSWER_BYTES or (not self._has_head and self._received > MAX_HEAD_BYTES):
            self._fail(AnswerTooLargeError(f"the answer is over {MAX_ANSWER_BYTES >> 20} MiB, or its head over 64 KiB"))
            return
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer, well if the close is what marks its end."""
        self._transport = None
        if not self._ended:
            if self._has_head and self._ends_by_close():
                self._ended = True
            elif self._error is None:
                self._error = ConnectionResetError(f"the connection was lost before the answer's end ({exc or 'EOF'})")
        self._wake()
        self._on_lost(self)

    def _ends_by_close(self) -> bool:
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    # The parser calls these.

    def on_message_begin(self) -> None:
        """Refuse a second answer; the first one stands, but nothing else may come over this connection."""
        if self._ended:
            self._fail(MalformedAnswerError("two answers to one request"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers come after the head and are left out."""
        if not self._has_head:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Note the status; a 1xx answer only announces the real one."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()
            return
        self.status = status
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        """Queue a piece, and stop reading when the consumer is behind."""
        if self._ended:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > _PAUSE_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        if self._has_head:
            self._ended = True
            self._keeps_alive = self._parser.should_keep_alive()


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
