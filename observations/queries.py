"""Questions to the record: what became of one call.

Blocking, and the first call imports DuckDB: a server asks from a thread. The store is opened for the question only, so
that the loader gets its turn. Knows nothing of HTTP or of who may ask.
"""

from __future__ import annotations

import contextlib
from typing import Any

from registry.errors import NotFoundError, StorageError

from .records import CallRecord
from .rows import SPEC_OF, to_record
from .salvage import suspect_damage
from .segments import scan_segment
from .sources import segments_newest_first
from .state import StatePaths
from .store import is_storage_fault, open_reader

_CALLS = SPEC_OF[CallRecord]


def find_call(state: StatePaths, call_id: str, *, wait_s: float = 5.0) -> CallRecord | None:
    """Return the call, from the spool if it is not loaded yet. Raises StorageError when the store cannot be read."""
    # The spool first: a segment that goes in the meantime is in the store by then.
    found = _find_in_spool(state, call_id)
    if found is not None:
        return found
    rows = _ask(state, "SELECT * FROM slm_observation_raw WHERE id = ? LIMIT 1", [call_id], wait_s)
    return _as_call(rows[0]) if rows else None


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


def _ask(state: StatePaths, query: str, parameters: list[Any], wait_s: float) -> list[dict[str, Any]]:
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
