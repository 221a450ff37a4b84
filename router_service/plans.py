"""The plans of recent calls, for `/v1/plans/{id}`: from memory when recent, else from spool and store.

What looking in spool and store may cost is bounded, since anybody may ask for ids that never were. A plan is shown to
its own tenant, and to operators.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

import msgspec

from observations.records import CallRecord
from observations.state import StatePaths
from registry.errors import NotFoundError, RateLimitedError
from registry.identifiers import call_id_of

from .auth import Caller
from .candidate_view import of_record

LOOKED_FOR_AT_ONCE: Final = 2
WAITING_PER_TENANT: Final = 32
MISSING_S: Final = 5.0
"""How long an id that was not found is not looked for again: another router's call may be loaded by then."""
_MISSING_KEPT: Final = 10_000

Look = Callable[[str], CallRecord | None]


class Lookups:
    """Looks for stored calls in threads: few at once, few for each tenant, and for none again that was just missing."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOKED_FOR_AT_ONCE)
        self._of_tenant: Counter[str] = Counter()
        self._missing: OrderedDict[str, float] = OrderedDict()

    async def find(self, call_id: str, tenant: str, look: Look) -> CallRecord | None:
        """Return what `look` finds. Raises RateLimitedError while the tenant waits for enough others."""
        if self._is_missing(call_id):
            return None
        if self._of_tenant[tenant] >= WAITING_PER_TENANT:
            raise RateLimitedError(f"{WAITING_PER_TENANT} older calls are being looked for already; try again shortly.")
        self._of_tenant[tenant] += 1
        try:
            async with self._places:
                # Somebody before may have looked for it in vain.
                return None if self._is_missing(call_id) else await self._looked(call_id, look)
        finally:
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]

    async def _looked(self, call_id: str, look: Look) -> CallRecord | None:
        found = await asyncio.to_thread(look, call_id)
        if found is None:
            self._missing[call_id] = time.monotonic()
            self._missing.move_to_end(call_id)
            if len(self._missing) > _MISSING_KEPT:
                self._missing.popitem(last=False)
        return found

    def _is_missing(self, call_id: str) -> bool:
        at_s = self._missing.get(call_id)
        return at_s is not None and time.monotonic() - at_s < MISSING_S


class PlanBook:
    """Bounded memory of recent calls, as the record has them."""

    def __init__(self, paths: StatePaths, kept: int) -> None:
        self._paths = paths
        self._kept = kept
        self._recent: OrderedDict[str, CallRecord] = OrderedDict()
        self._lookups = Lookups()

    def keep(self, record: CallRecord) -> None:
        """Remember a call, as redacted as its record is."""
        self._recent[record.id] = record
        if len(self._recent) > self._kept:
            self._recent.popitem(last=False)

    async def find(self, any_id: str, caller: Caller) -> CallRecord:
        """Return the call of a plan id or call id.

        Raises NotFoundError, also for another tenant's; RateLimitedError while too many older calls are looked for.
        """
        call_id = call_id_of(any_id)
        record = self._recent.get(call_id) or await self._lookups.find(call_id, caller.tenant.name, self._stored)
        if record is None or not (caller.is_operator or record.tenant == caller.tenant.name):
            raise NotFoundError(f"No plan or call with the id `{any_id}`.", param="id")
        return record

    def _stored(self, call_id: str) -> CallRecord | None:
        from observations.queries import find_call  # noqa: PLC0415  DuckDB is loaded when first needed

        return find_call(self._paths, call_id)


def plan_view(record: CallRecord) -> dict[str, Any]:
    """What `/v1/plans/{id}` shows: the decision, and what came of it; never content."""
    plan = record.plan
    return {
        "id": plan.id if plan else "",
        "object": "journeyman.plan",
        "call_id": record.id,
        "created": record.at_ms // 1000,
        "tenant": record.tenant,
        "requested_model": record.requested_model,
        "signature": record.signature,
        "cluster_id": record.cluster,
        "cluster_source": record.cluster_source,
        "task_type": record.task_type or None,
        "hint_agrees": record.hint_agrees,
        "primary": plan.primary if plan else None,
        "escalation_chain": list(plan.escalation_chain) if plan else [],
        "justification": plan.justification if plan else "",
        "explored": plan.explored if plan else False,
        "lam_quality_per_usd": plan.lam if plan else 0.0,
        "candidates": of_record(plan) if plan else [],
        "expected_cost_range": list(plan.expected_cost_usd) if plan else [],
        "expected_latency_p95_ms": plan.expected_latency_p95_ms if plan else None,
        "inputs": plan.inputs if plan else {},
        "catalog_digest": plan.catalog_digest if plan else "",
        "policy_digest": plan.policy_digest if plan else "",
        "attempts": [msgspec.to_builtins(a) for a in record.attempts],
        "served_by": record.served_by or None,
        "outcome": record.outcome,
        "error_code": record.error_code or None,
        "escalated": record.escalated,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "cost_usd": record.cost_usd,
        "saved_usd": record.frontier_cost_usd - record.cost_usd,
        "latency_ms": record.latency_ms,
        "decision_ms": record.decision_ms,
    }
