"""The plans of recent calls, for `/v1/plans/{id}`: from memory when recent, else from spool and store.

A plan is shown to its own tenant, and to operators.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import msgspec

from observations.records import CallRecord
from observations.state import StatePaths
from registry.errors import NotFoundError
from registry.identifiers import call_id_of

from .auth import Caller
from .candidate_view import of_record


class PlanBook:
    """Bounded memory of recent calls, as the record has them."""

    def __init__(self, paths: StatePaths, kept: int) -> None:
        self._paths = paths
        self._kept = kept
        self._recent: OrderedDict[str, CallRecord] = OrderedDict()

    def keep(self, record: CallRecord) -> None:
        """Remember a call, as redacted as its record is."""
        self._recent[record.id] = record
        if len(self._recent) > self._kept:
            self._recent.popitem(last=False)

    async def find(self, any_id: str, caller: Caller) -> CallRecord:
        """Return the call of a plan id or call id. Raises NotFoundError, also for another tenant's."""
        call_id = call_id_of(any_id)
        record = self._recent.get(call_id) or await asyncio.to_thread(self._stored, call_id)
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
