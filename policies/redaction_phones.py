"""Detector of phone and fax numbers. The one module that imports phonenumbers.

A cheap search proposes runs of digit groups. What a plus sign or a word beside it makes plain is settled by
the run's shape; the rest must be a number that some country gives out, by the numbering plans in phonenumbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from functools import partial
from typing import Final

import phonenumbers
import re2
from phonenumbers.phonemetadata import PhoneMetadata

from policies.redaction_detector import CHECKED, NAMED, SHAPED, Detector, Hit, said_after, said_before, words
from policies.redaction_policy import RedactionPolicy
from policies.redaction_view import View, pattern

_GROUPS: Final = pattern(rb"\+?\(?\+?[0-9]{1,15}\)?(?:[ .-]{0,2}[ ./-]?\(?[0-9]{1,14}\)?){0,8}")
_GROUP: Final = words(rb"[0-9]+")
_EXTENSION: Final = words(rb"(?i) ?,? ?(?:x|ext\.?|extension|#) ?[0-9]{1,6}")
_GLUED: Final = words(rb"[A-Za-z_%\xe9]")
_NANP: Final = words(rb"(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}")
_STRONG_WORDS: Final = words(
    rb"phone|\btel\b|telef|t\xe9l|\bmobil|\bcell|\bfax|whatsapp|\bsms\b|\bdial|hotline|voicemail|\bcall(?:ed"
    rb"|ing|s)?\b|\bms\b|handy"
    rb"|\btexts? (?:me|him|her|us|them|to)|reach (?:me|him|her|us|them)|\bring me"
)
_WEAK_WORDS: Final = words(
    rb"contact|messages?\b|\btext(?:s|ed|ing)?\b|reach|\bring\b|number|\boffice\b|\bhome\b|\bwork\b|\bline\b"
    rb"|regist|\bt:|\bm:|\bp:|\bf:|\bcalls\b"
)
_AFTER_WORDS: Final = words(
    rb"[ \t,;:(-]{0,3}(?:office|fax|mobile|cell|home|work|phone|tel\b|landline|direct|main\b|voice|pager"
    rb"|is (?:my|your|his|her|their|our|the)? ?(?:new |old )?(?:number|contact)|your (?:number|contact))"
)
_NOT_PHONE: Final = words(
    rb"(?:isbn|issn|doi|order|invoice|ticket|tracking|case|ref(?:erence)?|sku|version|model|part|serial|flight"
    rb"|patent|rfc|page|pp"
    rb"|vol|lines?|\xa4|\$|usd|eur|gbp|population|coordinates|lat|lon)[ .:#=no\"']{0,6}$"
)
_DATE_LIKE: Final = words(
    rb"(?:[12][0-9]{3}[-./ ][01]?[0-9][-./ ][0-3]?[0-9](?:[ -][0-9]{1,2}.*)?"
    rb"|[0-9]{1,2}[-./ ][0-9]{1,2}[-./ ](?:19|20)[0-9]{2}(?:[ -][0-9].*)?"
    rb"|[0-9]{5}-[0-9]{4}|[0-9]{3}-[0-9]{2}-[0-9]{4}"
    rb"|(?:19|20)[0-9]{2}[01][0-9][0-3][0-9])"
)
"""Dates, ZIP+4 and social security numbers, in full."""
_RANGE_LIKE: Final = words(
    rb"[1-9][0-9]{2,3} ?[-/] ?(?:20|1[0-9]|[1-9])[0-9]{2}|(?:1[0-9]|20)[0-9]{2} (?:1[0-9]|20)[0-9]{2}"
)
_HOUSE_LIKE: Final = words(rb"[1-9][0-9]{0,4} [1-9][0-9]{0,5}")
_AMOUNT_AFTER: Final = words(
    rb" ?(?:%|\$|\xa4|eur|usd|gbp|euro|dollar|pound|kr\b|people|inhabitants|residents|votes|units|km|m2|kg|tons"
    rb"|tonnes|years|square|items|rows)"
)


def detectors(policy: RedactionPolicy) -> list[Detector]:
    """The detectors of this module under `policy`."""
    find = partial(phones, policy.phone_regions)
    return [Detector(frozenset({"PHONE"}), rb"[0-9](?:[ ()./-]{0,4}[0-9]){5}", find, is_late=True)]


def phones(regions: tuple[str, ...], view: View) -> Iterator[Hit]:
    """International numbers, trunk-zero groupings, NANP groupings, and others that a word or phonenumbers confirms."""
    data = view.data
    match = _GROUPS.search(data)
    while match is not None:
        start, end = match.span()
        hit = None if end - start < 6 else _phone(view, start, end, regions)
        if hit is not None:
            yield hit
            end = hit.end
        match = _GROUPS.search(data, end)


def _phone(view: View, start: int, end: int, regions: tuple[str, ...]) -> Hit | None:
    """The longest phone that begins at one of the run's groups, if there is one."""
    data = view.data
    if sum(48 <= byte <= 57 for byte in data[start:end]) < 6:
        return None
    if start > 0 and (data[start - 1 : start].isalnum() or data[start - 1] in b"_$#\xe9"):
        start = _next_group(data, start, end)
    groups = [group.span() for group in _GROUP.finditer(data, start, end)]
    ends = [group[1] for group in groups]
    if len(groups) > 5 and groups[-1][1] - groups[0][0] <= 2.5 * len(groups):
        return None  # single digits, one after the other
    if not ends or (_GLUED.match(data, ends[-1]) and not _EXTENSION.match(data, ends[-1])):
        ends = ends[:-1]
    for first in range(min(len(ends), 3)):
        begin = start if first == 0 else groups[first][0]
        stops = [stop for stop in ends[first:] if 6 <= stop - begin <= 24]
        for stop in stops[-1:-5:-1]:
            rank = _rank(view, begin, stop, regions)
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


