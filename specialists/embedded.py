"""The embedded engine as a Backend: a supervised child process that is asked over the same HTTP as any other server.

While the engine is down, calls fail at once and `health` says why. A restarted engine holds no adapters: whoever loads
them (`specialists.server_adapters`) sees that they are missing.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from registry.entries import BackendEntry
from registry.errors import BackendUnavailableError

from .backend import Health
from .calls import Call, Completion, Delta
from .engine_process import EngineProcess, engine_command
from .openai_http import OpenAIBackend
from .openai_wire import Dialect
from .upstream import Access


class EmbeddedBackend:
    """See `specialists.backend.Backend` for the contract. `start` must run before the first call."""

    def __init__(
        self,
        entry: BackendEntry,
        state: Path,
        command: Sequence[str] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._entry = entry
        self._draw = draw
        self._inner: OpenAIBackend | None = None
        log = state / "log" / f"engine-{entry.name.replace('/', '_')}.log"
        self.process = EngineProcess(command or engine_command(entry), log, self._on_ready, self._on_gone)

    @property
    def entry(self) -> BackendEntry:
        """The entry it was made from."""
        return self._entry

    async def start(self) -> None:
        """Start the engine; returns at once, `health` tells when it is there."""
        self.process.start()

    async def complete(self, call: Call, budget_ms: float) -> Completion:
        """Ask and wait for the whole answer."""
        return await self._running().complete(call, budget_ms)

    def stream(self, call: Call, budget_ms: float) -> AsyncGenerator[Delta, None]:
        """Ask and yield the pieces as they come."""
        return self._inner.stream(call, budget_ms) if self._inner is not None else self._refuse()

    async def _refuse(self) -> AsyncGenerator[Delta, None]:
        """A stream that fails when it is read, as every other stream does."""
        self._running()
        yield Delta()

    def health(self) -> Health:
        """Whether the engine runs, and if it does, what its calls taught."""
        return self._inner.health() if self._inner is not None else Health(False, self.process.trouble)

    async def probe(self) -> Health:
        """Ask the engine whether it is there; starts it when nobody has yet."""
        self.process.start()
        return await self._inner.probe() if self._inner is not None else self.health()

    async def served_models(self) -> frozenset[str]:
        """Return the names of the model and the adapters. Raises BackendError."""
        return await self._running().served_models()

    async def load_adapter(self, name: str, path: str) -> None:
        """Hot-load an adapter; a restart of the engine loses it."""
        await self._running().load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter out; a name that is not loaded is no error."""
        if self._inner is not None:
            await self._inner.unload_adapter(name)

    async def close(self) -> None:
        """End the engine and release connections."""
        await self.process.close()
        await self._on_gone()

    def _running(self) -> OpenAIBackend:
        if self._inner is None:
            name = self._entry.name
            raise BackendUnavailableError(f"backend {name!r}: {self.process.trouble}", backend=name)
        return self._inner

    async def _on_ready(self, url: str) -> None:
        base = url.rstrip("/")
        access = Access(base if base.endswith("/v1") else base + "/v1")
        self._inner = OpenAIBackend(self._entry, access, Dialect(fetches_media=False), self._draw)

    async def _on_gone(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.close()
