"""Detectors of values that only a word beside them gives away: account, passport, licence, birth, postal code, PIN.

A table: kind, the words, the value's shape, and a check that keeps prose out. No checksum is asked for, because the
word is evidence enough and a mistyped number is personal all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from policies.redaction_detector import NAMED, Detector, Hit, free_of_words
from policies.redaction_view import View, pattern

FILL: Final = (
    rb"(?:[ \t:=#\"'*_.,>|()\n-]"
    rb"|(?i:numbers?|num|numero|nummer|no|nr|ids?|codes?|is|was|are|of|my|your|his|her|the|for|on|value|ending"
    rb"|with|reads|as|at|in)\b){0,12}?"
)
"""What may stand between the word and the value."""

_MONTH: Final = rb"(?:jan|feb|m\xe9?a?r|apr|ma[yi]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]{0,7}\.?"
_DATE: Final = (
    rb"(?i:[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{2,4}(?:t[0-9:.]+z?)?"
    rb"|[0-9]{1,2}(?:st|nd|rd|th)?[ .-](?:of )?" + _MONTH + rb"[ ,.-]{1,3}[0-9]{2,4}"
    rb"|" + _MONTH + rb"[ -]?[0-9]{1,2}(?:st|nd|rd|th)?,?[ -][0-9]{4}"
    rb"|(?:19|20)[0-9]{6})"
)
_NATIONAL_WORDS: Final = (
    rb"(?i)\b(?:national (?:id|identity|identification|insurance)|nat(?:ional)? ins|identity (?:card|number|no)"
    rb"|personal (?:id|code)"
    rb"|tax(?:payer)? (?:id|file|number|no|identification|reference)|fiscal code|id card|citizen|personnummer"
    rb"|personnr|fodselsnummer"
    rb"|nino|ni number|nhs|bsn|pesel|cpf|cnpj|aadhaar|aadhar|tckn|egn|curp|cuit|cuil|hetu|amka|insee|steuer-?id"
    rb"|steuernummer"
    rb"|codice fiscale|medicare|medicaid|mrn|medical record|social insurance|kennitala|isikukood|rodne cislo"
    rb"|(?-i:UTR|EIN|ITIN|TIN|SIN|NIP|TFN|CNP|OIB|NIF|NIE|DNI|INN|RUT|CPR|AFM|NIR))\b"
)


def _digits(low: int, high: int = 30) -> Callable[[bytes], bool]:
    """A check: between `low` and `high` digits."""

    def has_digits(value: bytes) -> bool:
        return low <= sum(48 <= byte <= 57 for byte in value) <= high

    return has_digits


class _Named(NamedTuple):
    kind: str
    words: bytes
    value: bytes
    check: Callable[[bytes], bool]


_CODE: Final = rb"[A-Za-z]{0,4}[0-9][A-Za-z0-9]*(?:[-/. ][A-Za-z]{0,2}[0-9][A-Za-z0-9]*){0,5}"
_TABLE: Final = (
    _Named(
        "US_SSN",
        rb"(?i)\b(?:ssn|ss#|ss number|social security|social sec|soc(?:ial)? number)\b",
        rb"[0-9]{3}[ .-]?[0-9]{2}[ .-]?[0-9]{4}",
        _digits(9, 9),
    ),
    _Named("BANK_ACCOUNT", rb"(?i)\b(?:accounts?|acct|a/c|iban)\b\.?", rb"[0-9](?:[ -]?[0-9]){4,19}", _digits(5, 20)),
    _Named(
        "BANK_ACCOUNT",
        rb"(?i)\b(?:routing|aba|rtn|transit|sort[ -]?code|bsb|bank code|blz)\b",
        rb"[0-9]{2,5}[ -]?[0-9]{2,5}(?:[ -]?[0-9]{2,3})?",
        _digits(6, 9),
    ),
    _Named("PASSPORT", rb"(?i)\bpassport\b", rb"[A-Za-z]{0,3}[0-9]{2,3}[ -]?[0-9]{3,7}[A-Za-z]?", _digits(5, 10)),
    _Named(
        "DRIVER_LICENSE",
        rb"(?i)\b(?:driv(?:er'?s?'?|ing) (?:licen[cs]e|permit)|licen[cs]e|dln|driver_?licen[cs]e|(?-i:DL))\b",
        _CODE,
        _digits(4, 20),
    ),
    _Named(
        "DATE_OF_BIRTH",
        rb"(?i)\b(?:date[ _]of[ _]birth|birth ?da(?:te|y)|birth_date|d\.?o\.?b|born)\b",
        _DATE,
        _digits(4),
    ),
    _Named(
        "POSTAL_CODE",
        rb"(?i)\b(?:zip|zip[ _-]?code|postal[ _-]?code|post ?code|postcode|plz|cep)\b",
        rb"[A-Za-z]{1,2}[0-9][A-Za-z0-9]? ?[0-9][A-Za-z]{2}|[A-Za-z][0-9][A-Za-z] ?[0-9][A-Za-z][0-9]"
        rb"|[0-9]{4} ?[A-Z]{2}"
        rb"|(?:[A-Za-z]{1,2}-?)?[0-9]{2,8}(?:-[0-9]{2,4})?|[0-9]{3} [0-9]{2}",
        _digits(2, 9),
    ),
    _Named("NATIONAL_ID", _NATIONAL_WORDS, _CODE, _digits(5, 20)),
    _Named("SECRET", rb"(?i)\b(?:cvv2?|cvc2?|cid|security code|card verification)\b", rb"[0-9]{3,4}", _digits(3, 4)),
    _Named(
        "SECRET",
        rb"(?i)\b(?:pin|pin ?code|otp|one[- ]time (?:code|pass(?:code|word))|(?:verification|access"
        rb"|auth(?:entication)?|login|2fa|mfa) code)\b",
        rb"[0-9]{4,10}|[0-9]{3}[ -][0-9]{3}",
        _digits(4, 10),
    ),
)


def detectors() -> list[Detector]:
    """The detectors of this module."""
    return [Detector(frozenset({row.kind}), row.words, partial(_named, row, _whole(row))) for row in _TABLE]


def _whole(row: _Named) -> object:
    return pattern(rb"(?:" + row.words + rb")" + FILL + rb"(" + row.value + rb")")


def _named(row: _Named, whole: object, view: View) -> Iterator[Hit]:
    """The value behind the words, where it stands free and the check agrees."""
    for match in whole.finditer(view.data):  # type: ignore[attr-defined]
        start, end = match.span(1)
        if row.check(match.group(1)) and free_of_words(view.data, start, end):
            yield Hit(start, end, row.kind, NAMED)
