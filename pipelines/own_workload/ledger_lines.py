"""Classification of bank lines: the account each belongs to."""

from __future__ import annotations

import random
from typing import Any

from pipelines.own_workload.agent import json_app
from pipelines.own_workload.people import person
from pipelines.own_workload.wording import choose, fill, of_split, slots, table


def app() -> dict[str, Any]:
    """The agent: its prompt and the schema of its answer."""
    accounts = list(table("ledger_lines")["lines"])
    return json_app("ledger_lines", "booking", {"account": {"type": "string", "enum": accounts}})


def row(split: str, rng: random.Random) -> dict[str, Any]:
    """One line of the statement and its booking."""
    data = table("ledger_lines")
    account = rng.choice(list(data["lines"]))
    someone = person(rng)
    cents = rng.randrange(300, 60000) if rng.random() < 0.8 else rng.randrange(100000, 900000)
    values = {
        "holder": someone.name.upper(),
        "city": someone.city.upper(),
        "company": rng.choice(data["companies"].split("|")),
        "ref": rng.choice(("REF", "NR", "INV", "")) + str(rng.randrange(1000, 999999)),
        "amount": f"{rng.choice(('EUR', 'USD', 'GBP'))} {cents / 100:.2f}",
    }
    template = choose(rng.choice(of_split(data["lines"][account], split)), rng)
    if rng.random() < 0.2:
        template = template.lower()
    return {
        "input": fill(template, values),
        "expected": {"account": account},
        "personal": [["name", values["holder"]]] if "holder" in slots(template) else [],
    }
