"""The outer form of a text as a few numbers: length, digits, lists of options, questions. Knows no words, no language.

They go into the bandit's vector beside an embedding: the form says which kind of task it is, and how long an answer it
needs, even where no embedder was fitted. Each lies within about -0.5..0.5, so that none outweighs the embedding.
Pure, and linear in the text, which is capped.
"""

from __future__ import annotations

import math
import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

VERSION: Final = "form12-v1"
"""Part of the vector's name: other features are another vector."""

NAMES: Final = (
    "length",
    "digits",
    "capitals",
    "marks",
    "options",
    "question",
    "lines",
    "notation",
    "quotes",
    "plain_start",
    "word_length",
    "ends_as_question",
)
"""In the order of the vector: log of the length; shares of digits, capitals and punctuation; enumerated options; a
question mark; log of the lines; signs of code or formulas; quotation marks; starts with a letter or digit; mean length
of words; ends with a question mark."""

HEAD_CHARS: Final = 3_072
TAIL_CHARS: Final = 1_024
"""A longer text counts with its beginning and its end, but its whole length."""

_SCALE: Final = 0.5
_OPTION_END: Final = re.compile(r"[).:] ")
_OPTION_START: Final = re.compile(r"[\s,]\(?(?:[A-Za-z]|[0-9][0-9]?)\Z")
_OPTION_CHARS: Final = 4
"""Of the longest start."""
_OTHER, _DIGIT, _CAPITAL, _MARK, _SPACE, _LINE, _NOTATION, _QUOTE, _QUESTION = range(9)


def _classes() -> bytes:
    """The class of each Latin-1 character; the rest of Unicode is none of them."""
    table = bytearray([_OTHER]) * 256
    for code in range(255):
        char = chr(code)
        if char.isdigit():
            table[code] = _DIGIT
        elif char.isupper():
            table[code] = _CAPITAL
        elif char.isspace():
            table[code] = _SPACE
        elif not char.isalnum():
            table[code] = _MARK
    for chars, kind in (("\n", _LINE), ("=^\\{}<>_", _NOTATION), ("\"'", _QUOTE), ("?", _QUESTION)):
        for char in chars:
            table[ord(char)] = kind
    return bytes(table)


_CLASSES: Final = _classes()
_KINDS: Final = tuple(bytes([kind]) for kind in range(9))


def text_features(text: str) -> NDArray[np.float64]:
    """Return the features in the order of `NAMES`, shape (12,)."""
    seen = text if len(text) <= HEAD_CHARS + TAIL_CHARS else text[:HEAD_CHARS] + text[-TAIL_CHARS:]
    classes = seen.encode("latin-1", "ignore").translate(_CLASSES)
    found = [classes.count(kind) for kind in _KINDS]
    size = max(1, len(seen))
    marks = found[_MARK] + found[_NOTATION] + found[_QUOTE] + found[_QUESTION]
    words = max(1, len(seen.split()))
    start, end = seen[:1], seen.rstrip()[-1:]
    values = (
        math.log1p(len(text)) / 4.0 - 1.3,
        min(1.0, 10.0 * found[_DIGIT] / size),
        min(1.0, 10.0 * found[_CAPITAL] / size),
        min(1.0, 10.0 * marks / size),
        min(1.0, _options(seen) / 5.0),
        float(found[_QUESTION] > 0),
        min(1.0, math.log1p(found[_LINE]) / 3.0),
        float(found[_NOTATION] > 0),
        float(found[_QUOTE] > 0),
        float(start.isalnum()),
        min(1.0, max(-1.0, (size / words - 5.0) / 2.0)),
        float(end == "?"),
    )
    return _SCALE * np.array(values)


def _options(text: str) -> int:
    """How many of a list's marks there are: `A. `, `(b) `, `12: `. Looked for from their ends, which are rare."""
    text, count, free = f"\n{text}", 0, 0
    for end in _OPTION_END.finditer(text):
        at = end.start()
        if _OPTION_START.search(text, max(free, at - _OPTION_CHARS), at):
            count, free = count + 1, end.end()
    return count
