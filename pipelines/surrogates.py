"""Natural stand-ins for what redaction took out, so that a model learns from text and not from `<EMAIL_1>`.

One placeholder gets one surrogate throughout a call, input and answer alike; another call gets another, and the same
call always the same. No surrogate can be anybody's: they come from what is reserved for documentation and fiction
(RFC 2606 hosts, RFC 5737 addresses, RFC 7042 MAC addresses, 555-01xx phone numbers) or fail their kind's own check
(cards, IBAN, VIN, social security numbers). Knows placeholders; nothing of where a text came from.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Collection
from typing import Final

from policies.redaction import KINDS

PLACEHOLDER: Final = re.compile(r"<([A-Z][A-Z0-9_]{1,39}?)_([0-9]{1,6})>")
"""As `policies.redaction` writes them: kind and number."""

_TRIES: Final = 50
_FIRST_LIST: Final = (
    "alex amara ana ben bela carla chen dana david elena emil farah finn grace hana hugo ida ines jan jonas kai kofi"
    " lara leo lina luca maya mila nadia nico nora olga omar paula pavel priya rosa ravi sam sofia tara tom uma vera"
    " victor wei yara yusuf zoe"
)
_LAST_LIST: Final = (
    "abbot adler baker becker brook carter castle dale diaz ellis evans fields fischer garcia grant hale hansen ito"
    " jansen keller kim lang lopez marsh meyer novak nunez ortiz owen park perez quinn reed rossi sato silva stone tan"
    " torres ueda vance vogel walsh weber wong young ziegler"
)
_HOSTS: Final = ("example.com", "example.org", "example.net")
_STREETS: Final = ("Example", "Sample", "Fable", "Fiction", "Nowhere", "Placeholder", "Imaginary", "Storybook")
_WAYS: Final = ("Street", "Road", "Lane", "Avenue", "Court", "Drive")
_NETS: Final = ("192.0.2", "198.51.100", "203.0.113")
_AREAS_LIST: Final = (
    "201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 224 225 228 229 231 234 239 240 248 251 252"
    " 253 254 256 260 262 267 269 270 276 281 301 302 303 304 305 307 308 309 310 312 313 314 315 316 317 318 319 320"
    " 321 323 325 330 334 336 337 339 347 351 352 360 361 386 401 402 404 405 406 407 408 409 410 412 413 414 415 417"
)
_VIN: Final = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"
_BASE32: Final = "023456789acdefghjklmnpqrstuvwxyz"
_FIRST: Final = _FIRST_LIST.split()
_LAST: Final = _LAST_LIST.split()
_AREAS: Final = _AREAS_LIST.split()


class Surrogates:
    """The stand-ins of one call. `taken_out`: kinds of the operator's own, known from the record."""

    def __init__(self, call_id: str, taken_out: Collection[str] = ()) -> None:
        self._call_id = call_id
        self._kinds = KINDS.keys() | set(taken_out)
        self._values: dict[str, str] = {}

    def fill(self, text: str) -> str:
        """Return the text with every placeholder replaced; what only looks like one stays."""
        if "<" not in text:
            return text
        return PLACEHOLDER.sub(lambda match: self._value(match[0], match[1]), text)

    def _value(self, placeholder: str, kind: str) -> str:
        if kind not in self._kinds:
            return placeholder
        if placeholder not in self._values:
            self._values[placeholder] = self._fresh(placeholder, kind)
        return self._values[placeholder]

    def _fresh(self, placeholder: str, kind: str) -> str:
        """A value that no other placeholder of this call has."""
        seed = hashlib.blake2b(f"{self._call_id}\0{placeholder}".encode(), digest_size=8).digest()
        rng = random.Random(int.from_bytes(seed))  # noqa: S311  - repeatable on purpose
        make = _MAKERS.get(kind, _other(kind))
        taken = set(self._values.values())
        candidates = (make(rng) for _ in range(_TRIES))
        return next((value for value in candidates if value not in taken), placeholder)


def placeholders_in(text: str, taken_out: Collection[str] = ()) -> set[tuple[str, int]]:
    """Return the placeholders of a text as (kind, number)."""
    if "<" not in text:
        return set()
    found = PLACEHOLDER.findall(text)
    return {(kind, int(number)) for kind, number in found if kind in KINDS or kind in taken_out}


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789", k=count))


