"""An erasure as a whole: the record and the reports are emptied, and what else was made of the calls is named.

Datasets are immutable, specialists have learnt, runs are working files: those are for the operator to remove, and here
is the list. Knows where the loop leaves what; nothing of the command line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from observations.erasure import Erasable, call_of, find_erasable, recorded_end_users
from observations.loading import LoaderSettings, load_once
from observations.records import ErasureRecord
from observations.segments import scan_segment
from observations.sources import segments_newest_first
from observations.spool import Spool
from observations.state import StatePaths
from pipelines.datasets import DatasetStore
from pipelines.promotion_archive import REPORTS, drop_examples
from pipelines.run import RUNS
from pipelines.train_command import adapters_in_runs
from registry.errors import BadInputError, JourneymanError, StorageError
from registry.registrar import Registrar

Say = Callable[[str], None]
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_WORDS: Final = re.compile(rb"[A-Za-z0-9_-]+")
_WORKING: Final = (RUNS, "clusters")
"""Folders of the state folder in which files of the loop may quote calls, each with its id."""
_WAIT_S: Final = 60.0
_REWRITING_WAIT_S: Final = 900.0
"""A gateway's loader may be writing a store of millions of calls anew."""
_STORES: Final = (".duckdb", ".wal")


class Asked(Struct, frozen=True, kw_only=True):
    """What is to be erased: calls by id, and all calls of end users; of one tenant alone if it is named."""

    call_ids: tuple[str, ...] = ()
    end_user: str = ""
    tenant: str = ""


class Left(Struct, frozen=True, kw_only=True):
    """What the calls are still in, and only a person can decide about."""

    datasets: dict[str, tuple[str, ...]]
    """Versions that hold any, and which."""
    specialists: dict[str, str]
    """Specialists and adapters that were trained on such a version, and on which."""
    files: dict[str, tuple[str, ...]]
    """Files of the loop's runs."""
    quarantine: dict[str, tuple[str, ...]]
    """Damaged segments with the calls in them; damaged stores, of which nobody can say (then no call is named)."""
    unchecked: tuple[str, ...] = ()
    """What could not be looked through, and why."""


class ErasureReport(Struct, frozen=True, kw_only=True):
    """What an erasure did."""

    erased: tuple[str, ...]
    """Calls whose content went now."""
    before: tuple[str, ...]
    """Calls that had been erased earlier."""
    unknown: tuple[str, ...]
    """Ids that are not on record; should such a call be recorded yet, it is recorded without content."""
    reports: tuple[str, ...]
    """Promotion reports that showed any, and no longer do."""
    waiting: tuple[str, ...]
    """Segments that a running gateway still writes; emptied when they are loaded, within seconds."""
    left: Left

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def find(state: StatePaths, asked: Asked) -> list[Erasable]:
    """Return the calls that were asked for and are on record, the ids of unknown ones with no tenant.

    Raises BadInputError for an id that can be none, or a call of another tenant; StorageError.
    """
    odd = [one for one in asked.call_ids if not _ID.fullmatch(one)]
    if odd:
        raise BadInputError(f"{odd[0]!r} is no call id: they are letters, digits, - and _.", param="call_id")
    load_once(state, LoaderSettings(wait_s=_WAIT_S))
    users = recorded_end_users(state, asked.end_user) if asked.end_user else ()
    found = {one.call_id: one for one in find_erasable(state, asked.call_ids, users)}
    foreign = [
        found[one] for one in asked.call_ids if one in found and asked.tenant and found[one].tenant != asked.tenant
    ]
    if foreign:
        raise BadInputError(f"{foreign[0].call_id} is a call of the tenant {foreign[0].tenant}.", param="tenant")
    unknown = [Erasable(one, "") for one in dict.fromkeys(asked.call_ids) if one not in found]
    return [one for one in found.values() if not asked.tenant or one.tenant == asked.tenant] + unknown


