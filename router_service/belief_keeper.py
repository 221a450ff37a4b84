"""Carries beliefs over restarts and between routers: takes them up at the start, writes them down, hears the others."""

from __future__ import annotations

import asyncio

from registry.errors import JourneymanError

from .belief_store import BeliefStore, Learned
from .beliefs import Beliefs
from .log import get
from .roster import Roster

_log = get("beliefs")


class BeliefKeeper:
    """One for each process. Trouble with files is logged and never stops the serving."""

    def __init__(self, beliefs: Beliefs, store: BeliefStore, roster: Roster) -> None:
        self._beliefs = beliefs
        self._store = store
        self._roster = roster

    def recall(self) -> None:
        """Take up what was learned before the last stop, here and by other routers."""
        try:
            learned = self._store.own()
            if learned is not None:
                self._beliefs.remember(learned)
        except JourneymanError as error:
            _log.error("beliefs start anew", reason=error.message)
        self.hear()

    def hear(self) -> None:
        """Read the other routers' files, if they changed."""
        self._believe(self._store.others())

    def _believe(self, others: list[Learned] | None) -> None:
        try:
            if others is not None:
                self._beliefs.hear(others)
        except JourneymanError as error:
            _log.warning("other routers not heard", reason=error.message)

    async def save(self) -> None:
        """Write this router's file."""
        try:
            await asyncio.to_thread(self._store.save, self._beliefs.learned())
        except JourneymanError as error:
            _log.error("beliefs not kept", reason=error.message)

    async def run(self, interval_s: float) -> None:
        """Save and hear, again and again."""
        while True:
            await asyncio.sleep(interval_s)
            self._beliefs.listed(self._roster.contenders)
            await self.save()
            self._believe(await asyncio.to_thread(self._store.others))

    async def stop(self) -> None:
        """Save for the last time."""
        await self.save()
        self._store.close()
