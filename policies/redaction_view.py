"""What the detectors look at: the text as bytes, one byte a character, with the usual disguises taken off.

Fullwidth digits, odd spaces and dashes become ASCII; zero-width and control characters, the tails of JSON escapes and
placeholders that are already there disappear. `origin` leads back to the caller's offsets. Knows no kind of datum.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from typing import Final

import re2

MASK: Final = 0x02
"""Stands for a placeholder or a span already taken; no detector's pattern may match it."""

LETTER: Final = "\xe9"
"""Stands for every letter outside ASCII."""

_CURRENCY: Final = "\xa4"
_OTHER: Final = "\xa6"
_GONE: Final = "\x00"

_options = re2.Options()
_options.encoding = re2.Options.Encoding.LATIN1
_options.max_mem = 64 << 20
_options.log_errors = False


def pattern(source: bytes) -> re2._Regexp:
    """Compile one RE2 pattern over view bytes (linear time, no backtracking)."""
    return re2.compile(source, _options)


def trigger_set(sources: list[bytes]) -> re2.Set:
    """Compile an unanchored RE2 set: one pass says which of the patterns occur at all."""
    triggers = re2.Set.SearchSet(_options)
    for source in sources:
        triggers.Add(source)
    triggers.Compile()
    return triggers


DISGUISE: Final = rb"[\x00-\x08\x0e-\x1f\x7f]|\\[nrtbf/u\"']|<[A-Z][A-Z0-9_]{1,40}_[0-9]{1,6}>"
"""Trigger: the plain bytes will not do, build the careful view."""

_DISGUISE = pattern(
    rb"([\x00-\x08\x0e-\x1f\x7f]+)"
    rb"|\\{1,8}u([0-9a-fA-F]{4})"
    rb"|\\{1,8}([nrtbf/\"'])"
    rb"|<([A-Z][A-Z0-9_]{1,40})_[0-9]{1,6}>"
)


class _Folding(dict[int, str]):
    """`str.translate` table that folds a character on first sight and remembers it."""

    def __missing__(self, code: int) -> str:
        folded = _fold(chr(code))
        if len(self) < 50_000:
            self[code] = folded
        return folded


def _fold(char: str) -> str:
    """Fold one character to one ASCII character, or to LETTER, _OTHER or _GONE."""
    plain = unicodedata.normalize("NFKC", char)
    if len(plain) == 1 and plain.isascii():
        return plain
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.digit(char))
    if category in {"Cf", "Cc", "Mn", "Me"}:
        return _GONE
    if category.startswith("Z"):
        return " "
    if category == "Pd" or char in "−⁃":
        return "-"
    if category in {"Pi", "Pf"}:
        return '"'
    if category == "Sc":
        return _CURRENCY
    return LETTER if category[0] == "L" else _OTHER


_folding = _Folding({code: chr(code) for code in range(128)})


class View:
    """Bytes to search (`data`), the same in lower case (`lower`), and the way back to the caller's offsets."""

    __slots__ = ("_lower", "_runs", "_shifts", "data", "size")

    def __init__(self, data: bytes, size: int, runs: list[int], shifts: list[int]) -> None:
        self.data = data
        self.size = size
        self._runs = runs
        self._shifts = shifts
        self._lower: bytes | None = None

    @property
    def lower(self) -> bytes:
        """`data` in lower case (ASCII letters only)."""
        if self._lower is None:
            self._lower = self.data.lower()
        return self._lower

    def origin(self, position: int) -> int:
        """The caller's offset of view position `position` (the end of the view is the end of the text)."""
        if position >= len(self.data):
            return self.size
        at = bisect_right(self._runs, position)
        return position + (self._shifts[at - 1] if at else 0)


def covered(view: View, spans: list[tuple[int, int]]) -> View:
    """The same view with `spans` (of view positions) blotted out; positions stay as they are."""
    buffer = bytearray(view.data)
    for start, end in spans:
        buffer[start:end] = bytes([MASK]) * (end - start)
    return View(bytes(buffer), view.size, view._runs, view._shifts)


def encode(text: str) -> bytes:
    """One byte a character: ASCII stays, everything else is folded."""
    if not text.isascii():
        text = text.translate(_folding)
    return text.encode("latin-1", "replace")


def plain_view(data: bytes) -> View:
    """A view of bytes that hold no disguise."""
    return View(data, len(data), [], [])


def careful_view(data: bytes, taken: list[tuple[int, int]], kinds: frozenset[str]) -> View:
    """A view with disguises off; `taken` (sorted, disjoint) and `<KIND_n>` of known kinds masked to one byte."""
    buffer = bytearray(data)
    for match in _DISGUISE.finditer(data):
        _undo(buffer, match, kinds)
    for start, end in taken:
        buffer[start:end] = _masked(end - start)
    return _squeezed(bytes(buffer))


def _masked(length: int) -> bytes:
    return bytes([MASK]) + bytes(length - 1)


def _undo(buffer: bytearray, match: re2._Match, kinds: frozenset[str]) -> None:
    """Write the undisguised form over the match, padded with NULs to the same length."""
    start, end = match.span()
    _, hexadecimal, letter, kind = match.groups()
    if kind is not None:
        if kind.decode() in kinds:
            buffer[start:end] = _masked(end - start)
        return
    plain = b""
    if hexadecimal is not None:
        plain = chr(int(hexadecimal, 16)).translate(_folding).encode("latin-1", "replace")
        plain = b" " if plain.isspace() else b"" if plain < b" " or plain == b"\x7f" else plain
    elif letter is not None:
        plain = _ESCAPES[letter]
    buffer[start:end] = plain.ljust(end - start, b"\x00")


_ESCAPES: Final = {b"n": b"\n", b"r": b"\n", b"t": b" ", b"b": b" ", b"f": b" ", b"/": b"/", b'"': b'"', b"'": b"'"}
_GAP = pattern(rb"\x00+")


def _squeezed(padded: bytes) -> View:
    """Drop the NULs and remember where they were."""
    runs: list[int] = []
    shifts: list[int] = []
    gone = 0
    for match in _GAP.finditer(padded):
        start, end = match.span()
        runs.append(start - gone)
        gone += end - start
        shifts.append(gone)
    return View(padded.replace(b"\x00", b""), len(padded), runs, shifts)
