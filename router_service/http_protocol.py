"""One caller's connection: uvicorn's HTTP/1.1 with what it has not: deadlines, a limit for heads, and no way to linger.

Knows nothing of the application. What is closed here was never, or is no longer, a request that somebody answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
import msgspec
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_UPGRADE = frozenset({b"upgrade", b"http2-settings"})
_BAD = b"HTTP/1.1 400 Bad Request"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large"


class ConnectionLimits(Struct, frozen=True):
    """What one connection may take."""

    head_s: float = 10.0
    """Time for a request's head to arrive."""
    write_s: float = 30.0
    """Time in which a caller must take what waits for it before its connection is given up."""
    linger_s: float = 1.0
    """How long bytes are thrown away after an answer that did not wait for its request's body."""
    linger_bytes: int = 16 * 1024 * 1024
    """Most bytes that are thrown away in it."""
    head_bytes: int = 64 * 1024
    """Most bytes of a head, of trailers, or between two pieces of a body."""
    pipelined: int = 16
    """Most requests that wait behind the one that is being answered."""


class GuardedHttp(HttpToolsProtocol):
    """Ends a connection whose caller is slow, silent, too wordy, or speaks no HTTP."""

    limits = ConnectionLimits()
    _late: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    _idle_bytes = 0
    """Bytes that came since a head or a body last moved on."""
    _thrown_bytes = 0
    _is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection starts with waiting for a head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Parse. An upgrade to another protocol is passed over, as RFC 9110 allows; uvicorn would drop the body."""
        if self._is_ending:
            self._throw_away(len(data))
            return
        self._unset_keepalive_if_required()
        self._idle_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_with_http(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self.send_400_response("The request is not valid HTTP.")
            return
        if self._idle_bytes > self.limits.head_bytes:
            self._refuse(_TOO_LARGE, "The head of the request is too large.", "head_too_large")
        elif self._late is None and not self._is_answering() and self._is_between_requests():
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._idle_bytes = 0
        self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; those behind a body are dropped."""
        if self._late is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there. While a call is answered, reading goes on: it is how a caller's leaving is seen."""
        if self.parser.should_upgrade():
            return
        self._stop_waiting()
        self._idle_bytes = 0
        super().on_headers_complete()
        if len(self.pipeline) > self.limits.pipelined:
            self._end()
        elif self.pipeline:
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is all there."""
        if self.parser.should_upgrade():
            return
        self._idle_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out. When it did not wait for the body, nothing on this connection can be trusted after it."""
        answered = self._running
        super().on_response_complete()
        if answered is not None and answered.more_body:
            self._linger()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more; the call that is being answered learns it, also with others queued behind it."""
        self._is_ending = True
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def pause_writing(self) -> None:
        """The caller takes less than it is given."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It took what was waiting."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked."""
        self._end()

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP, in the body that every error has, and close."""
        self._refuse(_BAD, msg, "invalid_request")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _is_between_requests(self) -> bool:
        return self._running is None or self.cycle is self._running

    def _stay_with_http(self, rest: bytes) -> None:
        """Take the request again without its wish for another protocol: the parser stops reading at such a head."""
        method, url, headers = self.parser.get_method(), self.url, self.headers
        self._stop_waiting()
        head = [b"%s %s HTTP/%s\r\n" % (method, url, self.parser.get_http_version().encode())]
        for name, value in headers:
            if name == b"connection":
                value = b", ".join(t for t in value.split(b",") if t.strip().lower() not in _UPGRADE)  # noqa: PLW2901
            if name not in _UPGRADE:
                head.append(b"%s: %s\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self._idle_bytes = 0
        self.data_received(b"".join([*head, b"\r\n", rest]))

    def _refuse(self, status: bytes, message: str, code: str) -> None:
        """Answer a request that cannot be read; into the middle of another one's answer nothing is written."""
        running = self._running
        if running is not None and not running.response_complete and not running.response_started:
            running.disconnected = True
            running.message_event.set()
        elif self._is_answering():
            self._end()
            return
        if not self.transport.is_closing():
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
            body = msgspec.json.encode({"error": error})
            head = b"%s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
            self._linger()

    def _linger(self) -> None:
        """Say no more, read on for a moment so that the answer is not lost to a reset, then close."""
        if self._is_ending or self.transport.is_closing():
            return
        self._is_ending = True
        self._stop_waiting()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self.limits.linger_s, self._end)

    def _throw_away(self, count: int) -> None:
        self._thrown_bytes += count
        if self._thrown_bytes > self.limits.linger_bytes:
            self.transport.abort()

    def _end(self) -> None:
        """Close; a caller that does not take what is left is not waited for."""
        self._is_ending = True
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.close()
            self.loop.call_later(self.limits.write_s, self.transport.abort)

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(self.limits.head_s, self._too_late)

    def _too_late(self) -> None:
        self._late = None
        if self._is_answering():
            self._wait_for_head()  # the next request's head may take its time while this one is answered
        else:
            self._end()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def guarded(limits: ConnectionLimits) -> type[GuardedHttp]:
    """Return the protocol under other limits."""
    return type("GuardedHttp", (GuardedHttp,), {"limits": limits})
