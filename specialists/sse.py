"""A parser of server-sent events that is fed bytes as they come, cut anywhere.

Source: the WHATWG HTML standard, section 9.2.6. Yields the data of each event; knows nothing of JSON.
`id` and `retry` are for reconnecting browsers and are skipped.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 4 * 1024 * 1024


class EventTooLargeError(ValueError):
    """One event is larger than this parser is ready to hold."""


class SSEParser:
    """Feed it chunks; it returns the data of the events that they complete."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._most = max_event_bytes
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._is_first = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every event that is complete now. Raises EventTooLargeError."""
        events: list[bytes] = []
        for line in self._lines(chunk):
            self._take(line, events)
        if len(self._rest) + self._size > self._most:
            raise EventTooLargeError(f"an event of the stream is over {self._most} bytes")
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data = []
                self._size = 0
            return
        if not line.startswith(b"data"):
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete now; they end in LF, CR LF or CR."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        self._rest += chunk
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            whole = bytes(self._rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        elif b"\n" in chunk:
            whole = bytes(self._rest)
        else:
            return []
        *lines, rest = whole.split(b"\n")
        self._rest = bytearray(rest)
        if self._is_first and lines:
            self._is_first = False
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return lines
