"""Support triage: a customer's message, one of twelve categories."""

from __future__ import annotations

import random
from typing import Any

from pipelines.own_workload.agent import json_app
from pipelines.own_workload.people import Person, person
from pipelines.own_workload.wording import choose, fill, lines, of_split, roughen, slots, table


def app() -> dict[str, Any]:
    """The agent: its prompt and the schema of its answer."""
    labels = list(table("triage")["categories"])
    return json_app("triage", "triage", {"category": {"type": "string", "enum": labels}})


def row(split: str, rng: random.Random) -> dict[str, Any]:
    """One message and its category."""
    data = table("triage")
    label = rng.choice(list(data["categories"]))
    someone = person(rng)
    values = customer_values(someone, data["products"].split("|"), rng)
    parts = [choose(rng.choice(of_split(data["categories"][label], split)), rng)]
    if rng.random() < 0.35:
        parts.insert(0, choose(rng.choice(lines(data["openings"])), rng))
    if rng.random() < 0.4:
        parts.append(choose(rng.choice(lines(data["closings"])), rng))
    template = roughen(" ".join(parts), rng)
    return {
        "input": fill(template, values),
        "expected": {"category": label},
        "personal": personal(template, values),
    }


def customer_values(someone: Person, products: list[str], rng: random.Random) -> dict[str, str]:
    """The values for the slots that messages of customers use."""
    first, second = rng.sample(products, 2)
    return {
        "name": someone.name,
        "email": someone.email,
        "phone": someone.phone,
        "iban": someone.iban,
        "card": someone.card,
        "street": someone.street,
        "city": someone.city,
        "product": first,
        "product2": second,
        "order": f"FH-{rng.randrange(10000, 99999)}",
        "amount": f"{rng.choice(('€', '$', '£'))}{rng.randrange(9, 400)}.{rng.randrange(100):02d}",
    }


def personal(template: str, values: dict[str, str]) -> list[list[str]]:
    """The personal data that the filled template shows, as [type, value]."""
    kinds = ("name", "email", "phone", "iban", "card", "street")
    return [[kind, values[kind]] for kind in dict.fromkeys(slots(template)) if kind in kinds]
