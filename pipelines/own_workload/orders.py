"""Field extraction: a trade customer's order mail into a form; full of personal data."""

from __future__ import annotations

import random
from typing import Any

from pipelines.own_workload.agent import json_app
from pipelines.own_workload.people import person
from pipelines.own_workload.wording import choose, fill, of_split, roughen, slots, table

_WORDS = {2: ("2", "two", "a pair of"), 3: ("3", "three"), 6: ("6", "six"), 12: ("12", "twelve", "a dozen")}
_FIELDS = ("customer", "email", "phone", "product", "quantity", "iban")


def app() -> dict[str, Any]:
    """The agent: its prompt and the schema of the form."""
    text_or_null = {"type": ["string", "null"]}
    properties: dict[str, Any] = {
        "customer": {"type": "string"},
        "email": text_or_null,
        "phone": text_or_null,
        "product": {"type": "string"},
        "quantity": {"type": "integer"},
        "iban": text_or_null,
    }
    return json_app("orders", "order", properties)


def row(split: str, rng: random.Random) -> dict[str, Any]:
    """One mail and its form."""
    data = table("orders")
    someone = person(rng)
    number = rng.choice((*_WORDS, rng.randrange(4, 200)))
    values = {
        "customer": someone.name,
        "email": someone.email,
        "phone": someone.phone,
        "iban": someone.iban,
        "card": someone.card,
        "city": someone.city,
        "product": rng.choice(data["products"].split("|")),
        "quantity": rng.choice(_WORDS.get(number, (str(number),))),
    }
    template = _mail(data, split, rng)
    used = set(slots(template))
    form: dict[str, Any] = {field: values[field] if field in used else None for field in _FIELDS}
    form["quantity"] = number
    kinds = {"customer": "name", "email": "email", "phone": "phone", "iban": "iban", "card": "card"}
    return {
        "input": fill(template, values),
        "expected": form,
        "personal": [[kind, values[slot]] for slot, kind in kinds.items() if slot in used],
    }


def _mail(data: dict[str, Any], split: str, rng: random.Random) -> str:
    blocks = ["orders", "people"]
    chances = {"emails": 0.6, "phones": 0.5, "ibans": 0.4, "cards": 0.2}
    blocks += [block for block, chance in chances.items() if rng.random() < chance]
    if rng.random() < 0.5:
        rng.shuffle(blocks)
    parts = [roughen(choose(rng.choice(of_split(data[block], split)), rng), rng) for block in blocks]
    greeting = rng.choice(("", "Hello, ", "Hi Fernhill, ", "Dear all, ", "Good day. "))
    return greeting + rng.choice((" ", " ", "\n")).join(parts)
