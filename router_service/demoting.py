"""Takes specialists out of service whose live answers say so: malformed or late. Every demotion is a signed entry.

The rules are `policies.demotion`'s. A specialist that the operator wrote into registry.yaml by hand is not moved, since
the file is the operator's: that it should be is logged, and the planner's own formatting limit keeps callers from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from observations.records import AttemptRecord
from policies.demotion import Demotion, DemotionPolicy, DemotionWatch, LiveCall
from policies.plan import Plan
from registry.catalog import Catalog
from registry.errors import JourneymanError
from registry.registrar import Note, Registrar
from registry.stages import serves_callers

from .log import get
from .metrics import Metrics

ACTOR = "journeyman gateway"

_log = get("demoting")


class Demoter:
    """One for each process; the watches are of this process's own calls."""

    def __init__(self, registrar: Registrar, policy: DemotionPolicy, metrics: Metrics) -> None:
        self._registrar = registrar
        self._policy = policy
        self._metrics = metrics
        self._watches: dict[str, DemotionWatch] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def follow(self, catalog: Catalog) -> None:
        """Forget those that serve no more: who comes back begins anew."""
        serving = {name for name, entry in catalog.specialists.items() if serves_callers(entry.stage)}
        self._watches = {name: watch for name, watch in self._watches.items() if name in serving}

    def answered(self, call_id: str, attempts: Iterable[AttemptRecord], plan: Plan) -> None:
        """Take in the attempts of one call."""
        limits = {one.candidate: one.latency_p95_ms for one in plan.estimates}
        for attempt in attempts:
            if "@" in attempt.candidate and attempt.candidate not in self._under_way:
                self._watch(call_id, attempt, limits.get(attempt.candidate))

    def _watch(self, call_id: str, attempt: AttemptRecord, limit_ms: float | None) -> None:
        checked = attempt.outcome in ("verified", "unsure", "malformed")
        call = LiveCall(
            call_id=call_id,
            well_formed=attempt.outcome != "malformed" if checked else None,
            latency_ms=attempt.latency_ms if checked or attempt.outcome == "timed_out" else None,
            latency_limit_ms=limit_ms,
        )
        watch = self._watches.setdefault(attempt.candidate, DemotionWatch())
        found = watch.observe(call, self._policy)
        if found is not None:
            task = asyncio.get_running_loop().create_task(self._demote(attempt.candidate, found))
            self._under_way[attempt.candidate] = task
            task.add_done_callback(lambda _: self._under_way.pop(attempt.candidate, None))

    async def _demote(self, specialist: str, found: Demotion) -> None:
        self._metrics.add("journeyman_demotions_total", specialist, found.cause)
        note = Note(ACTOR, found.reason, found.call_id)
        try:
            await asyncio.to_thread(self._registrar.demote, specialist, note, found.to)
            _log.warning("specialist demoted", specialist=specialist, cause=found.cause, reason=found.reason)
        except JourneymanError as error:
            _log.error("specialist should be demoted", specialist=specialist, cause=found.cause, reason=error.message)
        self._watches.pop(specialist, None)

    async def close(self) -> None:
        """Wait for demotions that are being written."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