def _email(rng: random.Random) -> str:
    number = str(rng.randrange(2, 100)) if rng.random() < 0.5 else ""
    joint = rng.choice((".", "_", ""))
    return f"{rng.choice(_FIRST)}{joint}{rng.choice(_LAST)}{number}@{rng.choice(_HOSTS)}"


def _phone(rng: random.Random) -> str:
    area, line = rng.choice(_AREAS), f"01{rng.randrange(100):02d}"
    return rng.choice((f"({area}) 555-{line}", f"{area}-555-{line}", f"+1 {area} 555 {line}", f"+1{area}555{line}"))


def _card(rng: random.Random) -> str:
    """Sixteen digits of a range that no network has (9), with a last digit that fails Luhn."""
    body = "9" + _digits(rng, 14)
    doubled = [int(digit) * 2 - 9 * (int(digit) > 4) for digit in body[::2]]
    right = -(sum(doubled) + sum(map(int, body[1::2]))) % 10
    number = body + str((right + rng.randrange(1, 10)) % 10)
    return rng.choice((" ", "-", "")).join(number[at : at + 4] for at in range(0, 16, 4))


def _iban(rng: random.Random) -> str:
    """No country is XX, no check digits are 00, and no checksum is met by chance."""
    body = "EXMP" + _digits(rng, 12)
    while int("".join(str(int(char, 36)) for char in body + "XX00")) % 97 == 1:
        body = "EXMP" + _digits(rng, 12)
    return rng.choice((" ", "")).join(["XX00", *(body[at : at + 4] for at in range(0, 16, 4))])


def _ssn(rng: random.Random) -> str:
    """Social security numbers never begin with 9, and taxpayer numbers have no group below 50."""
    return f"9{_digits(rng, 2)}-{rng.randrange(1, 50):02d}-{rng.randrange(1, 10_000):04d}"


def _birth_date(rng: random.Random) -> str:
    return f"{rng.randrange(1950, 2005)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def _address(rng: random.Random) -> str:
    return f"{rng.randrange(1, 1000)} {rng.choice(_STREETS)} {rng.choice(_WAYS)}"


def _vin(rng: random.Random) -> str:
    """A check digit is 0-9 or X, never Z."""
    return "".join(rng.choices(_VIN, k=8)) + "Z" + "".join(rng.choices(_VIN, k=8))


def _url(rng: random.Random) -> str:
    path = rng.choice(("account", "docs", "help", "news", "orders", "pages", "reports", "status"))
    return f"https://www.{rng.choice(_HOSTS)}/{path}/{_digits(rng, 4)}"


def _word(prefix: str, count: int) -> Callable[[random.Random], str]:
    return lambda rng: prefix + "".join(rng.choices(_BASE32, k=count))


def _number(prefix: str, count: int) -> Callable[[random.Random], str]:
    return lambda rng: prefix + _digits(rng, count)


def _other(kind: str) -> Callable[[random.Random], str]:
    """An operator's own kind, by its initials: EMPLOYEE_ID becomes EI-04271."""
    return _number("".join(part[0] for part in kind.split("_") if part) + "-0", 5)


_MAKERS: Final[dict[str, Callable[[random.Random], str]]] = {
    "EMAIL": _email,
    "PHONE": _phone,
    "CREDIT_CARD": _card,
    "IBAN": _iban,
    "BANK_ACCOUNT": _number("000", 6),
    "US_SSN": _ssn,
    "NATIONAL_ID": _number("XX-000", 6),
    "PASSPORT": _number("X00", 6),
    "DRIVER_LICENSE": _number("X000-00", 6),
    "DATE_OF_BIRTH": _birth_date,
    "POSTAL_CODE": lambda rng: f"00{rng.randrange(1, 500):03d}",
    "ADDRESS": _address,
    "VIN": _vin,
    "IP_ADDRESS": lambda rng: f"{rng.choice(_NETS)}.{rng.randrange(1, 255)}",
    "MAC_ADDRESS": lambda rng: f"00:00:5e:00:53:{rng.randrange(256):02x}",
    "URL": _url,
    "CRYPTO_ADDRESS": _word("bc1qexamp1e", 30),
    "PRIVATE_KEY": _word("example-private-key-", 24),
    "API_KEY": _word("example-key-", 20),
    "SECRET": _word("example-secret-", 12),
}