def erase(state: StatePaths, calls: Sequence[Erasable], say: Say, wait_s: float = _WAIT_S) -> ErasureReport:
    """Erase the calls; when this returns nothing in the store's files holds them. Doing it again changes nothing.

    Beside a running gateway, whose loader may do the work. Raises StorageError when the record cannot be written;
    the erasure goes on then with the next load.
    """
    ids = frozenset(call.call_id for call in calls)
    say(f"erasing {len(ids)} calls from the record")
    if calls:
        _record(state, calls)
    waiting = _load(state, ids, wait_s)
    say("looking for what else holds them")
    reports = drop_examples(state.root / REPORTS, ids)
    left = _left(state, ids)
    return ErasureReport(
        erased=tuple(call.call_id for call in calls if call.erased_at_ms is None and call.tenant),
        before=tuple(call.call_id for call in calls if call.erased_at_ms is not None),
        unknown=tuple(call.call_id for call in calls if not call.tenant),
        reports=tuple(map(str, reports.changed)),
        waiting=tuple(map(str, waiting)),
        left=structs.replace(left, unchecked=(*left.unchecked, *reports.unreadable)),
    )


def _record(state: StatePaths, calls: Sequence[Erasable]) -> None:
    at_ms = int(time.time() * 1000)
    spool = Spool.open(state.spool)
    try:
        for call in calls:
            record = ErasureRecord(id=call.call_id, at_ms=at_ms, call_id=call.call_id, tenant=call.tenant)
            if not spool.append(record):
                raise StorageError(f"The spool {state.spool} is full: wait for the loader, and erase again.")
    finally:
        spool.close()


def _load(state: StatePaths, ids: Collection[str], wait_s: float) -> list[Path]:
    """Load until no segment holds the calls any more; return those that a writer still has after the wait."""
    deadline = time.monotonic() + wait_s
    while True:
        load_once(state, LoaderSettings(wait_s=_REWRITING_WAIT_S))
        waiting = [path for path in segments_newest_first(state.spool) if _holds(path, ids)]
        if not waiting or time.monotonic() > deadline:
            return waiting
        time.sleep(0.2)


def _holds(segment: Path, ids: Collection[str]) -> bool:
    try:
        return any(call_of(event) in ids for event in scan_segment(segment.read_bytes()).events)
    except FileNotFoundError:
        return False  # loaded just now


def _left(state: StatePaths, ids: Collection[str]) -> Left:
    unchecked: list[str] = []

    def looked(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """One thing that cannot be read must not hide the others."""
        try:
            return look()
        except JourneymanError as error:
            unchecked.append(error.message)
            return {}

    store, registrar = DatasetStore(state.root), Registrar(state.root)
    datasets: dict[str, tuple[str, ...]] = {}
    trained = looked(lambda: adapters_in_runs(state.root))
    for name in store.names():
        datasets |= looked(partial(store.holding, ids, name))
    for specialist in looked(lambda: dict(registrar.history().stages)):
        trained |= looked(partial(_trained_on, registrar, specialist))
    files = looked(lambda: {str(path): found for path in _working_files(state) if (found := _named_in(path, ids))})
    return Left(
        datasets=datasets,
        specialists={one: uri for one, uri in trained.items() if uri in datasets},
        files=files,
        quarantine=_quarantined(state, ids),
        unchecked=tuple(unchecked),
    )


def _trained_on(registrar: Registrar, specialist: str) -> dict[str, str]:
    return {specialist: registrar.check(specialist).dataset}


def _working_files(state: StatePaths) -> Iterator[Path]:
    for name in _WORKING:
        yield from sorted(path for path in (state.root / name).rglob("*") if path.is_file())


def _quarantined(state: StatePaths, ids: Collection[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for path in sorted(state.quarantine.glob("*")):
        named = _named_in(path, ids) if path.is_file() else ()
        if named or path.name.endswith(_STORES):
            found[str(path)] = named
    return found


def _named_in(path: Path, ids: Collection[str]) -> tuple[str, ...]:
    """The calls whose ids stand in a file, read line by line; a file that has gone names none."""
    found: set[str] = set()
    try:
        with path.open("rb") as file:
            for line in file:
                found.update(word for raw in _WORDS.findall(line) if (word := raw.decode()) in ids)
    except OSError:
        return ()
    return tuple(sorted(found))
