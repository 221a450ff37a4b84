"""Invented people and their personal data: names, addresses, phones, IBANs and cards with correct check digits.

Phone numbers lie in ranges that regulators set aside for fiction; mail domains are reserved ones (RFC 2606); cards and
IBANs belong to nobody. It knows nothing of workloads.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

from pipelines.own_workload.wording import table

_DOMAINS: Final = ("example.com", "example.org", "example.net", "mail.example", "post.example", "inbox.test")


class Person(msgspec.Struct, frozen=True):
    """Somebody who does not exist."""

    name: str
    email: str
    phone: str
    iban: str
    card: str
    street: str
    city: str


def person(rng: random.Random) -> Person:
    """A new person; the same `rng` state gives the same one."""
    data = table("people")
    first, last = rng.choice(data["first"].split()), rng.choice(data["last"].split())
    return Person(
        name=f"{first} {last}",
        email=_email(first, last, rng),
        phone=_phone(rng),
        iban=_iban(rng),
        card=_card(rng),
        street=f"{rng.randrange(1, 190)} {rng.choice(data['streets'].split('|'))}",
        city=rng.choice(data["cities"].split("|")),
    )


def _email(first: str, last: str, rng: random.Random) -> str:
    local = rng.choice((f"{first}.{last}", f"{first[0]}{last}", f"{first}{rng.randrange(1, 99)}", f"{last}_{first}"))
    return f"{local.lower()}@{rng.choice(_DOMAINS)}"


def _phone(rng: random.Random) -> str:
    last = rng.randrange(1000)
    return rng.choice(
        (
            f"+44 20 7946 0{last:03d}",
            f"020 7946 0{last:03d}",
            f"+49 30 23125 {last:03d}",
            f"+33 1 99 00 {last // 10:02d} {rng.randrange(100):02d}",
            f"(212) 555-01{last % 100:02d}",
            f"+1 415 555 01{last % 100:02d}",
        )
    )


def _iban(rng: random.Random) -> str:
    country, bank, length = rng.choice((("DE", "", 18), ("NL", "JMNB", 10), ("GB", "JMNB", 14), ("AT", "", 16)))
    account = bank + "".join(rng.choice("0123456789") for _ in range(length))
    as_digits = "".join(str(int(char, 36)) for char in f"{account}{country}00")
    plain = f"{country}{98 - int(as_digits) % 97:02d}{account}"
    return plain if rng.random() < 0.5 else " ".join(plain[at : at + 4] for at in range(0, len(plain), 4))


def _card(rng: random.Random) -> str:
    digits = [int(char) for char in rng.choice(("400000", "555555"))] + [rng.randrange(10) for _ in range(9)]
    doubled = [digit * 2 - 9 * (digit > 4) if at % 2 == 0 else digit for at, digit in enumerate(digits)]
    plain = "".join(map(str, [*digits, -sum(doubled) % 10]))
    separator = rng.choice((" ", " ", "-", ""))
    return separator.join(plain[at : at + 4] for at in range(0, 16, 4))
