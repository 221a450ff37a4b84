"""A text as words, the same for a redacted record and for what a caller really sent. Knows no language.

What redaction takes out is folded on both sides: e-mail addresses, links and numbers each become one word, and so do
their placeholders (`<EMAIL_1>`, `<PHONE_2>`); an address's placeholder goes. Linear in the text, which is capped.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

WORDS_VERSION: Final = "words1"
"""Part of an embedder's name: another way of cutting words is another embedder."""

HEAD_CHARS: Final = 2_048
TAIL_CHARS: Final = 1_024
"""A longer text counts with its beginning and its end: the question stands at one of them."""

EMAIL: Final = "\x01"
LINK: Final = "\x02"
NUMBER: Final = "0"

_MAX_MAIL_CHARS: Final = 320
_MAX_TABLE: Final = 50_000
_PLACEHOLDER = re.compile(r"<([a-z][a-z0-9_]{1,40})_[0-9]{1,6}>")
_NUMBER = re.compile(r"\d[\d .,:/()+-]*")
_FOLDED_KINDS: Final = {"email": EMAIL, "url": LINK, "address": " "}
_CJK: Final = (("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uac00", "\ud7af"), ("\uf900", "\ufaff"))


class _Characters(dict[int, str]):
    """`str.translate` table: letters stay, apostrophes go, all else parts words. Learns a character on first sight."""

    def __missing__(self, code: int) -> str:
        stands_for = _kept(chr(code))
        if len(self) < _MAX_TABLE:
            self[code] = stands_for
        return stands_for


def _kept(char: str) -> str:
    if char in "'\u2019":
        return ""
    if any(first <= char <= last for first, last in _CJK):
        return f" {char} "
    is_word = char in (EMAIL, LINK, NUMBER) or unicodedata.category(char)[0] in "LM"
    return char if is_word else " "


_CHARACTERS: Final = _Characters()


def words_of(text: str) -> list[str]:
    """Return the words of a text in order, in lower case. Chinese, Japanese and Korean count by the character."""
    text = _capped(text)
    if not text.isascii():
        text = _capped(unicodedata.normalize("NFKC", text))
    text = text.lower()
    if "<" in text:
        text = _PLACEHOLDER.sub(_of_placeholder, text)
    if "@" in text or "://" in text or "www." in text:
        text = " ".join(map(_folded, text.split()))
    return _NUMBER.sub(" 0 ", text).translate(_CHARACTERS).split()


def _capped(text: str) -> str:
    """Return the text, or the two ends of a long one."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]} {text[-TAIL_CHARS:]}"


def _of_placeholder(match: re.Match[str]) -> str:
    return f" {_FOLDED_KINDS.get(match[1], NUMBER)} "


def _folded(piece: str) -> str:
    """Return what lies between two spaces, or the word that stands for an e-mail address or a link."""
    if "://" in piece or piece.startswith("www."):
        return LINK
    if "@" in piece[1:-1] and len(piece) <= _MAX_MAIL_CHARS and piece.isascii():
        return EMAIL
    return piece
