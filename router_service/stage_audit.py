"""Writes the moves of made specialists into the record: one `StageMoveRecord` for each move of a ledger entry.

A record's id comes from the entry's digest, so that gateways which share a state, and restarts, store it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from observations.records import StageMoveRecord
from registry.errors import StorageError
from registry.ledger import History, SignedEntry

from .log import get

_log = get("stage_audit")


class StageAudit:
    """One for each process; what could not be written is tried again with the next look."""

    def __init__(self, write: Callable[[StageMoveRecord], bool]) -> None:
        self._write = write
        self._written = 0

    def follow(self, history: History) -> None:
        """Record the entries that are new since the last time."""
        for signed in history.entries[self._written :]:
            try:
                for record in records_of(signed):
                    if not self._write(record):
                        return
            except StorageError as error:
                _log.error("stage move not recorded yet", entry=signed.entry.seq, reason=error.message)
                return
            self._written += 1


def records_of(signed: SignedEntry) -> Iterator[StageMoveRecord]:
    """Yield a record for each move of an entry; those that follow from the first carry its number in their id."""
    entry = signed.entry
    receipt = {
        "digest": signed.digest,
        "key": signed.key_id,
        **msgspec.to_builtins(entry),
    }
    for number, move in enumerate(entry.moves):
        yield StageMoveRecord(
            id=signed.digest if number == 0 else f"{signed.digest}:{number}",
            at_ms=entry.at_ms,
            specialist=move.specialist,
            before=move.before or "",
            after=move.after,
            actor=entry.actor,
            reason=entry.reason,
            receipt=receipt,
        )
