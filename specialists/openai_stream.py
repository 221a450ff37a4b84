"""The state of one streamed answer: bytes in, Deltas out, and whether its end has come.

Knows nothing of sockets or deadlines. Raises BackendError for what a server should not have sent, StreamCutError for
an end that never came.
"""

from __future__ import annotations

from collections.abc import Iterator

from registry.errors import BackendError, StreamCutError

from .calls import Call, Delta
from .openai_answers import Piece, ToolCallPiece, decode_answer, estimate_usage, read_piece
from .openai_errors import Upstream, event_error
from .sse import EventTooLargeError, SSEParser

_DONE = b"[DONE]"


class ToolIndex:
    """Which tool call a piece belongs to, also where a server numbers none: a new id is a new call."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def of(self, piece: ToolCallPiece) -> int:
        """Return the index of the call."""
        if piece.index is not None:
            return max(0, piece.index)
        if piece.id and piece.id not in self._ids:
            self._ids.append(piece.id)
        return self._ids.index(piece.id) if piece.id else max(0, len(self._ids) - 1)


class StreamReader:
    """Feed it the body's chunks until `is_done`, then take `rest`."""

    def __init__(self, upstream: Upstream, call: Call) -> None:
        self._upstream = upstream
        self._call = call
        self._events = SSEParser()
        self._tools = ToolIndex()
        self._written_chars = 0
        self._has_choice = False
        self._has_usage = False
        self.is_done = False
        """The closing event was read."""
        self.is_finished = False
        """A finish reason was read: the answer is whole, though usage and the closing event may still come."""

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield the pieces that the chunk completes, those before an error in it too."""
        try:
            events = self._events.feed(chunk)
        except EventTooLargeError as error:
            raise self._error(str(error)) from None
        for data in events:
            if data == _DONE:
                self.is_done = True
                return
            yield self._read(data)

    def rest(self) -> Delta | None:
        """Return what a clean end still owes the caller: a finish reason, usage. Raises BackendError for no answer."""
        if not self._has_choice:
            raise self._error("ended its stream without an answer")
        usage = None if self._has_usage else estimate_usage(self._call, self._written_chars)
        reason = None if self.is_finished else "stop"
        return Delta(finish_reason=reason, usage=usage) if usage or reason else None

    def cut(self, cause: str) -> StreamCutError:
        """Return the error for a stream that ended without its end."""
        name = self._upstream.entry.name
        return StreamCutError(f"backend {name!r} cut its stream before the closing event ({cause})", backend=name)

    def _read(self, data: bytes) -> Piece:
        answer = decode_answer(data, self._upstream.entry.name)
        if answer.error is not None:
            raise event_error(self._upstream, answer.error)
        piece = read_piece(answer, self._tools.of)
        delta = piece.delta
        self._has_choice = self._has_choice or bool(answer.choices)
        self._has_usage = self._has_usage or delta.usage is not None
        self.is_finished = self.is_finished or delta.finish_reason is not None
        self._written_chars += len(delta.text) + sum(len(call.arguments) for call in delta.tool_calls)
        return piece

    def _error(self, what: str) -> BackendError:
        name = self._upstream.entry.name
        return BackendError(f"backend {name!r}: {what}", backend=name)
