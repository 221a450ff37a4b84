"""A backend on which not every adapter may be loaded at once: demand decides which are, and a call waits for its own.

Around the backend that answers. Knows nothing of stages but how much each counts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Final

from registry.entries import BackendEntry
from registry.errors import BackendTimeoutError, BackendUnavailableError

from .adapters import AdapterSet
from .backend import Backend, Health
from .calls import Call, Completion, Delta
from .placement import Placement
from .replica import Replica
from .replicas import ReplicatedBackend
from .server_adapters import Canary, Loading
from .servers import servers_of

PATIENCE: Final = 2.0
"""A call waits for so many times what a load is expected to take; then somebody else may still have time to answer."""
LEAST_PATIENCE_MS: Final = 1_000.0
FAULTS_TO_LEAVE: Final = 3
"""Loads that failed in a row on every server, after which an adapter gives its place to another."""


class PlacedBackend:
    """See `specialists.backend.Backend` for the contract. With replicas, each holds the same adapters."""

    def __init__(self, inner: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        limit = inner.entry.resident_limit
        self.inner = inner
        self.placement = Placement(limit)
        self.adapters = AdapterSet(inner, clock, Loading(limit, self._is_idle))
        self._clock = clock
        self._paths: Mapping[str, str] = {}
        self._canaries: Mapping[str, Canary] = {}
        self._under_way: Counter[str] = Counter()

    @property
    def entry(self) -> BackendEntry:
        """The entry it was made from."""
        return self.inner.entry

    @property
    def servers(self) -> Mapping[str, Backend]:
        """The servers behind it by name."""
        return servers_of(self.inner)

    def can_follow(self, entry: BackendEntry) -> bool:
        """Whether an entry differs in nothing but its list of replicas."""
        return isinstance(self.inner, ReplicatedBackend) and self.inner.can_follow(entry)

    def follow(self, entry: BackendEntry) -> list[Replica]:
        """Take over a new list of replicas; return those that are gone."""
        return self.inner.follow(entry) if isinstance(self.inner, ReplicatedBackend) else []

    def compete(
        self, adapters: Mapping[str, str], weights: Mapping[str, float], canaries: Mapping[str, Canary] | None = None
    ) -> None:
        """Say which adapters there are (name to folder), and how much a call for each counts."""
        self._paths, self._canaries = dict(adapters), dict(canaries or {})
        self.placement.want({name: weights[name] for name in adapters})
        self.placement.settle(self._clock())
        self._load()

    def asked(self, names: Collection[str]) -> None:
        """Count a call that these adapters could have answered, and load what that makes worth it."""
        now_s = self._clock()
        self.placement.asked(names, now_s)
        if self.placement.all_fit:
            return
        barred = [name for name in names if self._is_hopeless(name) and self.placement.bar(name, now_s)]
        if self.placement.settle(now_s, None if barred else names):
            self._load()

    def load_ms(self, name: str) -> float | None:
        """How long a call for an adapter would wait for it: 0 when it is ready. None: it is not to be had now."""
        if self.adapters.ready(name):
            return 0.0
        return self.adapters.loading.expected_ms(name, self._clock()) if self.adapters.may_load(name) else None

    def why_not(self, name: str) -> str:
        """Why an adapter is not to be had now."""
        if self.placement.has_place(name) or self.placement.is_barred(name, self._clock()):
            return "its adapter cannot be loaded at present"
        return f"its adapter is not loaded: there is room for {self.placement.limit}, and others are asked for more"

    async def complete(self, call: Call, budget_ms: float) -> Completion:
        """Ask and wait for the whole answer; an adapter on its way is waited for."""
        with self._counted(call.model):
            left_ms = await self._at_hand(call.model, budget_ms)
            return await self.inner.complete(call, left_ms)

    async def stream(self, call: Call, budget_ms: float) -> AsyncGenerator[Delta, None]:
        """Ask and yield the pieces as they come."""
        with self._counted(call.model):
            left_ms = await self._at_hand(call.model, budget_ms)
            async with aclosing(self.inner.stream(call, left_ms)) as deltas:
                async for delta in deltas:
                    yield delta

    def health(self) -> Health:
        """What is believed now; never waits."""
        return self.inner.health()

    async def probe(self) -> Health:
        """Ask the server whether it is there."""
        return await self.inner.probe()

    async def served_models(self) -> frozenset[str]:
        """Names of the models and adapters that it serves now."""
        return await self.inner.served_models()

    async def load_adapter(self, name: str, path: str) -> None:
        """Hot-load an adapter beside those that are placed."""
        await self.inner.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter out."""
        await self.inner.unload_adapter(name)

    async def start(self) -> None:
        """Make ready for calls."""
        await self.inner.start()

    async def close(self) -> None:
        """End loads and release connections."""
        self.adapters.close()
        await self.inner.close()

    def _is_hopeless(self, name: str) -> bool:
        return self.placement.has_place(name) and self.adapters.faults(name) >= FAULTS_TO_LEAVE

    def _load(self) -> None:
        """Have those loaded that were given a place, the most asked for first."""
        placed = sorted(self.placement.resident(), key=self.placement.demand, reverse=True)
        self.adapters.want({name: self._paths[name] for name in placed}, self._canaries)

    async def _at_hand(self, model: str, budget_ms: float) -> float:
        """Return what is left of the time once the adapter can be asked."""
        if not self.placement.competes(model) or self.adapters.ready(model):
            return budget_ms
        name = self.entry.name
        if not self.placement.has_place(model):
            raise BackendUnavailableError(f"backend {name!r}: {model}: {self.why_not(model)}", backend=name)
        began_s = time.monotonic()
        patience_ms = min(budget_ms, max(LEAST_PATIENCE_MS, PATIENCE * (self.load_ms(model) or 0.0)))
        try:
            async with asyncio.timeout(patience_ms / 1e3):
                there = await self.adapters.wait_for(model)
        except TimeoutError:
            said = f"backend {name!r}: {model} was not loaded within {patience_ms:.0f} ms"
            raise BackendTimeoutError(said, backend=name, phase="total") from None
        if not there:
            raise BackendUnavailableError(f"backend {name!r}: {model}: {self.why_not(model)}", backend=name)
        return max(1.0, budget_ms - (time.monotonic() - began_s) * 1e3)

    @contextmanager
    def _counted(self, model: str) -> Iterator[None]:
        self._under_way[model] += 1
        try:
            yield
        finally:
            self._under_way[model] -= 1

    def _is_idle(self, name: str) -> bool:
        return self._under_way[name] == 0
