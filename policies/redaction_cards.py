"""Detectors of numbers that carry a checksum of their own: payment cards, IBAN, vehicles, crypto addresses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from policies.redaction_detector import (
    CHECKED,
    NAMED,
    Detector,
    Hit,
    ends_number,
    free_of_words,
    said_before,
    starts_number,
    words,
)
from policies.redaction_view import View, pattern


def detectors() -> list[Detector]:
    """The detectors of this module."""
    return [
        Detector(frozenset({"CREDIT_CARD"}), rb"[0-9](?:[ .-]?[0-9]){11}", cards),
        Detector(frozenset({"IBAN"}), rb"[A-Za-z]{2}[0-9]{2}[ -]?[0-9A-Za-z]{4}[ -]?[0-9A-Za-z]{3}", ibans),
        Detector(frozenset({"VIN"}), rb"[A-HJ-NPR-Z0-9]{17}|(?i)\bvin\b", vins),
        Detector(
            frozenset({"CRYPTO_ADDRESS"}),
            rb"[13LMD29mn][1-9A-HJ-NP-Za-km-z]{25}|(?i)\b(?:bc|tb|ltc)1[02-9ac-hj-np-z]{11}",
            coins,
        ),
        Detector(frozenset({"CRYPTO_ADDRESS"}), rb"0x[0-9a-fA-F]{40}", ether),
    ]


_LUHN_DOUBLE: Final = bytes(sum(divmod(2 * digit, 10)) for digit in range(10))


def luhn(digits: bytes) -> bool:
    """ISO/IEC 7812-1 check digit over ASCII digits."""
    values = [digit - 48 for digit in reversed(digits)]
    return (sum(values[::2]) + sum(_LUHN_DOUBLE[value] for value in values[1::2])) % 10 == 0


_CARD: Final = pattern(
    rb"[0-9]{12,19}"
    rb"|[0-9]{4}(?:[ .-]{1,3}[0-9]{4}){3}(?:[ .-]{1,3}[0-9]{1,3})?"
    rb"|[0-9]{4}[ .-]{1,3}[0-9]{6}[ .-]{1,3}[0-9]{4,5}"
    rb"|[0-9]{4}(?:[ .-][0-9]{4}){2}"
    rb"|[0-9](?:[ .-][0-9]){12,18}"
    rb"|[0-9]{2,12}(?:[ .-]{1,3}[0-9]{2,12}){1,5}"
)
_USUAL: Final = words(
    rb"[0-9]{12,19}|[0-9]{4}(?:[ .-]{0,3}[0-9]{4}){2,3}(?:[ .-]{1,3}[0-9]{1,3})?"
    rb"|[0-9]{4}[ .-]{1,3}[0-9]{6}[ .-]{1,3}[0-9]{4,5}"
    rb"|[0-9](?:[ .-][0-9]){12,18}"
)
_CARD_WORDS: Final = words(
    rb"card|visa|master|amex|american express|maestro|diners|discover|debit|\bpan\b|\bcc\b|\bjcb\b"
)


_GROUP: Final = words(rb"[0-9]+")
_SPELLED: Final = words(rb"[0-9][ .-][0-9][ .-][0-9][ .-]")


def cards(view: View) -> Iterator[Hit]:
    """12 to 19 digits, plain or grouped, that pass Luhn and begin as a brand's do, or follow a word about cards."""
    data = view.data
    match = _CARD.search(data)
    while match is not None:
        start, stop = match.span()
        if sum(48 <= byte <= 57 for byte in match.group()) < 12:
            match = _CARD.search(data, stop)
            continue
        end, rank = _card_end(view, start, stop)
        if end:
            yield Hit(start, end, "CREDIT_CARD", rank)
        elif not _SPELLED.match(data, start):
            stop = _past_group(data, start)
        match = _CARD.search(data, end or stop)


def _past_group(data: bytes, start: int) -> int:
    while start < len(data) and 48 <= data[start] <= 57:
        start += 1
    return start


def _card_end(view: View, start: int, end: int) -> tuple[int, int]:
    """Where the card that starts at `start` ends, at a group's end up to `end`, and its rank; 0 when there is none."""
    data = view.data
    if not starts_number(data, start) or data[start - 1 : start] == b"+":
        return 0, 0
    ends = [end] if _SPELLED.match(data, start) else [group.end() for group in _GROUP.finditer(data, start, end)][::-1]
    is_named = said_before(view, start, _CARD_WORDS)
    if not is_named and not _USUAL.match(data, start):
        return 0, 0
    for at in ends:
        digits = bytes(byte for byte in data[start:at] if 48 <= byte <= 57)
        if len(digits) < 12 or len(set(digits)) == 1 or not ends_number(data, at):
            continue
        if luhn(digits) and (is_named or (_is_brand(digits) and _USUAL.fullmatch(data, start, at))):
            return at, CHECKED
        if is_named and len(digits) in (15, 16) and _is_brand(digits):
            return at, NAMED
    return 0, 0


