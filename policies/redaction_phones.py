"""Detector of phone and fax numbers. The one module that imports phonenumbers.

A cheap search proposes runs of digit groups. What a plus sign, a trunk zero or a word beside it makes plain is settled by
the run's shape; only the rest is asked of phonenumbers, and that a bounded number of times per text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import phonenumbers

from policies.redaction_detector import CHECKED, NAMED, SHAPED, Detector, Hit, said_after, said_before
from policies.redaction_policy import RedactionPolicy
from policies.redaction_view import View, pattern

_MAX_LOOKUPS: Final = 400
"""Numbers of one text that are looked up; beyond it every phone-shaped run is taken out unasked."""

_GROUPS: Final = pattern(rb"\+?\(?\+?[0-9]{1,15}\)?(?:[ .-]{0,2}[ ./-]?\(?[0-9]{1,14}\)?){0,8}")
_GROUP: Final = pattern(rb"[0-9]+")
_EXTENSION: Final = pattern(rb"(?i) ?,? ?(?:x|ext\.?|extension|#) ?[0-9]{1,6}")
_NANP: Final = pattern(rb"(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}")
_STRONG_WORDS: Final = pattern(
    rb"phone|\btel\b|telef|t\xe9l|\bmobil|\bcell|\bfax|whatsapp|\bsms\b|\bdial|hotline|voicemail|\bcall(?:ed|ing|s)?\b|\bms\b|handy"
    rb"|\btexts? (?:me|him|her|us|them|to)|reach (?:me|him|her|us|them)|\bring me"
)
_WEAK_WORDS: Final = pattern(
    rb"contact|messages?\b|\btext(?:s|ed|ing)?\b|reach|\bring\b|number|\boffice\b|\bhome\b|\bwork\b|\bline\b|registered|\bt:|\bm:|\bp:|\bf:|\bcalls\b"
)
_AFTER_WORDS: Final = pattern(
    rb"^[ \t,;:(-]{0,3}(?:\\?,-)?(?:office|fax|mobile|cell|home|work|phone|tel\b|landline|direct|main\b|voice|pager)"
)
_NOT_PHONE: Final = pattern(
    rb"(?:isbn|issn|doi|order|invoice|ticket|tracking|case|ref(?:erence)?|sku|version|model|part|serial|flight|patent|rfc|page|pp|vol|lines?"
    rb"|\xa4|\$|usd|eur|gbp|population|coordinates|lat|lon)[ .:#=no\"']{0,6}$"
)
_DATE_LIKE: Final = pattern(
    rb"^(?:[0-9]{4}[-./ ][0-9]{1,2}[-./ ][0-9]{1,2}(?:[ -][0-9]{1,2}.*)?|[0-9]{1,2}[-./ ][0-9]{1,2}[-./ ](?:19|20)[0-9]{2}(?:[ -][0-9].*)?"
    rb"|(?:1[0-9]|20)[0-9]{2} ?[-/ ] ?(?:1[0-9]|20)[0-9]{2}|[0-9]{5}-[0-9]{4}|[0-9]{3}-[0-9]{2}-[0-9]{4}|(?:19|20)[0-9]{2}(?:[01][0-9])[0-3][0-9])$"
)


def detectors(policy: RedactionPolicy) -> list[Detector]:
    """The detectors of this module under `policy`."""
    find = partial(phones, policy.phone_regions)
    return [Detector(frozenset({"PHONE"}), rb"[0-9](?:[ ()./-]{0,4}[0-9]){6}", find)]


def phones(regions: tuple[str, ...], view: View) -> Iterator[Hit]:
    """International numbers, trunk-zero groupings, NANP groupings, and others that a word or phonenumbers confirms."""
    lookup = _Lookup(regions)
    data = view.data
    match = _GROUPS.search(data)
    while match is not None:
        start, end = match.span()
        hit = _phone(view, start, end, lookup)
        if hit is not None:
            yield hit
            end = hit.end
        match = _GROUPS.search(data, end)


def _phone(view: View, start: int, end: int, lookup: _Lookup) -> Hit | None:
    """The longest phone that begins at one of the run's groups, if there is one."""
    data = view.data
    if start > 0 and (data[start - 1 : start].isalnum() or data[start - 1] in b"_$#\xe9"):
        start = _next_group(data, start, end)
    ends = [group.end() for group in _GROUP.finditer(data, start, end)]
    if not ends or (ends[-1] < len(data) and (data[ends[-1] : ends[-1] + 1].isalpha() or data[ends[-1]] in b"_%\xe9")):
        ends = ends[:-1]
    for first in range(min(len(ends), 3)):
        begin = start if first == 0 else _GROUP.search(data, ends[first - 1]).start()
        for stop in reversed(ends[first:]):
            rank = _rank(view, begin, stop, lookup)
            if rank:
                return _extended(data, begin, stop, rank)
    return None


