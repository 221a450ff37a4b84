"""What a detector is: a trigger that is cheap, a search that is exact, and hits in view positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from policies.redaction_view import View

CHECKED: Final = 3
"""Rank of a hit that a checksum, a vendor's prefix or a fixed grammar confirms."""
NAMED: Final = 2
"""Rank of a hit that a word beside it names."""
SHAPED: Final = 1
"""Rank of a hit that only its shape suggests."""


class Hit(NamedTuple):
    """A datum at view positions [start, end)."""

    start: int
    end: int
    kind: str
    rank: int


class Detector(NamedTuple):
    """`find` runs only where RE2 pattern `trigger` occurs and one of `kinds` is on."""

    kinds: frozenset[str]
    trigger: bytes
    find: Callable[[View], Iterable[Hit]]
    is_late: bool = False
    """Runs after the others, on what they left: for a shape that is part of many others."""


_WORD: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\xe9")
_DIGIT: Final = frozenset(b"0123456789")


def free_of_words(data: bytes, start: int, end: int) -> bool:
    """No letter or digit touches [start, end)."""
    return not ((start > 0 and data[start - 1] in _WORD) or (end < len(data) and data[end] in _WORD))


def starts_number(data: bytes, start: int) -> bool:
    """No digit stands before `start`, and what starts there is not the fraction of a decimal number."""
    if start == 0:
        return True
    return data[start - 1] not in _DIGIT and not (start > 1 and data[start - 1] == _POINT and data[start - 2] in _DIGIT)


def ends_number(data: bytes, end: int) -> bool:
    """No digit stands at `end`."""
    return end >= len(data) or data[end] not in _DIGIT


_POINT: Final = ord(".")


def words(source: bytes) -> re.Pattern[bytes]:
    """Compile a pattern for slices of bounded length: there `re` is safe, and quicker to call than RE2."""
    return re.compile(source)


def said_before(view: View, start: int, words: re.Pattern[bytes], reach: int = 48) -> bool:
    """One of `words` (lower case) stands in the `reach` characters before `start`."""
    return words.search(view.lower[max(0, start - reach) : start]) is not None


def said_after(view: View, end: int, words: re.Pattern[bytes], reach: int = 16) -> bool:
    """What stands right after `end` begins with one of `words` (lower case)."""
    return words.match(view.lower[end : end + reach]) is not None
