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
_OPTION: Final = re.compile(r"(?:^|[\s,])\(?(?:[A-Za-z]|[0-9]{1,2})[).:] ", re.MULTILINE)
_OTHER, _DIGIT, _CAPITAL, _MARK, _SPACE, _LINE, _NOTATION, _QUOTE, _QUESTION = range(9)


def _classes() -> NDArray[np.uint8]:
    """The class of each Latin-1 character; place 255 stands for the rest of Unicode, which is none of them."""
    table = np.full(256, _OTHER, dtype=np.uint8)
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
        table[[ord(char) for char in chars]] = kind
    return table


_CLASSES: Final = _classes()


def text_features(text: str) -> NDArray[np.float64]:
    """Return the features in the order of `NAMES`, shape (12,)."""
    seen = text if len(text) <= HEAD_CHARS + TAIL_CHARS else text[:HEAD_CHARS] + text[-TAIL_CHARS:]
    codes = np.frombuffer(seen.encode("utf-16-le", "surrogatepass"), dtype="<u2")
    found = np.bincount(_CLASSES[np.minimum(codes, 255)], minlength=9).tolist()
    size = max(1, len(seen))
    marks = found[_MARK] + found[_NOTATION] + found[_QUOTE] + found[_QUESTION]
    words = max(1, len(seen.split()))
    start, end = seen[:1], seen.rstrip()[-1:]
    values = (
        math.log1p(len(text)) / 4.0 - 1.3,
        min(1.0, 10.0 * found[_DIGIT] / size),
        min(1.0, 10.0 * found[_CAPITAL] / size),
        min(1.0, 10.0 * marks / size),
        min(1.0, sum(1 for _ in _OPTION.finditer(seen)) / 5.0),
        float(found[_QUESTION] > 0),
        min(1.0, math.log1p(found[_LINE]) / 3.0),
        float(found[_NOTATION] > 0),
        float(found[_QUOTE] > 0),
        float(start.isalnum()),
        min(1.0, max(-1.0, (size / words - 5.0) / 2.0)),
        float(end == "?"),
    )
    return _SCALE * np.array(values)
