"""Several servers with the same models as one Backend: who gets a call, and where it goes on when a server fails.

A call goes to the replica with the fewest calls under way. Until the first piece of an answer was passed on, a failure
moves it to another replica at once; each is tried once a round, within the retry budget where two are overloaded. Knows
nothing of how a server is asked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from msgspec.structs import replace

from registry.entries import BackendEntry, ReplicaEntry
from registry.errors import (
    BackendError,
    BackendOverloadedError,
    BackendRejectedError,
    BackendTimeoutError,
    BackendUnavailableError,
)

from .backend import Backend, Health
from .calls import Call, Completion, Delta
from .http_pool import parse_origin
from .replica import Replica
from .retries import RetryBudget, backoff_s, worth_retrying

COLD_CALLS: Final = 2
"""An adapter that was not used on a replica lately weighs as much as so many calls under way there."""

MakeReplica = Callable[[BackendEntry], Backend]


class ReplicatedBackend:
    """See `specialists.backend.Backend` for the contract. Made of an entry with `urls`."""

    def __init__(self, entry: BackendEntry, make: MakeReplica, draw: Callable[[], float] = random.random) -> None:
        self._entry = entry
        self._make = make
        self.draw = draw
        self.retries = RetryBudget()
        self._replicas = tuple(self._made(one) for one in entry.replicas)

    @property
    def entry(self) -> BackendEntry:
        """The entry it was made from, or follows now."""
        return self._entry

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The servers of the list, draining ones too."""
        return self._replicas

    @property
    def servers(self) -> Mapping[str, Backend]:
        """The same by name."""
        return {one.name: one for one in self._replicas}

    def can_follow(self, entry: BackendEntry) -> bool:
        """Whether an entry differs in nothing but its list of replicas."""
        return bool(entry.urls) and replace(entry, urls=()) == replace(self._entry, urls=())

    def follow(self, entry: BackendEntry) -> list[Replica]:
        """Take over a new list: replicas that stay keep connections, breakers and adapters. Return those that are gone.

        Calls under way end where they are; closing what is gone is the caller's to do.
        """
        before = {one.entry.url: one for one in self._replicas}
        self._entry = entry
        kept = []
        for listed in entry.replicas:
            replica = before.pop(listed.url, None) or self._made(listed)
            replica.draining = listed.drain
            kept.append(replica)
        self._replicas = tuple(kept)
        for replica in before.values():
            replica.draining = True
        return list(before.values())

    async def complete(self, call: Call, budget_ms: float) -> Completion:
        """Ask and wait for the whole answer."""
        route = _Route(self, call.model, budget_ms)
        while True:
            replica = route.next()
            try:
                return await replica.complete(call, route.left_ms())
            except BackendError as error:
                await route.failed(replica, error)

    async def stream(self, call: Call, budget_ms: float) -> AsyncGenerator[Delta, None]:
        """Ask and yield the pieces as they come; what shows nothing yet is held back until something does."""
        route = _Route(self, call.model, budget_ms)
        while True:
            replica = route.next()
            held: list[Delta] | None = []
            try:
                async with aclosing(replica.stream(call, route.left_ms())) as deltas:
                    async for delta in deltas:
                        if held is not None:
                            held.append(delta)
                            if not _shows(delta):
                                continue
                            begun, held = held, None
                            for one in begun:
                                yield one
                        else:
                            yield delta
                for one in held or ():
                    yield one
                return
            except BackendError as error:
                if held is None:
                    raise
                await route.failed(replica, error)

    def choose(self, model: str, tried: Sequence[Replica]) -> Replica | None:
        """Return the replica that should get a call next; None when all that could have been tried."""
        taking = [one for one in self._replicas if not one.draining]
        # Where nobody holds the name it is the base model's, or an adapter's that is not loaded anywhere.
        taking = [one for one in taking if model in one.ready] or taking
        left = [one for one in taking if one not in tried]
        return min(left, key=lambda one: _weight(one, model), default=None)

    def health(self) -> Health:
        """Whether any replica can be asked."""
        troubles = []
        for replica in self._replicas:
            health = Health(False, "draining") if replica.draining else replica.health()
            if health.ok:
                return health
            troubles.append(f"{replica.name}: {health.reason}")
        return Health(False, f"no replica can be asked ({'; '.join(troubles)})")

    async def probe(self) -> Health:
        """Ask every server whether it is there."""
        await asyncio.gather(*(one.probe() for one in self._replicas))
        return self.health()

    async def served_models(self) -> frozenset[str]:
        """Names that any replica serves. Raises BackendError when none answers."""
        return frozenset().union(*await self._all_that_answer([one.served_models() for one in self._replicas]))

    async def load_adapter(self, name: str, path: str) -> None:
        """Hot-load an adapter on every replica; done when at least one can answer."""

        async def load(replica: Replica) -> None:
            await replica.load_adapter(name, path)
            replica.ready.add(name)

        await self._all_that_answer([load(one) for one in self._replicas if not one.draining])

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter out of every replica."""
        for replica in self._replicas:
            replica.ready.discard(name)
        await self._all_that_answer([one.unload_adapter(name) for one in self._replicas])

    async def start(self) -> None:
        """Make ready for calls."""
        await asyncio.gather(*(one.start() for one in self._replicas))

    async def close(self) -> None:
        """Release connections."""
        await asyncio.gather(*(one.close() for one in self._replicas))

    def _made(self, listed: ReplicaEntry) -> Replica:
        # A failed call moves on to another server rather than to the same one again.
        alone = replace(self._entry, url=listed.url, urls=(), max_retries=0)
        replica = Replica(parse_origin(listed.url).place, self._make(alone), draining=listed.drain)
        replica.may_give_up = lambda: any(
            one is not replica and not one.draining and one.health().ok for one in self._replicas
        )
        return replica

    async def _all_that_answer(self, work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Return the results of those that succeed; raise the last error when none does."""
        results = await asyncio.gather(*work, return_exceptions=True)
        errors = [one for one in results if isinstance(one, BaseException)]
        for error in errors:
            if not isinstance(error, BackendError):
                raise error
        if errors and len(errors) == len(results):
            raise errors[-1]
        return [one for one in results if not isinstance(one, BaseException)]