def _is_brand(digits: bytes) -> bool:
    """Issuer prefixes and lengths: Visa, Mastercard, Amex, Diners, Discover, JCB, UnionPay, Maestro, Mir, RuPay."""
    size, two, four = len(digits), int(digits[:2]), int(digits[:4])
    if digits[:1] == b"4":
        return size in (13, 16, 18, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720 or 2200 <= four <= 2204:
        return size == 16
    if two in (34, 37):
        return size == 15
    if two in (36, 38, 39) or 3000 <= four <= 3059 or four == 3095:
        return size in (14, 16, 19)
    if 3528 <= four <= 3589 or four in (1800, 2131):
        return 15 <= size <= 19
    if four == 6011 or two in (60, 62, 64, 65, 81, 82):
        return 16 <= size <= 19
    return (two in (50, 67, 63) or 56 <= two <= 59) and 14 <= size <= 19


# ISO 13616 registry, release 99: length -> countries.
_IBAN_COUNTRIES: Final = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_LENGTHS: Final = {code: length for length, codes in _IBAN_COUNTRIES.items() for code in codes.split()}
_IBAN: Final = pattern(rb"[A-Za-z]{2}[0-9]{2}")
_IBAN_WORD: Final = words(rb"iban")


def ibans(view: View) -> Iterator[Hit]:
    """Country, length and mod 97; with the word IBAN before it also one that was mistyped."""
    for match in _IBAN.finditer(view.data):
        start = match.start()
        length = _IBAN_LENGTHS.get(match.group()[:2].decode().upper())
        if length is None or (start > 0 and view.data[start - 1 : start].isalnum()):
            continue
        end, body = _take(view.data, start, length)
        if len(body) < length or not free_of_words(view.data, start, end):
            continue
        if _mod97(body) == 1 or said_before(view, start, _IBAN_WORD, 24):
            yield Hit(start, end, "IBAN", CHECKED)


def _take(data: bytes, start: int, count: int) -> tuple[int, bytes]:
    """`count` letters and digits from `start`, single spaces or dashes between them; returns their end."""
    body = bytearray()
    at = start
    while at < len(data) and len(body) < count:
        if data[at : at + 1].isalnum():
            body.append(data[at])
        elif data[at] not in b" -" or data[at - 1] in b" -":
            break
        at += 1
    return at, bytes(body)


def _mod97(iban: bytes) -> int:
    turned = (iban[4:] + iban[:4]).decode("ascii").upper()
    return int("".join(str(int(char, 36)) for char in turned)) % 97


_VIN: Final = pattern(rb"(?i)[A-HJ-NPR-Z0-9]{17}")
_VIN_WORD: Final = words(rb"\bvin\b|vehicle id|chassis")
_VIN_VALUES: Final = dict(
    zip(
        "0123456789ABCDEFGHJKLMNPRSTUVWXYZ", [*range(10), *range(1, 9), 1, 2, 3, 4, 5, 7, 9, *range(2, 10)], strict=True
    )
)
_VIN_WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def vins(view: View) -> Iterator[Hit]:
    """17 characters with the check digit of ISO 3779 (North America), or after the word."""
    for match in _VIN.finditer(view.data):
        start, end = match.span()
        text = match.group().decode().upper()
        if text.isdigit() or text.isalpha() or not free_of_words(view.data, start, end):
            continue
        total = sum(_VIN_VALUES[char] * weight for char, weight in zip(text, _VIN_WEIGHTS, strict=True))
        if "0123456789X"[total % 11] == text[8]:
            yield Hit(start, end, "VIN", CHECKED)
        elif said_before(view, start, _VIN_WORD):
            yield Hit(start, end, "VIN", NAMED)


_BASE58: Final = {byte: at for at, byte in enumerate(b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_COIN: Final = pattern(rb"[13LMD29mn][1-9A-HJ-NP-Za-km-z]{25,34}|(?i:(?:bc|tb|ltc)1[02-9ac-hj-np-z]{11,71})")


def coins(view: View) -> Iterator[Hit]:
    """Bitcoin, Litecoin, Dogecoin: base58check (BIP-13) or bech32/bech32m (BIP-173, BIP-350)."""
    for match in _COIN.finditer(view.data):
        start, end = match.span()
        text = match.group()
        if free_of_words(view.data, start, end) and (_is_bech32(text.lower()) or _is_base58check(text)):
            yield Hit(start, end, "CRYPTO_ADDRESS", CHECKED)


def _is_base58check(text: bytes) -> bool:
    number = 0
    for byte in text:
        if byte not in _BASE58:
            return False
        number = number * 58 + _BASE58[byte]
    if number.bit_length() > 200:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


_BECH32: Final = {byte: at for at, byte in enumerate(b"qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def _is_bech32(text: bytes) -> bool:
    prefix, _, body = text.rpartition(b"1")
    if not prefix or any(byte not in _BECH32 for byte in body):
        return False
    values = [byte >> 5 for byte in prefix] + [0] + [byte & 31 for byte in prefix] + [_BECH32[byte] for byte in body]
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for at, generator in enumerate(_GENERATOR):
            check ^= generator if top >> at & 1 else 0
    return check in (1, 0x2BC830A3)


_ETHER: Final = pattern(rb"0x[0-9a-fA-F]{40}")


def ether(view: View) -> Iterator[Hit]:
    """0x and 40 hexadecimal digits (EIP-55; its checksum is optional, so it is not asked for)."""
    for match in _ETHER.finditer(view.data):
        start, end = match.span()
        if free_of_words(view.data, start, end):
            yield Hit(start, end, "CRYPTO_ADDRESS", CHECKED)
