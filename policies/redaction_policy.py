"""What an operator may set about redaction: kinds, bounds, own patterns. Reads no file: it is given the mapping.

Knows the names of the kinds, not how one is found.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import re2

from registry.errors import ConfigError

KINDS: Final[Mapping[str, str]] = {
    "EMAIL": "e-mail address, also %40, (at) and \\u0040 forms",
    "PHONE": "phone or fax number: international, or national with a grouping or a word that says so",
    "CREDIT_CARD": "payment card, 12-19 digits, Luhn",
    "IBAN": "bank account, ISO 13616 length and mod 97",
    "BANK_ACCOUNT": "account, routing (ABA checksum) or sort code next to a word that says so",
    "US_SSN": "US social security or taxpayer number",
    "NATIONAL_ID": "national or tax number of 30 countries, by its checksum and shape",
    "PASSPORT": "passport number next to the word; machine-readable zone",
    "DRIVER_LICENSE": "driving licence number next to the word",
    "DATE_OF_BIRTH": "a date next to a word about birth; other dates stay",
    "POSTAL_CODE": "postal code next to the word, in a shape of its own (UK, CA, US) or alone below an address",
    "ADDRESS": "street line with a number, unit, post-office or military box (best effort)",
    "VIN": "vehicle identification number, ISO 3779 check digit",
    "IP_ADDRESS": "IPv4 and IPv6, save loopback and unspecified",
    "MAC_ADDRESS": "EUI-48",
    "URL": "web address or connection string, save the hosts the operator allows",
    "CRYPTO_ADDRESS": "Bitcoin and relatives (base58check, bech32), Ethereum",
    "PRIVATE_KEY": "PEM or OpenSSH private key block",
    "API_KEY": "key or token with a vendor's prefix; JSON web token",
    "SECRET": "password, token or credential assigned to a name, or in an Authorization header",
}
"""Every kind with what it covers. Names of people, organisations and places are not claimed."""

_REGION_LIST: Final = (
    "US GB DE FR ES IT NL BE CH AT SE NO DK FI IS IE PT PL CZ SK HU SI HR GR CY EE LV LT"
    " RO BG LU AU NZ ZA BR UY AR CL MX CO IN JP KR CN SG HK IL TR UA RU GL PH MY TH ID AE"
)
_REGIONS: Final = tuple(_REGION_LIST.split())
_SCHEMA_HOSTS: Final = ("json-schema.org", "www.w3.org", "schema.org", "schemas.openai.com")


class ExtraPattern(msgspec.Struct, frozen=True):
    """An operator's own kind: `pattern` is RE2 syntax over ASCII, searched case-sensitively."""

    kind: str
    pattern: str


class RedactionPolicy(msgspec.Struct, frozen=True):
    """Frozen settings of a `Redactor`."""

    kinds: frozenset[str] = frozenset(KINDS)
    """The kinds that are taken out."""
    extra: tuple[ExtraPattern, ...] = ()
    """The operator's own patterns; they win over ours where both match the same text."""
    allow_hosts: tuple[str, ...] = _SCHEMA_HOSTS
    """Hosts whose URLs stay (exact names, lower case)."""
    phone_regions: tuple[str, ...] = _REGIONS
    """Countries whose national phone formats are tried, ISO 3166 codes."""
    max_chars: int = 4_000_000
    """A longer text is refused, not cut."""
    max_depth: int = 64
    """A JSON value nested deeper is refused."""
    max_nodes: int = 200_000
    """A JSON value with more values than this is refused."""


def policy_from_mapping(mapping: Mapping[str, Any]) -> RedactionPolicy:
    """Check and convert what `redaction.yaml` holds.

    Raises:
        ConfigError: with every finding, one a line, each with its path and the nearest known name.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError("$: must be a mapping of settings")
    findings: list[str] = []
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        reader = _READERS.get(key) if isinstance(key, str) else None
        if reader is None:
            findings.append(_unknown(f"$.{key}", str(key), tuple(_READERS)))
        else:
            values[key] = reader(f"$.{key}", value, findings)
    if findings:
        raise ConfigError("\n".join(findings))
    return RedactionPolicy(**values)


def _unknown(path: str, name: str, known: tuple[str, ...]) -> str:
    folded = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), tuple(folded), n=1, cutoff=0.5)
    return f"{path}: unknown name; " + (f"did you mean {folded[close[0]]}?" if close else f"known: {', '.join(known)}")


def _read_kinds(path: str, value: Any, findings: list[str]) -> frozenset[str]:
    """`{EMAIL: true, URL: false}`: a kind that is not named stays on."""
    if not isinstance(value, Mapping):
        findings.append(f"{path}: must map a kind to true or false")
        return frozenset()
    off: set[str] = set()
    for kind, is_on in value.items():
        if kind not in KINDS:
            findings.append(_unknown(f"{path}.{kind}", str(kind), tuple(KINDS)))
        elif not isinstance(is_on, bool):
            findings.append(f"{path}.{kind}: must be true or false")
        elif not is_on:
            off.add(kind)
    return frozenset(KINDS) - off


def _read_extra(path: str, value: Any, findings: list[str]) -> tuple[ExtraPattern, ...]:
    if not isinstance(value, list):
        findings.append(f"{path}: must be a list of {{kind, pattern}}")
        return ()
    return tuple(_read_pattern(f"{path}[{at}]", item, findings) for at, item in enumerate(value))


def _read_pattern(path: str, item: Any, findings: list[str]) -> ExtraPattern:
    if not isinstance(item, Mapping) or not all(isinstance(item.get(key), str) for key in ("kind", "pattern")):
        findings.append(f"{path}: must hold the texts kind and pattern")
        return ExtraPattern("", "")
    findings.extend(_unknown(f"{path}.{key}", str(key), ("kind", "pattern")) for key in set(item) - {"kind", "pattern"})
    extra = ExtraPattern(item["kind"], item["pattern"])
    if not re2.fullmatch(r"[A-Z][A-Z0-9_]{1,39}", extra.kind):
        findings.append(f"{path}.kind: must be 2 to 40 capitals, digits and _, such as EMPLOYEE_ID")
    try:
        if re2.compile(extra.pattern).search("") is not None:
            findings.append(f"{path}.pattern: matches the empty text, so it would match everywhere")
    except re2.error as error:
        findings.append(f"{path}.pattern: not an RE2 pattern: {_reason(error)}")
    return extra


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else "invalid"
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _read_texts(path: str, value: Any, findings: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        findings.append(f"{path}: must be a list of texts")
        return ()
    return tuple(value)


def _read_hosts(path: str, value: Any, findings: list[str]) -> tuple[str, ...]:
    return tuple(host.lower() for host in _read_texts(path, value, findings))


def _read_regions(path: str, value: Any, findings: list[str]) -> tuple[str, ...]:
    regions = tuple(region.upper() for region in _read_texts(path, value, findings))
    findings.extend(
        f"{path}[{at}]: must be a two-letter country code" for at, region in enumerate(regions) if len(region) != 2
    )
    return regions


def _read_count(path: str, value: Any, findings: list[str]) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        findings.append(f"{path}: must be a whole number above zero")
        return 1
    return value


_READERS: Final = {
    "kinds": _read_kinds,
    "extra": _read_extra,
    "allow_hosts": _read_hosts,
    "phone_regions": _read_regions,
    "max_chars": _read_count,
    "max_depth": _read_count,
    "max_nodes": _read_count,
}
