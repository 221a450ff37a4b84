"""Recorded calls with their fixed part and the latest word on each, read in windows of time.

The store is open for one window only, so that the loader gets its turn in between. Knows the store's columns; nothing
of which calls are worth learning from.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.salvage import suspect_damage
from observations.state import StatePaths
from observations.store import is_storage_fault, open_reader
from registry.errors import StorageError
from registry.identifiers import digest_of

WINDOW_ROWS: Final = 10_000

_WAIT_S: Final = 30.0
_MAX_FIXED: Final = 4_096


class RecordedScope(Struct, frozen=True):
    """Which calls: all of them unless it says otherwise."""

    since_ms: int | None = None
    tenant: str | None = None
    cluster: str | None = None


class RecordedCall(Struct, frozen=True):
    """A call as it was recorded, JSON still as text. The order is the query's."""

    call_id: str
    at_ms: int
    tenant: str
    end_user: str
    signature: str
    prompt_hash: str
    cluster: str
    cluster_source: str
    content_mode: str
    messages: str | None
    answer_text: str | None
    answer_tool_calls: str | None
    redactions: str | None
    withheld: str
    served_by: str
    frontier: str
    outcome: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    frontier_cost_usd: float
    latency_ms: float
    said_outcome: str | None
    said_score: float | None
    said_correction: str | None
    erased_at_ms: int | None = None


class FixedPart(Struct, frozen=True):
    """What the agent sends the same way every time."""

    key: str
    """Equal for equal system prompt, tools and format, whatever the sampling; the signature where none was kept."""
    known: bool = False
    system: str = ""
    tool_names: tuple[str, ...] = ()
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None


class RecordedRange(Struct, frozen=True):
    """What there is to read: windows [from, to) in Unix milliseconds, and a fingerprint of all that is in them."""

    windows: tuple[tuple[int, int], ...]
    calls: int
    fingerprint: str


# As the view slm_feedback_latest, of the window's calls alone: the view would group all feedback for each window.
_CALLS: Final = """
    SELECT call.id, call.at_ms, call.tenant, call.end_user, call.signature, call.prompt_hash, call.cluster,
           call.cluster_source, call.content_mode, call.messages, call.answer_text, call.answer_tool_calls,
           call.redactions, call.withheld, call.served_by, call.frontier, call.outcome, call.finish_reason,
           call.prompt_tokens, call.completion_tokens, call.cost_usd, call.frontier_cost_usd, call.latency_ms,
           said.outcome, said.score, said.correction, call.erased_at_ms
    FROM slm_observation_raw AS call
    LEFT JOIN (
        SELECT call_id, tenant, arg_max(outcome, at_ms) AS outcome, arg_max(score, at_ms) AS score,
               arg_max(correction, at_ms) AS correction
        FROM slm_feedback WHERE call_id IN (SELECT call.id FROM slm_observation_raw AS call WHERE {scope})
        GROUP BY call_id, tenant
    ) AS said ON said.call_id = call.id AND said.tenant = call.tenant
    WHERE {scope} ORDER BY call.at_ms, call.id
"""
_STARTS: Final = """
    SELECT at_ms FROM (
        SELECT at_ms, row_number() OVER (ORDER BY at_ms) AS place FROM slm_observation_raw AS call WHERE {scope}
    ) WHERE place % {size} = 1 OR {size} = 1 ORDER BY at_ms
"""
_COUNTED: Final = """
    SELECT count(*), max(at_ms), coalesce(bit_xor(hash(id, coalesce(erased_at_ms, 0))), 0)
    FROM slm_observation_raw AS call WHERE {scope}
"""
_SAID: Final = """
    SELECT count(*), coalesce(bit_xor(hash(id)), 0), (SELECT coalesce(bit_xor(hash(id)), 0) FROM slm_signature)
    FROM slm_feedback
"""
_FIXED: Final = """
    SELECT tenant, signature, any_value(system), any_value(tool_names), any_value(tools), any_value(response_format)
    FROM slm_signature WHERE signature IN (SELECT unnest(?)) GROUP BY tenant, signature
"""


