"""The adapters that a backend should hold, on each of its servers: ready as soon as one of them can be asked.

What a single server holds is in `specialists.server_adapters`. Knows nothing of stages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from .backend import Backend
from .replica import Replica
from .server_adapters import Canary, Loading, ServerAdapters
from .servers import servers_of

PAUSE_S = 0.05


class AdapterSet:
    """The wanted and the ready adapters of one backend."""

    def __init__(
        self, backend: Backend, clock: Callable[[], float] = time.monotonic, loading: Loading | None = None
    ) -> None:
        self.backend = backend
        self.loading = loading or Loading()
        self.loading.on_change = self._changed
        self._clock = clock
        self._news = asyncio.Event()
        self._hastened: dict[str, asyncio.Task[None]] = {}
        self._unsaid: list[str] = []
        self._wanted: dict[str, str] = {}
        self._servers: dict[str, ServerAdapters] = {}

    def want(self, adapters: Mapping[str, str], canaries: Mapping[str, Canary] | None = None) -> None:
        """Say which adapters there should be: name to folder. Takes effect at the next `sync`."""
        self._wanted = dict(adapters)
        known, self._servers = self._servers, {}
        for name, server in servers_of(self.backend).items():
            before = known.get(name)
            self._servers[name] = before if before is not None and before.server is server else self._made(server)
            self._servers[name].want(adapters, canaries)

    def _made(self, server: Backend) -> ServerAdapters:
        ready = server.ready if isinstance(server, Replica) else None
        return ServerAdapters(server, self._clock, ready, self.loading)

    def servers(self) -> Mapping[str, ServerAdapters]:
        """What each server holds, by the replica's name; a backend that is one server has it under no name."""
        return self._servers

    def wanted(self) -> Mapping[str, str]:
        """The wanted adapters: name to folder."""
        return self._wanted

    def ready(self, name: str) -> bool:
        """Whether a wanted adapter has answered, on a server that can be asked, since it was loaded there."""
        return any(one.ready(name) and _can_be_asked(one.server) for one in self._servers.values())

    def may_load(self, name: str) -> bool:
        """Whether a wanted adapter that is not ready can be expected to be soon, on one server at least."""
        return any(one.may_load(name) and _can_be_asked(one.server) for one in self._servers.values())

    def faults(self, name: str) -> int:
        """How often in a row an adapter's load has failed on every server; 0 where one may have it or is too busy."""
        return min((one.faults(name) for one in self._servers.values() if _can_be_asked(one.server)), default=0)

    async def wait_for(self, name: str) -> bool:
        """Load an adapter now, and return whether it is ready once that has ended. A caller may give up waiting."""
        while not self.ready(name) and self.may_load(name):
            self._hasten()
            await self._news.wait()
            if not self.ready(name):
                await asyncio.sleep(PAUSE_S)  # another one was loaded, or its place is not free yet
        return self.ready(name)

    def ready_names(self) -> list[str]:
        """The wanted adapters that are ready."""
        return [name for name in sorted(self._wanted) if self.ready(name)]

    async def sync(self) -> list[str]:
        """Bring every server up to date, all at once. Returns what went wrong this time, a line each."""
        problems = await asyncio.gather(*(self.sync_server(name) for name in self._servers))
        return [line for lines in problems for line in lines]

    async def sync_server(self, name: str) -> list[str]:
        """Bring one server up to date; one that is draining keeps what it has."""
        held = self._servers.get(name)
        if held is None or not _takes_calls(held.server):
            return []
        where = f"replica {name}: " if name else ""
        said, self._unsaid = self._unsaid, []
        return said + [where + problem for problem in await held.sync()]

    def close(self) -> None:
        """End what is being loaded for callers."""
        for task in self._hastened.values():
            task.cancel()

    def _hasten(self) -> None:
        """Bring the servers up to date now; what goes wrong is told by the next `sync`."""
        for name in self._servers:
            if name not in self._hastened:
                self._hastened[name] = asyncio.get_running_loop().create_task(self._sync_now(name))

    async def _sync_now(self, name: str) -> None:
        try:
            problems = await self.sync_server(name)
            self._unsaid += problems  # not in one line: that would add to the list as it was before the wait
        finally:
            self._hastened.pop(name, None)
            self._changed()

    def _changed(self) -> None:
        """Wake who waits for a load."""
        news, self._news = self._news, asyncio.Event()
        news.set()


def _takes_calls(server: Backend) -> bool:
    return not (isinstance(server, Replica) and server.draining)


def _can_be_asked(server: Backend) -> bool:
    """A replica that died may not know yet that its adapters are gone; a single server's backend tells by itself."""
    return _takes_calls(server) and not (isinstance(server, Replica) and not server.health().ok)
