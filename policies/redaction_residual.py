"""The second look before a record is written, with patterns of its own: if it sees anything, the record is withheld.

Independent of the detectors on purpose: patterns of its own, no view, no words.
"""

from __future__ import annotations

import re
from typing import Final

import re2

from policies.redaction_policy import KINDS

_EMAIL: Final = re.compile(r"[A-Za-z0-9_%+-]@(?!2x|3x)[A-Za-z0-9-]{1,63}\.[A-Za-z]{2}")
_DIGITS: Final = re.compile(
    r"(?<![0-9])(?<![0-9]\.)[0-9]{13,19}(?![0-9])|(?<![0-9])[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?![0-9])"
)
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}(?![A-Za-z0-9])")
_SSN: Final = re.compile(r"(?<![A-Za-z0-9-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![A-Za-z0-9-])")
_KEY: Final = re.compile(
    r"\b(?:AKIA[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20}|github_pat_[A-Za-z0-9_]{20}|sk-(?:ant|proj)-[A-Za-z0-9_-]{16}"
    r"|xox[abprs]-[0-9A-Za-z-]{10}"
    r"|AIza[0-9A-Za-z_-]{35}|[sr]k_live_[A-Za-z0-9]{10})"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
)
_MARKS: Final = ("AKIA", "gh", "sk-", "xox", "AIza", "k_live_", "eyJ", "PRIVATE KEY")
_RUN: Final = re2.compile(r"[0-9]{4}[ -]?[0-9]{4}|[A-Z][0-9]{2}[A-Z]")
"""Without it there is neither a card nor an IBAN. RE2, because every call's text passes this gate."""
_BRANDS: Final = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|3[47][0-9]{13}|(?:6011|65[0-9]{2})[0-9]{12}|36[0-9]{12}"
)


def residual_scan(text: str, kinds: frozenset[str] = frozenset(KINDS)) -> list[str]:
    """Kinds (of those in `kinds`) still plainly there: e-mail, card, IBAN, SSN, keys. Empty: it may be written."""
    has_run = _RUN.search(text) is not None
    checks = {
        "EMAIL": "@" in text and any(not text.startswith("git@", hit.start() - 2) for hit in _EMAIL.finditer(text)),
        "CREDIT_CARD": has_run and any(_is_card(hit.group()) for hit in _DIGITS.finditer(text)),
        "IBAN": has_run and any(_is_iban(hit.group()) for hit in _IBAN.finditer(text)),
        "US_SSN": "-" in text and _SSN.search(text) is not None,
        "API_KEY": any(mark in text for mark in _MARKS) and _KEY.search(text) is not None,
    }
    return [kind for kind, is_there in checks.items() if is_there and kind in kinds]


def _is_card(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    joined = "".join(map(str, digits))
    if not _BRANDS.fullmatch(joined) or len(set(digits)) == 1:
        return False
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    turned = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1
