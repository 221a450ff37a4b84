"""The adapters that one server should hold: loaded when missing, unloaded when unwanted, ready once they answer.

Names are immutable (`name@digest12`), so an adapter is never replaced in place. A server that died and came back has
lost its adapters without saying so: its list of models is looked at again and again. Knows nothing of stages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from msgspec import Struct, field

from registry.errors import (
    BackendError,
    BackendOverloadedError,
    BackendTimeoutError,
    BreakerOpenError,
    JourneymanError,
)

from .backend import Backend
from .calls import Call, Sampling

CANARY_MS = 120_000.0
CHECK_S = 5.0
"""How often the server's own list is compared."""
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
GRACE_S = 30.0
"""How long an adapter stays loaded after it is no longer wanted: calls may still be under way."""
PRIOR_LOAD_MS = 2_000.0
"""What a load is taken to last before one was measured."""
_LATEST_SHARE = 0.3


class Canary(Struct, frozen=True):
    """A prompt, and the text that the adapter must decode it to (greedily)."""

    prompt: str
    expected: str
    max_tokens: int = 32


class Loading(Struct):
    """What all servers of one backend share: how much they may hold, and what their loads were like."""

    limit: int | None = None
    """Adapters loaded at once on each; None: any number."""
    is_idle: Callable[[str], bool] = lambda name: False
    """Whether no call for an adapter is under way, so that one that is not wanted can go at once to make room."""
    on_change: Callable[[], None] = lambda: None
    """Told when a load has ended, well or not."""
    loaded: int = 0
    failed: int = 0
    load_ms: float = PRIOR_LOAD_MS
    """How long a cold load takes, the latest counting most."""
    began_s: dict[str, float] = field(default_factory=dict)
    """Loads under way, by when they began."""

    def expected_ms(self, name: str, now_s: float) -> float:
        """How long a call would wait for an adapter; one that has taken longer than most is expected to take long."""
        return max(self.load_ms, (now_s - self.began_s.get(name, now_s)) * 1e3)


class _Trouble(Struct):
    failures: int
    next_try_s: float
    faults: int = 0
    """Of the failures, those that a busy server does not explain."""