def _next_group(data: bytes, start: int, end: int) -> int:
    """Past the group at `start`, which is the tail of a word."""
    first = _GROUP.search(data, start, end)
    following = _GROUP.search(data, first.end(), end) if first else None
    return following.start() if following else end


def _extended(data: bytes, start: int, end: int, rank: int) -> Hit:
    """With its closing bracket and extension."""
    if end < len(data) and data[end] == ord(")") and b"(" in data[start:end]:
        end += 1
    extension = _EXTENSION.match(data, end)
    return Hit(start, extension.end() if extension else end, "PHONE", rank)


def _rank(view: View, start: int, end: int, lookup: _Lookup) -> int:
    """How sure it is that [start, end) is a phone number; 0 when it is taken for none."""
    data = view.data
    text = data[start:end]
    digits = bytes(byte for byte in text if 48 <= byte <= 57)
    if not 7 <= len(digits) <= 15 or len(set(digits)) == 1 or text.count(b"(") > 2:
        return 0
    if text.lstrip(b"(").startswith(b"+"):
        return CHECKED if lookup.is_country(digits) else 0
    if _DATE_LIKE.match(text) or _NOT_PHONE.search(view.lower, max(0, start - 14), start):
        return 0
    if _NANP.fullmatch(text):
        return CHECKED
    is_strong = said_before(view, start, _STRONG_WORDS) or said_after(view, end, _AFTER_WORDS)
    if text[:2] == b"00" and len(digits) >= 10:
        return CHECKED if lookup.is_country(digits[2:]) else 0
    if is_strong:
        return NAMED if len(digits) <= 13 and text.count(b".") != 1 else 0
    return _unnamed(view, start, end, lookup)


def _unnamed(view: View, start: int, end: int, lookup: _Lookup) -> int:
    """Without a word that says phone: only groupings that look dialled and that some country gives out."""
    text = view.data[start:end]
    groups = [len(group.group()) for group in _GROUP.finditer(text)]
    is_weak = said_before(view, start, _WEAK_WORDS, 40)
    if len(groups) == 1:
        return NAMED if is_weak and 9 <= groups[0] <= 12 and text[0] == ord("0") and lookup.is_valid(text) else 0
    if max(groups) > 8 or min(groups[1:]) < 2 or b"/" in text or b". " in text:
        return 0
    if b" " in text and view.data[end : end + 1] == b" " and view.data[end + 1 : end + 2].isalpha() and not is_weak:
        return 0
    if not is_weak and groups.count(3) == len(groups):
        return 0
    return SHAPED if lookup.is_valid(text) else 0


class _Lookup:
    """phonenumbers, asked a bounded number of times."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        self._regions = regions
        self._left = _MAX_LOOKUPS

    def is_country(self, digits: bytes) -> bool:
        """The digits begin with a country calling code of ITU E.164 and leave at least six."""
        return len(digits) >= 8 and any(
            int(digits[:size]) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE for size in (1, 2, 3)
        )

    def is_valid(self, text: bytes) -> bool:
        """A number that at least one of the regions gives out, or the bound is spent."""
        self._left -= 1
        if self._left < 0:
            return True
        number = text.decode("ascii")
        return any(_is_given_out(number, region) for region in self._regions)


def _is_given_out(number: str, region: str) -> bool:
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number_for_region(parsed, region))