class RecordReader:
    """Reads one state's record. What is still in the spool is not there yet."""

    def __init__(self, state: StatePaths, scope: RecordedScope, window_rows: int = WINDOW_ROWS) -> None:
        self._state = state
        self._scope = scope
        self._window_rows = window_rows
        self._fixed: OrderedDict[tuple[str, str], FixedPart] = OrderedDict()

    def range(self) -> RecordedRange:
        """Return what there is now. Raises NotFoundError before any call was loaded, StorageError when unreadable."""
        where, values = _where(self._scope)
        with self._store() as store:
            counted = store.execute(_COUNTED.format(scope=where), values).fetchone()
            starts = store.execute(_STARTS.format(scope=where, size=self._window_rows), values).fetchall()
            said = store.execute(_SAID).fetchone()
        calls, last_ms, _ = counted
        edges = sorted({start for (start,) in starts}) + ([last_ms + 1] if calls else [])
        fingerprint = digest_of([str(value) for value in (*counted, *said, self._scope.tenant, self._scope.cluster)])
        return RecordedRange(tuple(itertools.pairwise(edges)), calls, fingerprint)

    def window(self, from_ms: int, to_ms: int) -> Iterator[tuple[RecordedCall, FixedPart]]:
        """Yield the calls of a window, the oldest first. Raises StorageError when the store cannot be read."""
        where, values = _where(self._scope)
        where += " AND call.at_ms >= ? AND call.at_ms < ?"
        with self._store() as store:
            rows = store.execute(_CALLS.format(scope=where), [*values, from_ms, to_ms] * 2).fetchall()
            self._learn(store, {(row[2], row[4]) for row in rows})
        for row in rows:
            call = RecordedCall(*row)
            yield call, self._fixed.get((call.tenant, call.signature)) or FixedPart(call.signature)
        while len(self._fixed) > _MAX_FIXED:
            self._fixed.popitem(last=False)

    def _learn(self, store: Any, wanted: set[tuple[str, str]]) -> None:
        missing = sorted({signature for tenant, signature in wanted if (tenant, signature) not in self._fixed})
        if missing:
            for tenant, signature, *parts in store.execute(_FIXED, [missing]).fetchall():
                if (tenant, signature) in wanted:
                    self._fixed[tenant, signature] = _fixed_part(signature, *parts)

    @contextlib.contextmanager
    def _store(self) -> Iterator[Any]:
        """Open the store and name its faults."""
        with contextlib.closing(open_reader(self._state, _WAIT_S)) as store:
            try:
                yield store
            except Exception as error:
                suspect_damage(self._state, error)
                if not is_storage_fault(error):
                    raise
                raise StorageError(f"Cannot read {self._state.store}: {str(error).splitlines()[0]}") from error


def _where(scope: RecordedScope) -> tuple[str, list[Any]]:
    """Values are bound; the columns are ours."""
    conditions, values = ["true"], []
    for condition, value in (
        ("call.at_ms >= ?", scope.since_ms),
        ("call.tenant = ?", scope.tenant),
        ("call.cluster = ?", scope.cluster),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    return " AND ".join(conditions), values


def _fixed_part(
    signature: str, system: str | None, tool_names: str | None, tools: str | None, response_format: str | None
) -> FixedPart:
    if system is None and not tools and not response_format:  # the tenant's content mode kept none of it
        return FixedPart(signature)
    return FixedPart(
        key=digest_of((system, tools, response_format)),
        known=True,
        system=system or "",
        tool_names=msgspec.json.decode(tool_names, type=tuple[str, ...]) if tool_names else (),
        tools=msgspec.json.decode(tools) if tools else None,
        response_format=msgspec.json.decode(response_format) if response_format else None,
    )