class _Route:
    """One call's way over the replicas, within its time."""

    def __init__(self, backend: ReplicatedBackend, model: str, budget_ms: float) -> None:
        self._backend = backend
        self._model = model
        self._budget_ms = budget_ms
        self._loop = asyncio.get_running_loop()
        self._ends_at_s = self._loop.time() + min(budget_ms, backend.entry.deadlines.total_ms) / 1e3
        self._tried: list[Replica] = []
        self._was_held = False
        self._rounds = 0
        self._burdens = 0
        backend.retries.on_call()

    def next(self) -> Replica:
        """Return whom to ask now. Raises BackendUnavailableError when nobody takes calls."""
        replica = self._backend.choose(self._model, self._tried)
        if replica is None:
            name = self._backend.entry.name
            raise BackendUnavailableError(f"backend {name!r}: every replica is draining", backend=name)
        self._tried.append(replica)
        self._was_held = self._model in replica.ready
        return replica

    def left_ms(self) -> float:
        """Return what the call has left; the first try has all that its caller granted."""
        if len(self._tried) == 1 and self._rounds == 0:
            return self._budget_ms
        return max(1.0, (self._ends_at_s - self._loop.time()) * 1e3)

    async def failed(self, replica: Replica, error: BackendError) -> None:
        """Return when the call may be tried again; raise the error when that is of no use."""
        if isinstance(error, BackendRejectedError) and not (error.status == 404 and self._was_held):
            raise error  # but an adapter that the server does not know any more was lost in a restart
        replica.failed(error, self._model)
        if isinstance(error, BackendTimeoutError) and error.phase == "total":
            raise error
        if self._loop.time() >= self._ends_at_s:
            raise error
        if self._backend.choose(self._model, self._tried) is None:
            await self._wait_for_another_round(error)
            return
        self._burdens += _is_burden(error)
        # One replica that has too much to do is its own trouble; where two have, trying all would make it worse.
        if self._burdens > 1 and _is_burden(error) and not self._backend.retries.take():
            raise error
        replica.failovers += 1

    async def _wait_for_another_round(self, error: BackendError) -> None:
        """All failed: try all again, as often and after such waits as a single server would be."""
        backend = self._backend
        self._rounds += 1
        if self._rounds > backend.entry.max_retries or not worth_retrying(error):
            raise error
        wait_s = backoff_s(error, self._rounds, backend.draw())
        if self._loop.time() + wait_s >= self._ends_at_s or not backend.health().ok or not backend.retries.take():
            raise error
        await asyncio.sleep(wait_s)
        self._tried = []


def _weight(replica: Replica, model: str) -> tuple[bool, int, float]:
    """The least is asked: it is well, it has little to do, and its last call is the longest ago."""
    is_cold = model in replica.ready and not replica.is_warm(model)
    return not replica.health().ok, replica.outstanding + (COLD_CALLS if is_cold else 0), replica.begun_at_s


def _is_burden(error: BackendError) -> bool:
    """Whether a server had too much to do; not one that cannot be reached, nor our own full pool (never retryable)."""
    if isinstance(error, BackendTimeoutError):
        return error.phase != "connect"
    return isinstance(error, BackendOverloadedError) and error.retryable


def _shows(delta: Delta) -> bool:
    return bool(delta.text or delta.tool_calls or delta.refusal or delta.logprobs or delta.finish_reason)
