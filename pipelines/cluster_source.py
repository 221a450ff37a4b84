"""The curated calls as the clustering reads them: a file of rows, gone through a few times and never held whole.

Of each call stay 24 bytes: where its line begins, a digest of its id and one of its fixed part. A sample is read by
jumping to its lines. It knows rows and their places in a file; nothing of features or clusters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from pipelines.cluster_tokens import fixed_key_of
from pipelines.loop_rows import CuratedCall
from registry.errors import BadInputError

BATCH: Final = 1_024
_MOST_SHARED: Final = 4_096
NO_AGENT: Final = 0
"""Stands for a call of which nothing fixed is known."""

Row = TypeVar("Row")

_ROWS: Final = msgspec.json.Decoder(CuratedCall)


class _Head(Struct, frozen=True):
    """What the first look at a line takes; the rest of it is skipped, not decoded."""

    call_id: str
    signature: str


_HEADS: Final = msgspec.json.Decoder(_Head)


class Heads(Struct, frozen=True):
    """Every call of a file, in its order. Each array has one entry a call."""

    offsets: NDArray[np.uint64]
    ranks: NDArray[np.uint64]
    """`rank_of` the call's id."""
    agents: NDArray[np.uint64]
    """`agent_of` the call."""

    def __len__(self) -> int:
        return len(self.offsets)


class CallFile:
    """A file of `CuratedCall` rows. Raises BadInputError that names the line which is no such row."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def heads(self) -> Heads:
        """Go through all calls once."""
        found: list[NDArray[np.uint64]] = []
        lines = self._lines()
        while batch := [self._head(offset, line) for offset, line in islice(lines, BATCH)]:
            found.append(np.array(batch, dtype=np.uint64))
        table = np.concatenate(found) if found else np.empty((0, 3), dtype=np.uint64)
        offsets, ranks, agents = (np.ascontiguousarray(table[:, at]) for at in range(3))
        return Heads(offsets, ranks, agents)

    def batches(self) -> Iterator[list[CuratedCall]]:
        """Yield all calls in order, some thousands at a time."""
        lines = self._lines()
        while batch := [self._decoded(_ROWS, offset, line) for offset, line in islice(lines, BATCH)]:
            yield batch

    def call_ids(self) -> Iterator[str]:
        """Yield the ids of all calls in order."""
        for offset, line in self._lines():
            yield self._decoded(_HEADS, offset, line).call_id

    def at(self, offsets: NDArray[np.uint64]) -> Iterator[CuratedCall]:
        """Yield the calls whose lines begin there, without their tools' schemas: many of them may be held at once."""
        same: dict[bytes, Any] = {}
        try:
            with self.path.open("rb") as file:
                for offset in offsets.tolist():
                    file.seek(offset)
                    yield _slim(self._decoded(_ROWS, offset, file.readline()), same)
        except OSError as error:
            raise self._unreadable(error) from error

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        offset = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if line.strip():
                        yield offset, line
                    offset += len(line)
        except OSError as error:
            raise self._unreadable(error) from error

    def _head(self, offset: int, line: bytes) -> tuple[int, int, int]:
        head = self._decoded(_HEADS, offset, line)
        agent = digest64(head.signature) if head.signature else agent_of(self._decoded(_ROWS, offset, line))
        return offset, rank_of(head.call_id), agent

    def _decoded(self, decoder: msgspec.json.Decoder[Row], offset: int, line: bytes) -> Row:
        try:
            return decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            place = f"{self.path}, at byte {offset}"
            raise BadInputError(f"{place}: {error}. Run the step that wrote it again.") from error

    def _unreadable(self, error: OSError) -> BadInputError:
        return BadInputError(f"Cannot read {self.path}: {error.strerror}. Run the step that writes it first.")


def _slim(call: CuratedCall, same: dict[bytes, Any]) -> CuratedCall:
    """Return the call with one copy of what its agent sends on every call."""
    if len(same) > _MOST_SHARED:
        same.clear()
    form = same.setdefault(msgspec.json.encode(call.response_format), call.response_format)
    system = same.setdefault(call.system.encode("utf-8", "surrogatepass"), call.system)
    return replace(call, tools=None, response_format=form, system=system)


def agent_of(call: CuratedCall) -> int:
    """Return 64 bits of a digest of the call's fixed part, `NO_AGENT` when nothing fixed is known."""
    key = fixed_key_of(call)
    return digest64(key) if key else NO_AGENT


def rank_of(call_id: str) -> int:
    """Return 64 bits of a digest of a call's id: the order in which calls are sampled."""
    return digest64(call_id)


def digest64(text: str) -> int:
    """Return 64 bits of a digest: the text cannot be read back."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def choose_sample(agents: NDArray[np.uint64], ranks: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
    """Return which calls are looked at, given each call's agent and its rank by digest.

    All when they are few; otherwise no agent gets more than its fair share, so that a busy one leaves room for others.
    """
    if len(agents) <= size:
        return np.ones(len(agents), dtype=bool)
    order = np.lexsort((ranks, agents))
    _, starts, counts = np.unique(agents[order], return_index=True, return_counts=True)
    places = np.empty(len(agents), dtype=np.int64)
    places[order] = np.arange(len(agents)) - np.repeat(starts, counts)
    cap = _fair_share(counts, size)
    chosen = places < cap
    left = size - int(chosen.sum())
    if left > 0:
        at_cap = np.flatnonzero(places == cap)
        chosen[at_cap[np.argsort(ranks[at_cap])[:left]]] = True
    return chosen


def _fair_share(counts: NDArray[np.int64], size: int) -> int:
    """Return the most that one may have so that all together have at most `size`."""
    low, high = 0, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= size else (low, middle - 1)
    return low


def in_batches(calls: Iterator[CuratedCall]) -> Iterator[Sequence[CuratedCall]]:
    """Yield the calls some thousands at a time."""
    while batch := list(islice(calls, BATCH)):
        yield batch