def _rank(view: View, start: int, end: int, regions: tuple[str, ...]) -> int:
    """How sure it is that [start, end) is a phone number; 0 when it is taken for none."""
    text = view.data[start:end]
    digits = bytes(byte for byte in text if 48 <= byte <= 57)
    if not 6 <= len(digits) <= 15 or len(set(digits)) == 1 or text.count(b"(") > 2:
        return 0
    if text.lstrip(b"(").startswith(b"+"):
        return CHECKED if _is_country(digits) else 0
    if _DATE_LIKE.fullmatch(text.strip(b"()")) or said_before(view, start, _NOT_PHONE, 16):
        return 0
    if _NANP.fullmatch(text):
        return CHECKED
    if text[:2] == b"00" and len(digits) >= 10:
        return CHECKED if _is_country(digits[2:]) else 0
    groups = [len(group.group()) for group in _GROUP.finditer(text)]
    if len(groups) == 2 and b"." in text:
        return 0
    if said_before(view, start, _STRONG_WORDS) or said_after(view, end, _AFTER_WORDS, 32):
        return NAMED if len(digits) in range(7, 14) or groups in ([2, 2, 2], [3, 3]) else 0
    return (
        SHAPED if len(digits) >= 7 and _is_dialled(view, start, end, groups) and _is_given_out(digits, regions) else 0
    )


def _is_dialled(view: View, start: int, end: int, groups: list[int]) -> bool:
    """Without a word that says phone: whether the grouping looks dialled rather than counted, dated or measured."""
    text = view.data[start:end]
    is_weak = said_before(view, start, _WEAK_WORDS, 40)
    has_trunk = text.lstrip(b"(").startswith(b"0")
    if len(groups) == 1:
        return is_weak and 9 <= groups[0] <= 12
    if (
        max(groups) > (9 if has_trunk else 8)
        or b"/" in text
        or b". " in text
        or _RANGE_LIKE.fullmatch(text.strip(b"()"))
    ):
        return False
    if min(groups) < 2 and not has_trunk and not text.startswith((b"(", b"8 (")):
        return False
    if said_after(view, end, _AMOUNT_AFTER):
        return False
    is_before_name = view.data[end : end + 1] == b" " and view.data[end + 1 : end + 2].isalpha()
    return is_weak or not (is_before_name and _HOUSE_LIKE.fullmatch(text))


def _is_given_out(digits: bytes, regions: tuple[str, ...]) -> bool:
    return _numbering_plans(regions).fullmatch(digits) is not None


@functools.cache
def _numbering_plans(regions: tuple[str, ...]) -> re2._Regexp:
    """One pattern of every national number that `regions` give out, with or without its trunk prefix.

    Built from the numbering plans in phonenumbers' metadata; asking its parser country by country takes milliseconds.
    """
    plans: list[bytes] = []
    for region in regions:
        plan = PhoneMetadata.metadata_for_region(region)
        if plan is not None:
            lines = [getattr(plan, line) for line in _LINES]
            shapes = "|".join(line.national_number_pattern for line in lines if line and line.national_number_pattern)
            plans.append(f"(?:{plan.national_prefix or ''})?(?:{shapes})".encode())
    return pattern(rb"|".join(sorted(set(plans))) or rb"[^\x00-\xff]")


_LINES: Final = (
    "fixed_line",
    "mobile",
    "toll_free",
    "shared_cost",
    "premium_rate",
    "voip",
    "personal_number",
    "pager",
    "uan",
)


def _is_country(digits: bytes) -> bool:
    """The digits begin with a country calling code of ITU E.164 and leave at least six."""
    codes = phonenumbers.COUNTRY_CODE_TO_REGION_CODE
    return len(digits) >= 8 and any(int(digits[:size]) in codes for size in (1, 2, 3))
