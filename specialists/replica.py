"""One server of several behind a backend: its calls under way, whether it is there, which adapters it can be asked for.

A Backend itself, around the one that speaks to the server. Knows nothing of the other replicas.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from registry.entries import BackendEntry
from registry.errors import BackendError, BackendRejectedError, BackendUnavailableError

from .backend import Backend, Health
from .calls import Call, Completion, Delta

WARM_S = 60.0
"""An adapter that was used within this time is taken to be at hand where it was used."""
PROBES_TO_LEAVE = 2
"""Failed probes in a row after which it gets no calls; one is enough right after a failed call."""


class Replica:
    """See `specialists.backend.Backend` for the contract."""

    def __init__(self, name: str, backend: Backend, *, draining: bool = False) -> None:
        self.name = name
        self.draining = draining
        """Whether it gets no new calls; those under way end."""
        self.outstanding = 0
        """Calls under way."""
        self.begun_at_s = 0.0
        """When its last call began, on the monotonic clock."""
        self.failovers = 0
        """Calls that failed here and were tried on another replica."""
        self.ready: set[str] = set()
        """Adapters that it may be asked for; kept by whoever loads them."""
        self._backend = backend
        self._used: dict[str, float] = {}
        self._failed_probes = 0
        self._trouble = ""
        self._checking: asyncio.Task[Health] | None = None
        self._waits: set[asyncio.Timeout] = set()
        self.may_give_up: Callable[[], bool] = lambda: False
        """Whether calls that wait here would be answered elsewhere, should this server be found dead."""

    @property
    def entry(self) -> BackendEntry:
        """The entry of this server alone."""
        return self._backend.entry

    def is_warm(self, model: str) -> bool:
        """Whether an adapter was used here lately."""
        return time.monotonic() - self._used.get(model, float("-inf")) < WARM_S

    async def complete(self, call: Call, budget_ms: float) -> Completion:
        """Ask and wait for the whole answer; gives up when probes find the server dead meanwhile."""
        self._begin(call.model)
        wait = asyncio.timeout(None)
        try:
            async with wait:
                self._waits.add(wait)
                completion = await self._backend.complete(call, budget_ms)
        except TimeoutError:
            said = f"backend {self.entry.name!r}: {self.name} stopped answering: {self._trouble}"
            raise BackendUnavailableError(said, backend=self.entry.name) from None
        finally:
            self._waits.discard(wait)
            self.outstanding -= 1
        self._answered()
        return completion

    async def stream(self, call: Call, budget_ms: float) -> AsyncGenerator[Delta, None]:
        """Ask and yield the pieces as they come."""
        self._begin(call.model)
        try:
            async with aclosing(self._backend.stream(call, budget_ms)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self.outstanding -= 1
        self._answered()

    def failed(self, error: BackendError, model: str) -> None:
        """Learn from a call that failed: is the adapter gone, or the server?"""
        if isinstance(error, BackendRejectedError):
            self.ready.discard(model)
        elif self._checking is None:
            self._failed_probes = PROBES_TO_LEAVE - 1
            self._checking = asyncio.get_running_loop().create_task(self.probe())
            self._checking.add_done_callback(self._checked)

    def health(self) -> Health:
        """What calls and probes taught; never waits."""
        return Health(False, self._trouble) if self._trouble else self._backend.health()

    async def probe(self) -> Health:
        """Ask the server whether it is there; one that is not gets no calls until it is."""
        health = await self._backend.probe()
        if health.ok:
            self._answered()
            return health
        self._failed_probes += 1
        if self._failed_probes >= PROBES_TO_LEAVE:
            self._trouble = health.reason
            self._give_up()
        return health

    async def served_models(self) -> frozenset[str]:
        """Names of the models and adapters that it serves now."""
        return await self._backend.served_models()

    async def load_adapter(self, name: str, path: str) -> None:
        """Hot-load an adapter here."""
        await self._backend.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter out here."""
        self._used.pop(name, None)
        await self._backend.unload_adapter(name)

    async def start(self) -> None:
        """Make ready for calls."""
        await self._backend.start()

    async def close(self) -> None:
        """Release connections; those of calls under way as they end."""
        if self._checking is not None:
            self._checking.cancel()
        await self._backend.close()

    def _begin(self, model: str) -> None:
        self.outstanding += 1
        self.begun_at_s = time.monotonic()
        if model in self.ready:
            self._used[model] = self.begun_at_s

    def _give_up(self) -> None:
        """End the waits of whole answers: a frozen server closes no connection. A stream's first token has its time."""
        if self.may_give_up():
            now_s = asyncio.get_running_loop().time()
            for wait in self._waits:
                if not wait.expired():
                    wait.reschedule(now_s)

    def _answered(self) -> None:
        self._failed_probes = 0
        self._trouble = ""

    def _checked(self, task: asyncio.Task[Health]) -> None:
        self._checking = None
        if not task.cancelled():
            task.exception()  # a probe that broke says nothing about the server
