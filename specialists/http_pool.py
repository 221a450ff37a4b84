"""The pooled client: kept-alive connections to one backend, at most so many at once, first come first served.

No redirects, no cookies, no proxies, no decompression. Knows nothing of retries or models.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from functools import cache
from urllib.parse import urlsplit

from msgspec import Struct

from registry.errors import ConfigError

from .http_connection import Connection

IDLE_S = 60.0
"""An idle connection older than this is closed rather than used again."""


DRAIN_S = 0.5
"""How long the end of a stream's framing may lag behind its closing event."""


class Origin(Struct, frozen=True):
    """Where a backend is, taken from its URL."""

    host: str
    port: int
    tls: bool
    base_path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def place(self) -> str:
        """Host and port, always with the port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_origin(url: str) -> Origin:
    """Take a base URL apart. Raises ConfigError when it is not a plain http(s) URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"url {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ConfigError(f"url {url!r} must look like http://host:port/v1, without a user, a query or a fragment")
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise ConfigError(f"url {url!r} must be printable ASCII without spaces")
    tls = parts.scheme == "https"
    return Origin(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class PoolFullError(Exception):
    """No connection came free in time."""


class HttpPool:
    """Connections to one origin. A connection that is acquired must be released, whatever became of its call."""

    def __init__(self, origin: Origin, max_connections: int, headers: dict[str, str] | None = None) -> None:
        self.origin = origin
        self._most = max_connections
        self._open = 0
        self._idle: list[Connection] = []
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._drains: set[asyncio.Task[None]] = set()
        self._is_closed = False
        fixed = {"host": origin.authority, "accept-encoding": "identity", **(headers or {})}
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in fixed.items()).encode("ascii")
        self._post_heads: dict[str, bytes] = {}

    @property
    def open_count(self) -> int:
        """Connections that are open or being opened, in use or idle."""
        return self._open

    def post_head(self, path: str, length: int) -> bytes:
        """Return the head of a JSON POST to a path under the base URL."""
        head = self._post_heads.get(path)
        if head is None:
            line = f"POST {self.origin.base_path}{path} HTTP/1.1\r\n".encode("ascii")
            head = self._post_heads[path] = line + self._fixed + b"content-type: application/json\r\ncontent-length: "
        return head + b"%d\r\n\r\n" % length

    def get_head(self, path: str) -> bytes:
        """Return the head of a GET of a path under the base URL."""
        return f"GET {self.origin.base_path}{path} HTTP/1.1\r\n".encode("ascii") + self._fixed + b"\r\n"

    async def acquire(self, due_at: float) -> Connection:
        """Return an idle or a new connection.

        Raises TimeoutError (not connected by `due_at`), PoolFullError (all busy until then), OSError.
        """
        loop = asyncio.get_running_loop()
        connection = self._take_idle(loop.time())
        if connection is None and self._open >= self._most:
            connection = await self._wait_for_slot(due_at)
        elif connection is None:
            self._open += 1
        if connection is not None:
            return connection
        try:
            async with asyncio.timeout_at(due_at):
                return await self._connect(loop)
        except BaseException:
            self._give_slot()
            raise

    def release(self, connection: Connection) -> None:
        """Take a connection back: into the pool when its answer was read to the end, else closed."""
        if not connection.reusable or self._is_closed:
            connection.abort()
            self._give_slot()
            return
        connection.was_idle = False
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        self._close_stale(connection.idle_since)

    def release_after_end(self, connection: Connection) -> None:
        """Take back a connection whose closing event was read, though perhaps not yet the last bytes of its framing."""
        if connection.has_ended:
            self.release(connection)
            return
        task = asyncio.create_task(self._drain(connection))
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    async def _drain(self, connection: Connection) -> None:
        try:
            due_at = asyncio.get_running_loop().time() + DRAIN_S
            while await connection.read_chunk(due_at):
                pass
        except (TimeoutError, OSError):
            pass
        finally:
            self.release(connection)

    def close(self) -> None:
        """Close the idle connections now and the busy ones as they come back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().abort()
            self._open -= 1

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        _, connection = await loop.create_connection(
            lambda: Connection(loop, self._on_lost),
            self.origin.host,
            self.origin.port,
            ssl=_tls() if self.origin.tls else None,
            server_hostname=self.origin.host if self.origin.tls else None,
        )
        return connection

    async def _wait_for_slot(self, due_at: float) -> Connection | None:
        """Return a connection, or None when the caller now owns a free slot."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(due_at):
                return await waiter
        except BaseException as error:
            self._hand_on(waiter)
            if isinstance(error, TimeoutError):
                raise PoolFullError(f"all {self._most} connections are busy") from None
            raise

    def _hand_on(self, waiter: asyncio.Future[Connection | None]) -> None:
        """Pass on what a waiter was given in the moment in which it gave up."""
        if waiter.done() and not waiter.cancelled():
            connection = waiter.result()
            if connection is None:
                self._give_slot()
            else:
                self.release(connection)
        elif waiter in self._waiters:
            self._waiters.remove(waiter)

    def _give_slot(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._open -= 1

    def _take_idle(self, now: float) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed and now - connection.idle_since < IDLE_S:
                connection.was_idle = True
                return connection
            connection.abort()
            self._open -= 1
        return None

    def _close_stale(self, now: float) -> None:
        while self._idle and now - self._idle[0].idle_since >= IDLE_S:
            self._idle.pop(0).abort()
            self._open -= 1

    def _on_lost(self, connection: Connection) -> None:
        """Forget an idle connection that the server closed; one in use comes back by `release`."""
        if connection in self._idle:
            self._idle.remove(connection)
            self._open -= 1
