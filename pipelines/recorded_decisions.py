"""Reads recorded calls, each with the newest feedback on it and the registry as it was, for a replay.

The store is opened for a page at a time, so that the loader gets its turn. Knows nothing of planners.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from observations.loading import LoaderSettings, load_once
from observations.records import CallRecord
from observations.rows import SPEC_OF, to_record
from observations.state import StatePaths
from observations.store import open_reader
from policies.contenders import Contender, contenders_of, entries_of
from policies.reward import reward_of_feedback
from registry.errors import BadInputError

_PAGE_CALLS: Final = 2_000
_WAIT_S: Final = 30.0
_GAP: Final = "\x1f"
_COLUMNS: Final = (
    "id, at_ms, requested_model, cluster, cluster_source, plan, attempts, served_by, frontier, outcome, error_code, "
    "cost_usd, latency_ms, escalated, cache_hit"
)

_PICK: Final = """
    SELECT id, at_ms FROM slm_observation_raw
    WHERE at_ms >= $since_ms AND (cluster = $cluster OR $cluster IS NULL)
    ORDER BY CASE WHEN $sampled THEN md5(id || $seed) END, at_ms, id
    LIMIT $limit
"""
_PAGE: Final = f"""
    SELECT {", ".join("call." + name.strip() for name in _COLUMNS.split(","))},
           said.outcome AS said_outcome, said.score AS said_score
    FROM slm_observation_raw AS call
    LEFT JOIN slm_feedback_latest AS said ON said.call_id = call.id AND said.tenant = call.tenant
    WHERE call.at_ms BETWEEN $first_ms AND $last_ms AND call.id IN (SELECT unnest(string_split($ids, $gap)))
    ORDER BY call.at_ms, call.id
"""  # noqa: S608  - names of our own
_ALL_ROWS: Final = 2**62


class RecordedCall(Struct, frozen=True):
    """A call, and what was said of it later."""

    call: CallRecord
    feedback: float | None
    """The score, or 1 for success and 0 for failure; None when nobody said either."""


class Catalogs:
    """The registries of the past, by digest."""

    def __init__(self, snapshots: dict[str, list[dict[str, Any]]]) -> None:
        self._snapshots = snapshots
        self._made: dict[tuple[str, str], list[Contender] | None] = {}

    def contenders(self, digest: str, frontier: str) -> list[Contender] | None:
        """Return who could answer under the digest; None when no snapshot of it can be read."""
        key = (digest, frontier)
        if key not in self._made:
            self._made[key] = self._make(digest, frontier)
        return self._made[key]

    def _make(self, digest: str, frontier: str) -> list[Contender] | None:
        snapshot = self._snapshots.get(digest)
        if snapshot is None:
            return None
        try:
            models, specialists = entries_of(snapshot)
            return contenders_of(models, specialists, frontier)
        except (msgspec.ValidationError, KeyError):
            return None


class Recorded:
    """The recorded calls of a state directory that a replay asks for."""

    def __init__(self, paths: StatePaths, picked: Sequence[tuple[str, int]]) -> None:
        self._paths = paths
        self._picked = picked

    @classmethod
    def choose(
        cls, paths: StatePaths, since_ms: int | None, cluster: str | None, limit: int | None, seed: int
    ) -> Recorded:
        """Load what the spool still has, and choose the calls: all of them, or an even sample of `limit`.

        Raises BadInputError when there is no such directory, StorageError when the store cannot be read.
        """
        if not paths.root.is_dir():
            raise BadInputError(f"There is no state directory {paths.root}. Name one with --state.", param="state")
        load_once(paths, LoaderSettings(wait_s=_WAIT_S))
        asked = {
            "since_ms": since_ms or 0,
            "cluster": cluster,
            "sampled": limit is not None,
            "seed": f"/{seed}",
            "limit": _ALL_ROWS if limit is None else limit,
        }
        rows = _ask(paths, _PICK, asked)
        return cls(paths, sorted(((row["id"], row["at_ms"]) for row in rows), key=lambda pair: (pair[1], pair[0])))

    def __len__(self) -> int:
        return len(self._picked)

    def catalogs(self) -> Catalogs:
        """Return every catalog snapshot of the store."""
        rows = _ask(self._paths, "SELECT digest, models FROM catalog_snapshot", {})
        return Catalogs({row["digest"]: msgspec.json.decode(row["models"]) for row in rows if row["models"]})

    def __iter__(self) -> Iterator[RecordedCall]:
        """Yield the calls in the order of their times."""
        for start in range(0, len(self._picked), _PAGE_CALLS):
            page = self._picked[start : start + _PAGE_CALLS]
            # One text: DuckDB looks at each value of a list as if it might be a pandas one, which takes longer.
            ids = _GAP.join(call_id for call_id, _ in page)
            asked = {"first_ms": page[0][1], "last_ms": page[-1][1], "ids": ids, "gap": _GAP}
            for row in _ask(self._paths, _PAGE, asked):
                yield _recorded(row)


def _recorded(row: dict[str, Any]) -> RecordedCall:
    said = reward_of_feedback(row.pop("said_outcome"), row.pop("said_score"))
    call = to_record(SPEC_OF[CallRecord], row)
    assert isinstance(call, CallRecord)
    return RecordedCall(call, None if said is None else said.value)


def _ask(paths: StatePaths, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    with contextlib.closing(open_reader(paths, _WAIT_S)) as store:
        cursor = store.execute(query, parameters)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
