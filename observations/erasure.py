"""The right to erasure: what was said in a call goes, that there was a call stays.

An erasure is an event like any other: it comes through the spool, and the loader, the store's only writer, empties the
rows that are there and whatever arrives later. A tombstone keeps the call's time, its outcome and its figures. Knows
records and the store; not who asks for an erasure, nor where else a call was used.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from registry.errors import NotFoundError, StorageError

from .records import CallRecord, ErasureRecord, Event, FeedbackRecord, ShadowRecord
from .rows import SPEC_OF, TableSpec, columns_of, to_arrow, to_record
from .salvage import suspect_damage
from .segments import scan_segment
from .sources import segments_newest_first
from .state import StatePaths
from .store import is_storage_fault, open_reader

if TYPE_CHECKING:
    import duckdb

_KEYS: dict[type[Event], str] = {CallRecord: "id", ShadowRecord: "call_id", FeedbackRecord: "call_id"}
"""What holds a call's content, and the column that names the call."""
_FIND = """
    SELECT id, tenant, erased_at_ms FROM slm_observation_raw
    WHERE id IN (SELECT unnest(?::VARCHAR[])) OR end_user IN (SELECT unnest(?::VARCHAR[])) ORDER BY at_ms, id
"""


class Erasable(Struct, frozen=True):
    """A recorded call that an erasure is about."""

    call_id: str
    tenant: str
    erased_at_ms: int | None = None
    """Not None: it was erased before."""


def call_of(event: Event) -> str | None:
    """Return the call whose content an event may hold; None for every other kind."""
    column = _KEYS.get(type(event))
    return None if column is None else str(getattr(event, column))


def without_content(event: Event, erased_at_ms: int) -> Event:
    """Return the event as its tombstone: nothing that anybody said, no hash of it, and nothing that quotes it."""
    if isinstance(event, CallRecord):
        return structs.replace(
            event,
            messages=None,
            answer_text=None,
            answer_tool_calls=None,
            metadata={},
            end_user="",
            prompt_hash="",
            attempts=tuple(structs.replace(attempt, reason="") for attempt in event.attempts),
            erased_at_ms=event.erased_at_ms or erased_at_ms,
        )
    if isinstance(event, ShadowRecord):
        return structs.replace(event, answer_text=None, answer_tool_calls=None, reason="")
    if isinstance(event, FeedbackRecord):
        # Whoever said what would have been right said that the answer was wrong: that is a figure, and stays.
        outcome = "failure" if event.outcome is None and event.correction else event.outcome
        return structs.replace(event, outcome=outcome, comment=None, correction=None)
    return event


class Erased(Struct, frozen=True):
    """What a batch of events comes to once erasures are heeded."""

    events: list[Event]
    emptied_rows: int
    """Rows of the store that lost content."""


def apply_erasures(store: duckdb.DuckDBPyConnection, events: list[Event]) -> Erased:
    """Empty the rows of calls that the events erase, and the events of calls that are erased, now or before.

    Within the loader's transaction, before the events are inserted.
    """
    fresh = {event.call_id: event.at_ms for event in events if isinstance(event, ErasureRecord)}
    erased = _erased_before(store, events) | fresh
    if not erased:
        return Erased(events, 0)
    kept = [without_content(event, erased[call]) if (call := call_of(event)) in erased else event for event in events]
    return Erased(kept, sum(_empty_rows(store, kind, column, fresh) for kind, column in _KEYS.items()) if fresh else 0)


def find_erasable(
    state: StatePaths, call_ids: Collection[str], end_users: Collection[str] = (), wait_s: float = 30.0
) -> list[Erasable]:
    """Return the recorded calls of those ids or end users (as recorded: hashed), loaded or still in the spool.

    Raises StorageError when the store cannot be read.
    """
    found = {call.call_id: call for call in _in_spool(state, frozenset(call_ids), frozenset(end_users))}
    with contextlib.suppress(NotFoundError), contextlib.closing(open_reader(state, wait_s)) as store:
        try:
            rows = store.execute(_FIND, [sorted(call_ids), sorted(end_users)]).fetchall()
        except Exception as error:
            suspect_damage(state, error)
            if not is_storage_fault(error):
                raise
            raise StorageError(f"Cannot read {state.store}: {str(error).splitlines()[0]}") from error
        found |= {row[0]: Erasable(*row) for row in rows}
    return list(found.values())


def erased_among(state: StatePaths, call_ids: Collection[str], wait_s: float = 30.0) -> frozenset[str]:
    """Return which of the calls were erased. Raises NotFoundError without a store, StorageError."""
    query = "SELECT call_id FROM slm_erasure WHERE call_id IN (SELECT unnest(?::VARCHAR[]))"
    with contextlib.closing(open_reader(state, wait_s)) as store:
        return frozenset(row[0] for row in store.execute(query, [sorted(call_ids)]).fetchall())


def recorded_end_users(state: StatePaths, end_user: str) -> tuple[str, ...]:
    """Return how an end user may be named in the record: as given, and as the keyed hash of what was given."""
    try:
        key = (state.root / "hash.key").read_bytes()
    except OSError:
        return (end_user,)
    return end_user, hmac.digest(key, end_user.encode("utf-8", "surrogatepass"), "sha256").hex()


def _in_spool(state: StatePaths, call_ids: frozenset[str], end_users: frozenset[str]) -> Iterable[Erasable]:
    for path in segments_newest_first(state.spool):
        with contextlib.suppress(FileNotFoundError):  # loaded just now
            for event in scan_segment(path.read_bytes()).events:
                if isinstance(event, CallRecord) and (event.id in call_ids or event.end_user in end_users):
                    yield Erasable(event.id, event.tenant)


def _erased_before(store: duckdb.DuckDBPyConnection, events: Sequence[Event]) -> dict[str, int]:
    """Of the calls that the events are about, those that were erased by an earlier batch, and when."""
    if store.execute("SELECT 1 FROM slm_erasure LIMIT 1").fetchone() is None:
        return {}
    calls = sorted({call for event in events if (call := call_of(event)) is not None})
    query = (
        "SELECT call_id, min(at_ms) FROM slm_erasure WHERE call_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY call_id"
    )
    return dict(store.execute(query, [calls]).fetchall())


def _empty_rows(store: duckdb.DuckDBPyConnection, kind: type[Event], column: str, fresh: Mapping[str, int]) -> int:
    """Put tombstones in the place of one kind's rows that still have content; return how many."""
    spec = SPEC_OF[kind]
    names = ", ".join(f'"{name}"' for name in columns_of(spec))
    query = f"SELECT {names} FROM {spec.name} WHERE {column} IN (SELECT unnest(?::VARCHAR[]))"  # noqa: S608  our names
    rows = store.execute(query, [sorted(fresh)]).fetchall()
    held = [to_record(spec, dict(zip(columns_of(spec), row, strict=True))) for row in rows]
    tombstones = [without_content(event, fresh[str(call_of(event))]) for event in held]
    changed = [after for before, after in zip(held, tombstones, strict=True) if after != before]
    if changed:
        _replace(store, spec, changed, names)
    return len(changed)


def _replace(store: duckdb.DuckDBPyConnection, spec: TableSpec, events: Sequence[Event], names: str) -> None:
    ids: list[Any] = [event.id for event in events]
    store.execute(f"DELETE FROM {spec.name} WHERE id IN (SELECT unnest(?::VARCHAR[]))", [ids])  # noqa: S608
    store.register("tombstones", to_arrow(spec, events))
    store.execute(f"INSERT INTO {spec.name} ({names}) SELECT {names} FROM tombstones")  # noqa: S608
    store.unregister("tombstones")
