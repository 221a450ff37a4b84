"""The calls a classifier learns from: recorded ones whose cluster is known, or the `train` rows of workloads.

A cluster counts as known when the signature or a pattern found it, or when the finding and the caller's hint agree;
never by an earlier learned classifier's word alone. Knows the store and workloads; nothing of how a fit works.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.salvage import suspect_damage
from observations.state import StatePaths
from observations.store import is_storage_fault, open_reader
from pipelines.workload import Workload
from registry.errors import StorageError
from registry.identifiers import UNKNOWN_CLUSTER
from specialists.contexts import Fixed, json_keys_of

_BATCH_ROWS: Final = 2_048


class LabelledCall(Struct, frozen=True):
    """A call with a known cluster."""

    cluster: str
    text: str
    """The last user message, redacted if recorded."""
    fixed: Fixed = Fixed()
    caller: str = ""
    """Who said it, as far as the record can tell; "" on all calls of a fit: nobody is told from anybody."""


class _Turn(Struct):
    role: str = ""
    content: Any = None


# The newest calls of each cluster; the order is the calls' own, so that the same store gives the same rows. A caller is
# a tenant's end user (hashed in the record), or its key where none was named. One tenant with a key or two and no end
# users at all tells nobody apart: behind its keys there may be one person or thousands.
_RECORDED: Final = """
    SELECT call.cluster, call.messages, said.system, said.tool_names, said.response_format,
           CASE WHEN count(DISTINCT call.tenant) OVER () = 1 AND max(call.end_user) OVER () = ''
                     AND count(DISTINCT call.key_id) OVER () < 3 THEN ''
                WHEN call.end_user <> '' THEN call.tenant || '/user/' || call.end_user
                ELSE call.tenant || '/key/' || call.key_id END AS caller
    FROM (SELECT * REPLACE (coalesce(end_user, '') AS end_user, coalesce(key_id, '') AS key_id)
          FROM slm_observation_curated) AS call
    LEFT JOIN slm_signature AS said ON said.signature = call.signature AND said.tenant = call.tenant
    WHERE (call.cluster_source = 'signature' OR (call.cluster_source = 'pattern' AND call.hint_agrees IS NOT false)
           OR call.hint_agrees)
    QUALIFY row_number() OVER (PARTITION BY call.cluster ORDER BY call.at_ms DESC, call.id) <= ?
    ORDER BY call.at_ms, call.id
"""


def recorded_calls(state: StatePaths, newest: int, wait_s: float = 30.0) -> Iterator[LabelledCall]:
    """Yield the newest calls of each cluster, at most `newest` of one. What is still in the spool is not there yet.

    Raises:
        NotFoundError: nothing was recorded yet.
        StorageError: the store cannot be read.
    """
    store = open_reader(state, wait_s)
    with contextlib.closing(store):
        try:
            cursor = store.execute(_RECORDED, [newest])
            while batch := cursor.fetchmany(_BATCH_ROWS):
                yield from (call for call in map(_as_call, batch) if call.text.strip())
        except Exception as error:
            suspect_damage(state, error)
            if not is_storage_fault(error):
                raise
            raise StorageError(f"Cannot read {state.store}: {str(error).splitlines()[0]}") from error


def workload_calls(workload: Workload, families: Sequence[str] | None = None) -> Iterator[LabelledCall]:
    """Yield the `train` rows of a workload; the family is the cluster, each row its own caller.

    Raises WorkloadError for bad rows.
    """
    for row in workload.rows(families, ["train"]):
        body = workload.request(row)
        yield LabelledCall(row.family, row.text, fixed_of_body(body), f"{row.family}/{row.id}")


def fixed_of_body(body: dict[str, Any]) -> Fixed:
    """Return the fixed part of an OpenAI chat request."""
    system = "\n".join(turn["content"] for turn in body["messages"] if turn["role"] == "system")
    names = tuple(tool["function"]["name"] for tool in body.get("tools") or ())
    return Fixed(system, names, json_keys_of(body.get("response_format")))


def last_user_text(turns: Iterable[_Turn]) -> str:
    """Return the last user message's text; "" when it has none."""
    said = [turn.content for turn in turns if turn.role == "user"]
    return said[-1] if said and isinstance(said[-1], str) else ""


def _as_call(row: tuple[Any, ...]) -> LabelledCall:
    cluster, messages, system, tool_names, response_format, caller = row
    form = msgspec.json.decode(response_format) if response_format else None
    names = msgspec.json.decode(tool_names, type=tuple[str, ...]) if tool_names else ()
    assert cluster != UNKNOWN_CLUSTER
    text = last_user_text(msgspec.json.decode(messages, type=list[_Turn]))
    return LabelledCall(cluster, text, Fixed(system or "", names, json_keys_of(form)), caller)
