"""One upstream's connections under deadlines, retries and a breaker: bytes out, bytes in.

Every failure leaves here as one of our errors. Knows nothing of what the bytes say.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from registry.entries import BackendEntry
from registry.errors import (
    BackendError,
    BackendOverloadedError,
    BackendRejectedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BreakerOpenError,
    StreamCutError,
)

from .backend import Health
from .breaker import Breaker
from .deadlines import CallClock, Due
from .http_connection import AnswerTooLargeError, Connection, MalformedAnswerError
from .http_pool import HttpPool, PoolFullError, parse_origin
from .openai_errors import Upstream, clean, never_again, status_error
from .retries import RetryBudget, backoff_s, worth_retrying

ASIDE_CONNECTIONS = 4
"""For probes and adapters, beside those of calls: a server whose connections are all busy is not a dead one."""


class Access(Struct, frozen=True):
    """Where a backend is and how to get in. With `fault` set it cannot be asked at all."""

    url: str
    api_key: str | None = None
    fault: str = ""


class Request(Struct, frozen=True):
    """A whole request, and whether its answer is a stream (a stream's first token has a deadline of its own)."""

    head: bytes
    body: bytes = b""
    streams: bool = False


class Caller:
    """Asks one upstream. `ask` returns a connection whose answer began well; `judged` takes it back."""

    def __init__(self, entry: BackendEntry, access: Access, draw: Callable[[], float] = random.random) -> None:
        self.entry = entry
        self.upstream = Upstream(entry, access.api_key)
        headers = {"authorization": f"Bearer {access.api_key}"} if access.api_key else {}
        self.pool = HttpPool(parse_origin(access.url), entry.max_connections, headers)
        self.aside = HttpPool(parse_origin(access.url), ASIDE_CONNECTIONS, headers)
        self._fault = access.fault
        self._breaker = Breaker(entry.breaker_failures, entry.breaker_open_ms)
        self._retries = RetryBudget()
        self._draw = draw

    def health(self) -> Health:
        """What is believed now."""
        if self._fault:
            return Health(False, self._fault)
        wait_s = self._breaker.wait_s(time.monotonic())
        if wait_s > 0:
            return Health(False, f"failed {self.entry.breaker_failures} times in a row; next try in {wait_s:.1f} s")
        return Health(True)

    def post(self, path: str, body: bytes, *, streams: bool = False) -> Request:
        """Make a POST of JSON to a path under the base URL."""
        return Request(self.pool.post_head(path, len(body)), body, streams)

    async def ask(self, request: Request, clock: CallClock) -> Connection:
        """Return a connection with a 2xx head. All retries happen here, before the first byte of an answer."""
        self._retries.on_call()
        tried = 0
        while True:
            self._admit()
            try:
                return await self.try_once(request, clock, self.pool)
            except BackendError as error:
                self._judge(error, clock)
                tried += 1
                wait_s = self._wait_before_retry_s(error, tried, clock)
                if wait_s is None:
                    raise
            except BaseException:
                self._breaker.dropped()
                raise
            await asyncio.sleep(wait_s)

    async def try_once(self, request: Request, clock: CallClock, pool: HttpPool) -> Connection:
        """One try over one of the pools, outside the breaker and the retry budget.

        A server that closes what was idle (uvicorn after 5 s) may do so as a request sets out. That is no failure of
        its: the request goes again at once, over the next connection.
        """
        if self._fault:
            raise never_again(
                BackendUnavailableError(f"backend {self.entry.name!r}: {self._fault}", backend=self.entry.name)
            )
        while True:
            connection = await self._connect(clock, pool)
            try:
                return await self._begin(connection, request, clock, pool)
            except BackendUnavailableError:
                if not connection.was_closed_while_idle:
                    raise

    async def _begin(self, connection: Connection, request: Request, clock: CallClock, pool: HttpPool) -> Connection:
        """Send, and return the connection once the head of a good answer is here."""
        try:
            connection.send(request.head, request.body)
            due = clock.first_token(connection.sent_at) if request.streams else clock.total()
            status = await connection.wait_head(due.at_s)
            if 200 <= status < 300:
                return connection
            raise status_error(self.upstream, status, connection.headers, await _error_body(connection, due))
        except TimeoutError:
            pool.release(connection)
            raise self._timeout(due.phase, clock) from None
        except OSError as error:
            pool.release(connection)
            raise self._lost(error) from None
        except BaseException:
            pool.release(connection)
            raise

    @contextmanager
    def judged(self, connection: Connection, clock: CallClock) -> Iterator[None]:
        """Read an answer in here: the breaker learns how it went, and the connection goes back or is closed."""
        try:
            yield
        except BackendError as error:
            self._judge(error, clock)
            self.pool.release(connection)
            raise
        except BaseException:
            self._breaker.dropped()
            self.pool.release(connection)
            raise
        self._breaker.succeeded()
        self.pool.release_after_end(connection)

    async def read_body(self, connection: Connection, clock: CallClock) -> bytes:
        """Return the whole body."""
        pieces = []
        while piece := await self.read_chunk(connection, clock, clock.between_tokens(now_s())):
            pieces.append(piece)
        return b"".join(pieces)

    async def read_chunk(self, connection: Connection, clock: CallClock, due: Due) -> bytes:
        """Return the next bytes of the body, nothing at its end. Raises BackendTimeoutError and StreamCutError."""
        try:
            return await connection.read_chunk(due.at_s)
        except TimeoutError:
            raise self._timeout(due.phase, clock) from None
        except (AnswerTooLargeError, MalformedAnswerError) as error:
            raise self._lost(error) from None
        except OSError as error:
            name = self.entry.name
            raise StreamCutError(f"backend {name!r} cut its answer short: {error}", backend=name) from None

    async def _connect(self, clock: CallClock, pool: HttpPool) -> Connection:
        due = clock.connect(now_s())
        name = self.entry.name
        try:
            return await pool.acquire(due.at_s)
        except PoolFullError as error:
            raise never_again(
                BackendOverloadedError(f"backend {name!r}: {error}; raise its max_connections", backend=name)
            ) from None
        except TimeoutError:
            raise self._timeout(due.phase, clock) from None
        except OSError as error:
            where = pool.origin.authority
            raise BackendUnavailableError(
                f"backend {name!r} cannot be reached at {where}: {clean(str(error))}", backend=name
            ) from None

    def _admit(self) -> None:
        now = time.monotonic()
        if not self._breaker.admit(now):
            name = self.entry.name
            wait_s = self._breaker.wait_s(now)
            raise BreakerOpenError(
                f"backend {name!r} is left alone after failing repeatedly; next try in {wait_s:.1f} s",
                backend=name,
                retry_after_s=wait_s,
            )

    def _judge(self, error: BackendError, clock: CallClock) -> None:
        """Tell the breaker. A refused request is an answer; our own full pool and a mean budget say nothing."""
        if isinstance(error, BackendRejectedError):
            self._breaker.succeeded()
        elif _is_ours(error, clock):
            self._breaker.dropped()
        else:
            self._breaker.failed(time.monotonic())

    def _wait_before_retry_s(self, error: BackendError, tried: int, clock: CallClock) -> float | None:
        """Return the wait, or None when there is to be no retry."""
        if tried > self.entry.max_retries or not worth_retrying(error):
            return None
        wait_s = backoff_s(error, tried, self._draw())
        if wait_s >= clock.left_s(now_s()) or self._breaker.state(time.monotonic()) != "closed":
            return None
        return wait_s if self._retries.take() else None

    def _timeout(self, phase: str, clock: CallClock) -> BackendTimeoutError:
        name = self.entry.name
        if phase == "total" and clock.is_callers:
            limit = "the time that the caller granted is spent"
        else:
            limit = f"its {phase}_ms of {getattr(self.entry.deadlines, phase + '_ms'):g} has passed"
        return BackendTimeoutError(f"backend {name!r}: {limit}", backend=name, phase=phase)

    def _lost(self, error: OSError) -> BackendError:
        name = self.entry.name
        if isinstance(error, AnswerTooLargeError | MalformedAnswerError):
            return never_again(BackendError(f"backend {name!r}: {clean(str(error))}", backend=name))
        return BackendUnavailableError(f"backend {name!r}: {clean(str(error))}", backend=name)


def _is_ours(error: BackendError, clock: CallClock) -> bool:
    """Whether it says nothing about the backend: our own pool was full, or the caller granted too little time."""
    if isinstance(error, BackendTimeoutError):
        return clock.is_callers and error.phase == "total"
    return isinstance(error, BackendOverloadedError) and not error.retryable


async def _error_body(connection: Connection, due: Due) -> bytes:
    """Return what it has to say about its status; a cut or slow explanation changes nothing about it."""
    pieces = []
    try:
        while piece := await connection.read_chunk(min(due.at_s, now_s() + 1.0)):
            pieces.append(piece)
            if sum(map(len, pieces)) > 64 * 1024:
                break
    except (TimeoutError, OSError):
        pass
    return b"".join(pieces)


def now_s() -> float:
    """The loop's clock."""
    return asyncio.get_running_loop().time()
