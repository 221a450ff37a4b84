"""Questions to the record: one call, the latest calls, sums by cluster or model.

Blocking, and the first call imports DuckDB: a server asks from a thread. The store is opened for the question only, so
that the loader gets its turn. Knows nothing of HTTP or of who may ask; `tenant` filters when given.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from msgspec import Struct

from registry.errors import NotFoundError, StorageError

from .records import CallRecord
from .rows import SPEC_OF, to_record
from .salvage import suspect_damage
from .segments import scan_segment
from .sources import segments_newest_first
from .state import StatePaths
from .store import is_storage_fault, open_reader

_CALLS = SPEC_OF[CallRecord]


class SummaryRow(Struct, frozen=True):
    """Calls of one cluster or model, summed up. Rates are shares of `calls`, 0 to 1."""

    name: str
    calls: int
    tenants: int
    verified_rate: float
    escalated_rate: float
    failed_rate: float
    latency_p50_ms: float
    latency_p95_ms: float
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    saved_usd: float
    """Against the frontier answering every one of them."""


def find_call(state: StatePaths, call_id: str, *, tenant: str | None = None, wait_s: float = 5.0) -> CallRecord | None:
    """Return the call, from the spool if it is not loaded yet. Raises StorageError when the store cannot be read."""
    # The spool first: a segment that goes in the meantime is in the store by then.
    found = _find_in_spool(state, call_id)
    if found is None:
        rows = _ask(state, "SELECT * FROM slm_observation_raw WHERE id = ? LIMIT 1", [call_id], wait_s)
        found = _as_call(rows[0]) if rows else None
    return found if found is None or tenant in (None, found.tenant) else None


def recent_calls(
    state: StatePaths, limit: int = 20, *, tenant: str | None = None, cluster: str | None = None
) -> list[CallRecord]:
    """Return the latest loaded calls, the newest first. The last two seconds may still be on their way."""
    query = """
        SELECT * FROM slm_observation_raw
        WHERE (?::VARCHAR IS NULL OR tenant = ?) AND (?::VARCHAR IS NULL OR cluster = ?)
        ORDER BY at_ms DESC, id DESC LIMIT ?
    """
    return [_as_call(row) for row in _ask(state, query, [tenant, tenant, cluster, cluster, limit])]


def summary(
    state: StatePaths, by: Literal["cluster", "model"] = "cluster", *, since_ms: int = 0, tenant: str | None = None
) -> list[SummaryRow]:
    """Return sums over the calls since `since_ms`, the largest group first."""
    column = {"cluster": "cluster", "model": "served_by"}[by]
    query = f"""
        SELECT {column} AS name, count(*) AS calls, count(DISTINCT tenant) AS tenants,
               avg((outcome = 'verified')::INT) AS verified_rate, avg(escalated::INT) AS escalated_rate,
               avg((outcome = 'failed')::INT) AS failed_rate,
               quantile_cont(latency_ms, 0.5) AS latency_p50_ms, quantile_cont(latency_ms, 0.95) AS latency_p95_ms,
               sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(completion_tokens)::BIGINT AS completion_tokens,
               sum(cost_usd) AS cost_usd, sum(frontier_cost_usd - cost_usd) AS saved_usd
        FROM slm_observation_raw
        WHERE at_ms >= ? AND (?::VARCHAR IS NULL OR tenant = ?)
        GROUP BY {column} ORDER BY calls DESC, name
    """  # noqa: S608  - the column is one of two constants
    return [SummaryRow(**row) for row in _ask(state, query, [since_ms, tenant, tenant])]


def _find_in_spool(state: StatePaths, call_id: str) -> CallRecord | None:
    needle = call_id.encode()
    for path in segments_newest_first(state.spool):
        data = b""
        with contextlib.suppress(FileNotFoundError):  # loaded just now
            data = path.read_bytes()
        if needle in data:
            for event in scan_segment(data).events:
                if isinstance(event, CallRecord) and event.id == call_id:
                    return event
    return None


def _ask(state: StatePaths, query: str, parameters: list[Any], wait_s: float = 5.0) -> list[dict[str, Any]]:
    """Return the rows as dictionaries; none when nothing was ever loaded."""
    try:
        store = open_reader(state, wait_s)
    except NotFoundError:
        return []
    with contextlib.closing(store):
        try:
            cursor = store.execute(query, parameters)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except Exception as error:
            suspect_damage(state, error)
            if not is_storage_fault(error):
                raise
            raise StorageError(f"Cannot read {state.store}: {str(error).splitlines()[0]}") from error


def _as_call(row: dict[str, Any]) -> CallRecord:
    record = to_record(_CALLS, row)
    assert isinstance(record, CallRecord)
    return record
