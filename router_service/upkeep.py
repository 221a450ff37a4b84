"""What a running gateway does about its servers all the time: probes them, and keeps their adapters as they should be.

Each server has its own work under way, so that one that hangs holds up nobody else. Whatever is raised is logged, and
the next round comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from specialists.backend import Backend, Health
from specialists.replica import Replica
from specialists.servers import servers_of

from .log import get
from .roster import Roster

ADAPTER_INTERVAL_S: Final = 1.0
PROBE_INTERVAL_S: Final = 5.0

_log = get("upkeep")


class Upkeep:
    """One for each gateway. `chore` is done every second beside the rest."""

    def __init__(self, roster: Roster, chore: Callable[[], None] = lambda: None) -> None:
        self._roster = roster
        self._chore = chore
        self._seen: dict[Backend, Health] = {}
        """What the last probe of each server came to."""
        self._work: dict[tuple[str, str, str], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Go on until cancelled; then end what is under way."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._again_and_again(self._probe_servers, PROBE_INTERVAL_S))
                group.create_task(self._again_and_again(self._sync_servers, ADAPTER_INTERVAL_S))
                group.create_task(self._again_and_again(self._chore, ADAPTER_INTERVAL_S))
        finally:
            for task in self._work.values():
                task.cancel()

    async def _again_and_again(self, begin: Callable[[], None], interval_s: float) -> None:
        while True:
            try:
                begin()
            except Exception as error:  # the keeper of everything must not end because of one backend
                _log.error("upkeep failed", reason=_said(error))
            await asyncio.sleep(interval_s)

    def _probe_servers(self) -> None:
        """Probe every server once, those that are down again and again, replicas always; the first starts an engine.

        A replica's death is found without a call, while a single server's is its breaker's to find.
        """
        present = list(self._servers())
        there = {server for _, _, server in present}
        self._seen = {server: health for server, health in self._seen.items() if server in there}
        for backend, name, server in present:
            if server not in self._seen or isinstance(server, Replica) or not server.health().ok:
                self._begin(("probe", backend, name), self._probe(backend, name, server))

    async def _probe(self, backend: str, name: str, server: Backend) -> None:
        health = await server.probe()
        before = self._seen.get(server, Health(True))
        self._seen[server] = server.health()
        if isinstance(server, Replica):
            _tell_change(backend, name, before, server.health())  # calls may have found it dead before this probe
        elif not health.ok:
            _log.debug("probe failed", backend=backend, reason=health.reason)

    def _sync_servers(self) -> None:
        for backend, adapters in self._roster.adapter_sets().items():
            for name in adapters.servers():
                self._begin(("adapters", backend, name), self._sync(backend, name))

    async def _sync(self, backend: str, name: str) -> None:
        adapters = self._roster.adapter_sets().get(backend)
        for problem in await adapters.sync_server(name) if adapters else ():
            _log.warning("adapter not ready", backend=backend, reason=problem)

    def _servers(self) -> Iterator[tuple[str, str, Backend]]:
        for backend, whole in self._roster.backends().items():
            for name, server in servers_of(whole).items():
                yield backend, name, server

    def _begin(self, key: tuple[str, str, str], work: Coroutine[Any, Any, None]) -> None:
        """Start a server's work unless the last one is still under way."""
        if key in self._work:
            work.close()
            return
        task = self._work[key] = asyncio.create_task(work)
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: tuple[str, str, str], task: asyncio.Task[None]) -> None:
        self._work.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            kind, backend, name = key
            _log.error("upkeep failed", work=kind, backend=backend, replica=name, reason=_said(error))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _tell_change(backend: str, name: str, before: Health, now: Health) -> None:
    if before.ok and not now.ok:
        _log.warning("replica is gone", backend=backend, replica=name, reason=now.reason)
    elif now.ok and not before.ok:
        _log.info("replica is back", backend=backend, replica=name)
