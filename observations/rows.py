"""Events as rows: which table each kind goes to, and columns made from records in bulk.

A record's scalars are columns of the same name; what is nested is one column of JSON text. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct

from .records import (
    CallRecord,
    CatalogRecord,
    ErasureRecord,
    Event,
    FeedbackRecord,
    ShadowRecord,
    SignatureRecord,
    StageMoveRecord,
)

if TYPE_CHECKING:
    import pyarrow as pa

_JSON = msgspec.json.Encoder()


class TableSpec(Struct, frozen=True):
    """Where one kind of event is stored."""

    name: str
    record: type[Event]
    json_columns: frozenset[str]
    ids_repeat_in_time: bool = True
    """False when the same id always has the same `at_ms`, so that looking for it is cheap."""


TABLES: tuple[TableSpec, ...] = (
    TableSpec(
        "slm_observation_raw",
        CallRecord,
        frozenset({"messages", "answer_tool_calls", "redactions", "metadata", "plan", "attempts"}),
        ids_repeat_in_time=False,
    ),
    TableSpec("slm_signature", SignatureRecord, frozenset({"tools", "response_format", "tool_names"})),
    TableSpec("slm_feedback", FeedbackRecord, frozenset()),
    TableSpec("catalog_snapshot", CatalogRecord, frozenset({"models"})),
    TableSpec("slm_shadow", ShadowRecord, frozenset({"answer_tool_calls"})),
    TableSpec("promotion_audit_log", StageMoveRecord, frozenset({"receipt"})),
    TableSpec("slm_erasure", ErasureRecord, frozenset()),
)
SPEC_OF: dict[type[Event], TableSpec] = {spec.record: spec for spec in TABLES}

JSON_COLUMNS = frozenset[str]().union(*(spec.json_columns for spec in TABLES), {"entry"})


def columns_of(spec: TableSpec) -> tuple[str, ...]:
    """Return the column names in the record's order."""
    return spec.record.__struct_fields__


def to_arrow(spec: TableSpec, events: Sequence[Event]) -> pa.Table:
    """Return the events as an Arrow table. Raises pyarrow's errors for a value no column can hold."""
    import pyarrow as pa  # noqa: PLC0415  - only the loader pays for it

    arrays = {
        name: pa.array(_values(name, name in spec.json_columns, events), type=_arrow_type(pa, spec, name))
        for name in columns_of(spec)
    }
    return pa.table(arrays)


def insert_statement(spec: TableSpec, first_ms: int, last_ms: int) -> str:
    """Return the SQL that adds the rows of `batch` whose ids are not there yet.

    `first_ms` and `last_ms` span the batch. Names come from `TABLES`; no text of a caller gets here.
    """
    columns = ", ".join(f'"{name}"' for name in columns_of(spec))
    known = f"SELECT id FROM {spec.name}"  # noqa: S608
    if not spec.ids_repeat_in_time:  # the same id has the same time, so DuckDB skips all other row groups
        known += f" WHERE at_ms BETWEEN {first_ms} AND {last_ms}"
    return f"INSERT INTO {spec.name} ({columns}) SELECT {columns} FROM batch ANTI JOIN ({known}) AS known USING (id)"  # noqa: S608


def to_record(spec: TableSpec, row: dict[str, Any]) -> Event:
    """Return a row as the record it was. A column younger than the row takes the field's default."""
    values = {
        name: msgspec.json.decode(value) if name in spec.json_columns else value
        for name, value in row.items()
        if value is not None
    }
    return msgspec.convert(values, spec.record)


def _values(name: str, is_json: bool, events: Sequence[Event]) -> list[Any]:
    values = [getattr(event, name) for event in events]
    if is_json:
        return [None if value is None else _JSON.encode(value).decode() for value in values]
    return values


def _arrow_type(pa: Any, spec: TableSpec, name: str) -> Any:
    if name in spec.json_columns:
        return pa.string()
    annotation = str(_annotations(spec.record)[name])
    for word, kind in (("bool", pa.bool_()), ("int", pa.int64()), ("float", pa.float64())):
        if annotation.startswith(word):
            return kind
    return pa.string()


def _annotations(record: type[Event]) -> dict[str, str]:
    return cast("dict[str, str]", record.__annotations__)