class ServerAdapters:
    """The wanted, loaded and ready adapters of one server. `sync` does the work, one adapter after the other."""

    def __init__(
        self,
        server: Backend,
        clock: Callable[[], float] = time.monotonic,
        ready: set[str] | None = None,
        loading: Loading | None = None,
    ) -> None:
        self.server = server
        self._clock = clock
        self._loading = loading or Loading()
        self._wanted: dict[str, str] = {}
        self._canaries: dict[str, Canary] = {}
        self._loaded: set[str] = set()
        self._served: frozenset[str] = frozenset()
        self._ready = set() if ready is None else ready
        self._unwanted_since: dict[str, float] = {}
        self._trouble: dict[str, _Trouble] = {}
        self._is_there = True
        self._checked_at_s = float("-inf")
        self._lock = asyncio.Lock()

    def want(self, adapters: Mapping[str, str], canaries: Mapping[str, Canary] | None = None) -> None:
        """Say which adapters there should be: name to folder. Takes effect at the next `sync`."""
        self._trouble = {n: t for n, t in self._trouble.items() if self._wanted.get(n) == adapters.get(n)}
        self._wanted = dict(adapters)
        self._canaries = dict(canaries or {})
        self._note_unwanted()

    def ready(self, name: str) -> bool:
        """Whether a wanted adapter has answered since it was loaded."""
        return name in self._ready and name in self._wanted

    def ready_names(self) -> list[str]:
        """The wanted adapters that are ready."""
        return sorted(self._ready & self._wanted.keys())

    def may_load(self, name: str) -> bool:
        """Whether a wanted adapter that is not ready can be expected to be soon."""
        return self._is_there and name in self._wanted and name not in self._trouble

    def faults(self, name: str) -> int:
        """How often in a row a wanted adapter could not be loaded, other than because the server was too busy."""
        return self._trouble[name].faults if name in self._trouble else 0

    async def sync(self) -> list[str]:
        """Load what is missing and unload what is no longer wanted. Returns what went wrong this time, a line each.

        An adapter that failed is tried again after a growing wait, or once a server that was gone is there again.
        """
        async with self._lock:
            problems: list[str] = []
            if not await self._look(problems):
                return problems
            for name in [name for name in self._unwanted_since if self._may_go(name)]:
                await self._unload(name, problems)
            for name in [name for name in self._wanted if name not in self._ready and self._is_due(name)]:
                if name in self._loaded or self._has_room():
                    await self._load(name, problems)
            return problems

    def _may_go(self, name: str) -> bool:
        since_s = self._unwanted_since.get(name)
        if since_s is None:
            return False
        is_in_the_way = not self._has_room() and any(name not in self._loaded for name in self._wanted)
        return self._clock() - since_s >= GRACE_S or (is_in_the_way and self._loading.is_idle(name))

    def _has_room(self) -> bool:
        return self._loading.limit is None or len(self._loaded) < self._loading.limit

    async def _look(self, problems: list[str]) -> bool:
        """Say whether the server is there, and forget what it no longer lists."""
        if not self._wanted and not self._loaded:
            return True
        health = self.server.health()
        if health.ok and self._clock() - self._checked_at_s >= CHECK_S:
            try:
                await self._compare()
            except BackendTimeoutError as error:
                # A busy server answers calls and lets a list wait; a dead one is found by its probes and calls.
                problems.append(f"the list of adapters is late: {error.message}")
            except BackendError as error:
                self._gone(f"the list of adapters cannot be read: {error.message}", problems)
        elif not health.ok:
            self._gone(f"no adapter is ready: {health.reason}", problems)
            self._checked_at_s = float("-inf")
        return self._is_there

    async def _compare(self) -> None:
        self._checked_at_s = self._clock()
        served = self._served = await self.server.served_models()
        if not self._is_there:
            self._trouble.clear()
        self._is_there = True
        self._loaded &= served
        self._ready &= served
        self._unwanted_since = {n: since for n, since in self._unwanted_since.items() if n in served}

    def _gone(self, reason: str, problems: list[str]) -> None:
        """A server that does not answer has no adapter that is ready; said once."""
        if self._is_there:
            problems.append(reason)
        self._is_there = False
        self._ready.clear()

    async def _load(self, name: str, problems: list[str]) -> None:
        path = self._wanted.get(name)
        if path is None:
            return
        began_s, was_there = self._clock(), name in self._served
        self._loading.began_s.setdefault(name, began_s)
        try:
            self._loaded.add(name)  # also when it fails half-way: the server may hold it
            await self.server.load_adapter(name, path)
            await check_canary(self.server, name, self._canaries.get(name))
        except JourneymanError as error:
            self._failed(name, error)
            problems.append(f"{name}: {error.message}")
        else:
            self._trouble.pop(name, None)
            self._ready.add(name)
            self._count((self._clock() - began_s) * 1e3, was_cold=not was_there)
        finally:
            self._loading.began_s.pop(name, None)
        self._note_unwanted()
        self._loading.on_change()

    def _count(self, took_ms: float, *, was_cold: bool) -> None:
        loading = self._loading
        loading.loaded += 1
        if was_cold:
            loading.load_ms += (_LATEST_SHARE if loading.loaded > 1 else 1.0) * (took_ms - loading.load_ms)

    async def _unload(self, name: str, problems: list[str]) -> None:
        if name in self._wanted:  # again, since the one before it was unloaded
            return
        self._ready.discard(name)
        try:
            await self.server.unload_adapter(name)
        except BackendError as error:
            problems.append(f"{name} stays loaded: {error.message}")
            self._unwanted_since[name] = self._clock()
            return
        self._loaded.discard(name)
        self._unwanted_since.pop(name, None)

    def _note_unwanted(self) -> None:
        now = self._clock()
        since = self._unwanted_since
        self._unwanted_since = {name: since.get(name, now) for name in self._loaded if name not in self._wanted}

    def _failed(self, name: str, error: JourneymanError) -> None:
        self._loading.failed += 1
        trouble = self._trouble.setdefault(name, _Trouble(0, 0.0))
        trouble.failures += 1
        trouble.faults += not isinstance(error, BackendOverloadedError | BreakerOpenError)
        wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** (trouble.failures - 1))
        trouble.next_try_s = self._clock() + wait_s

    def _is_due(self, name: str) -> bool:
        trouble = self._trouble.get(name)
        return trouble is None or self._clock() >= trouble.next_try_s


async def check_canary(server: Backend, name: str, canary: Canary | None) -> None:
    """Decode the canary with an adapter. Raises BackendError when the text is another one.

    Without a canary nothing more is asked: loading itself ended with a decoded token.
    """
    if canary is None:
        return
    call = Call(name, prompt=canary.prompt, sampling=Sampling(max_tokens=canary.max_tokens, temperature=0.0))
    said = ((await server.complete(call, CANARY_MS)).text or "").strip()
    if said != canary.expected.strip():
        raise BackendError(
            f"adapter {name} answers its canary with {said[:80]!r} instead of {canary.expected[:80]!r}: "
            "another adapter or base model is loaded under this name",
            backend=server.entry.name,
        )
