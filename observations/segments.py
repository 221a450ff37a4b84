"""A segment: a file of records, each behind a header with its length and checksum.

    0xF5 'J' 'R' '1' | length, u32 little-endian | CRC-32 of the payload, u32 | payload: one event as JSON

A sealed segment ends with a footer (`JE1`) that says how many records it has. 0xF5 never occurs in UTF-8, so after
damage the next record is found by looking for the next mark. Knows bytes and events; not who writes or loads them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from registry.errors import StorageError

from .records import Event

RECORD_MARK = b"\xf5JR1"
FOOTER_MARK = b"\xf5JE1"
MAX_RECORD_BYTES = 32 << 20

_HEADER = struct.Struct("<4sII")
_COUNT = struct.Struct("<Q")
_MARK_START = b"\xf5J"
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

OPEN_SUFFIX = ".open"
SEALED_SUFFIX = ".sealed"


class Stretch(Struct, frozen=True):
    """A run of bytes that is no record. `torn` is an unfinished last write; it was never acknowledged."""

    start: int
    end: int
    reason: Literal["torn", "damaged", "undecodable"]


class Scan(Struct, frozen=True):
    """What could be read of a segment, in the order it was written."""

    events: list[Event]
    stretches: list[Stretch]
    expected: int | None
    """The footer's count; None when the segment was never sealed by its writer."""

    @property
    def damaged(self) -> int:
        """How many records are gone: exact with a footer, else the number of damaged stretches."""
        bad = sum(stretch.reason != "torn" for stretch in self.stretches)
        return bad if self.expected is None else max(self.expected - len(self.events), 0)

    @property
    def torn_bytes(self) -> int:
        """Bytes of the unfinished last write."""
        return sum(stretch.end - stretch.start for stretch in self.stretches if stretch.reason == "torn")


def encode_record(event: Event) -> bytes:
    """Return the event as the bytes to append. Raises StorageError when it cannot be written as JSON."""
    try:
        payload = _ENCODER.encode(event)
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"The {type(event).__name__} {event.id!r} cannot be written as JSON: {error}") from error
    if len(payload) > MAX_RECORD_BYTES:
        raise StorageError(f"The record {event.id!r} has {len(payload)} bytes; the most is {MAX_RECORD_BYTES}.")
    return _HEADER.pack(RECORD_MARK, len(payload), zlib.crc32(payload)) + payload


def encode_footer(records: int) -> bytes:
    """Return the bytes that end a sealed segment."""
    payload = _COUNT.pack(records)
    return _HEADER.pack(FOOTER_MARK, len(payload), zlib.crc32(payload)) + payload


def scan_segment(data: bytes) -> Scan:
    """Read a segment. Never raises for its content: what is damaged is reported and skipped."""
    events: list[Event] = []
    stretches: list[Stretch] = []
    expected: int | None = None
    for start, end, mark in _frames(data):
        if mark is None:
            stretches.append(Stretch(start, end, "torn" if end == len(data) and _is_torn(data, start) else "damaged"))
        elif mark == FOOTER_MARK:
            expected = _COUNT.unpack_from(data, start + _HEADER.size)[0] if end - start == 20 else None
        else:
            event = _decode(data[start + _HEADER.size : end])
            if event is None:
                stretches.append(Stretch(start, end, "undecodable"))
            else:
                events.append(event)
    return Scan(events, stretches, expected)


def _frames(data: bytes) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield (start, end, mark) for whole records and (start, end, None) for what lies between them."""
    at = bad_from = 0
    while at < len(data):
        end = _frame_end(data, at)
        if end is None:
            at = data.find(_MARK_START, at + 1)
            if at < 0:
                break
            continue
        if bad_from < at:
            yield bad_from, at, None
        yield at, end, data[at : at + 4]
        at = bad_from = end
    if bad_from < len(data):
        yield bad_from, len(data), None


def _frame_end(data: bytes, at: int) -> int | None:
    """Return where the record at `at` ends, or None when there is no whole and sound one."""
    if len(data) - at < _HEADER.size:
        return None
    mark, length, checksum = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + length
    if mark not in (RECORD_MARK, FOOTER_MARK) or length > MAX_RECORD_BYTES or end > len(data):
        return None
    return end if zlib.crc32(memoryview(data)[at + _HEADER.size : end]) == checksum else None


def _is_torn(data: bytes, start: int) -> bool:
    """Say whether the bytes from `start` to the file's end are the beginning of one longer record."""
    tail = len(data) - start
    if data[start : start + 4] != RECORD_MARK[:tail] and data[start : start + 4] != FOOTER_MARK[:tail]:
        return False
    return tail < _HEADER.size or _HEADER.size + _HEADER.unpack_from(data, start)[1] > tail


def _decode(payload: bytes) -> Event | None:
    try:
        return _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
