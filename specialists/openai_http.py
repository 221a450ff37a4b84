"""Any server that speaks OpenAI over HTTP as a Backend: vLLM, a provider, the embedded engine.

Puts the request, the caller under deadlines, and the answer's reading together. Knows nothing of plans.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable

import msgspec

from registry.entries import BackendEntry, Deadlines
from registry.errors import BackendError, BackendRejectedError, BackendTimeoutError, StreamCutError

from .backend import Health
from .calls import Call, Completion, Delta, Sampling
from .deadlines import CallClock, Due
from .http_connection import Connection
from .http_pool import HttpPool
from .openai_answers import decode_answer, read_completion, read_model_names
from .openai_errors import event_error
from .openai_stream import StreamReader
from .openai_wire import Dialect, encode_call
from .upstream import Access, Caller, Request, now_s

ADAPTER_MS = 120_000.0
"""How long a hot load may take, and the first decode after it (25 s were seen on a CPU)."""
PROBE_MS = 5_000.0
AFTERMATH_S = 2.0
"""How long usage and the closing event may lag behind the finish reason."""


class OpenAIBackend:
    """One upstream; see `specialists.backend.Backend` for the contract."""

    def __init__(
        self,
        entry: BackendEntry,
        access: Access,
        dialect: Dialect | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._caller = Caller(entry, access, draw)
        self._dialect = dialect or Dialect()

    @property
    def entry(self) -> BackendEntry:
        """The entry it was made from."""
        return self._caller.entry

    @property
    def pool(self) -> HttpPool:
        """The connections of its calls."""
        return self._caller.pool

    async def complete(self, call: Call, budget_ms: float) -> Completion:
        """Ask and wait for the whole answer."""
        return await self._complete(call, CallClock.start(self.entry.deadlines, budget_ms, now_s()))

    async def stream(self, call: Call, budget_ms: float) -> AsyncGenerator[Delta, None]:
        """Ask and yield the pieces as they come."""
        caller = self._caller
        clock = CallClock.start(self.entry.deadlines, budget_ms, now_s())
        path, body = encode_call(call, self._dialect, stream=True)
        connection = await caller.ask(caller.post(path, body, streams=True), clock)
        reader = StreamReader(caller.upstream, call)
        with caller.judged(connection, clock):
            due: Due | None = clock.first_token(connection.sent_at)
            while not reader.is_done:
                due = due or clock.between_tokens(now_s())
                chunk = await self._read_events(connection, reader, clock, due)
                if not chunk:
                    break
                for piece in reader.feed(chunk):
                    due = None if piece.is_progress else due
                    yield piece.delta
            rest = reader.rest()
            if rest is not None:
                yield rest

    def health(self) -> Health:
        """What is believed now; never waits."""
        return self._caller.health()

    async def probe(self) -> Health:
        """Ask for the list of models; a server that has none but answers is there too."""
        clock = CallClock.start(self.entry.deadlines, PROBE_MS, now_s())
        try:
            await self._ask_aside(Request(self.pool.get_head("/models")), clock)
        except BackendRejectedError:
            return Health(True)
        except BackendError as error:
            return Health(False, error.message)
        return Health(True)

    async def load_adapter(self, name: str, path: str) -> None:
        """Hot-load a LoRA adapter and decode one token with it. A name that is loaded already stays as it is."""
        try:
            await self._post_aside("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        except BackendRejectedError as error:
            if "already" not in error.message:
                raise
        one_token = Call(model=name, prompt="\n", sampling=Sampling(max_tokens=1, temperature=0.0))
        await self._complete(one_token, self._slow_clock())

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter out; a name that is not loaded is no error."""
        try:
            await self._post_aside("/unload_lora_adapter", {"lora_name": name})
        except BackendRejectedError as error:
            if error.status not in (400, 404):
                raise

    async def start(self) -> None:
        """Nothing to start: connections are opened as calls come."""

    async def served_models(self) -> frozenset[str]:
        """Return the names of the models and adapters that it serves. Raises BackendError."""
        clock = CallClock.start(self.entry.deadlines, PROBE_MS, now_s())
        body = await self._ask_aside(Request(self.pool.get_head("/models")), clock)
        return read_model_names(body, self.entry.name)

    async def close(self) -> None:
        """Release connections."""
        self.pool.close()
        self._caller.aside.close()

    async def _complete(self, call: Call, clock: CallClock) -> Completion:
        caller = self._caller
        path, body = encode_call(call, self._dialect, stream=False)
        connection = await caller.ask(caller.post(path, body), clock)
        with caller.judged(connection, clock):
            answer = decode_answer(await caller.read_body(connection, clock), self.entry.name)
            if answer.error is not None:
                raise event_error(caller.upstream, answer.error)
            return read_completion(answer, call, self.entry.name)

    async def _read_events(self, connection: Connection, reader: StreamReader, clock: CallClock, due: Due) -> bytes:
        """Return the next bytes, or nothing at a clean end. A whole answer survives a server that hangs up."""
        if reader.is_finished:
            due = Due(min(due.at_s, now_s() + AFTERMATH_S), due.phase)
        try:
            chunk = await self._caller.read_chunk(connection, clock, due)
        except (BackendTimeoutError, StreamCutError):
            if reader.is_finished:
                return b""
            raise
        if not chunk and not reader.is_finished:
            raise reader.cut("end of the connection")
        return chunk

    async def _post_aside(self, path: str, payload: dict[str, str]) -> None:
        request = self._caller.post(path, msgspec.json.encode(payload))
        await self._ask_aside(request, self._slow_clock())

    async def _ask_aside(self, request: Request, clock: CallClock) -> bytes:
        """Ask outside the breaker and the calls' connections: a probe or an adapter says nothing about answering."""
        aside = self._caller.aside
        connection = await self._caller.try_once(request, clock, aside)
        try:
            return await self._caller.read_body(connection, clock)
        finally:
            aside.release(connection)

    def _slow_clock(self) -> CallClock:
        connect_ms = self.entry.deadlines.connect_ms
        slow = Deadlines(connect_ms=connect_ms, between_tokens_ms=ADAPTER_MS, total_ms=ADAPTER_MS)
        return CallClock.start(slow, ADAPTER_MS, now_s())
