"""Moderation: may a comment be shown, and if not, why."""

from __future__ import annotations

import random
from typing import Any

from pipelines.own_workload.agent import json_app
from pipelines.own_workload.people import person
from pipelines.own_workload.triage import customer_values, personal
from pipelines.own_workload.wording import choose, fill, of_split, roughen, table


def app() -> dict[str, Any]:
    """The agent: its prompt and the schema of its answer."""
    reasons = list(table("comments")["comments"])
    properties = {"allow": {"type": "boolean"}, "reason": {"type": "string", "enum": reasons}}
    return json_app("comments", "moderation", properties)


def row(split: str, rng: random.Random) -> dict[str, Any]:
    """One comment and the decision."""
    data = table("comments")
    reason = "ok" if rng.random() < 0.35 else rng.choice(list(data["comments"]))
    someone = person(rng)
    values = customer_values(someone, table("triage")["products"].split("|"), rng)
    values["first"] = someone.name.split()[0]
    values["site"] = rng.choice(data["sites"].split("|"))
    values["money"] = f"${rng.randrange(2, 99) * 50}"
    template = roughen(choose(rng.choice(of_split(data["comments"][reason], split)), rng), rng)
    return {
        "input": fill(template, values),
        "expected": {"allow": reason == "ok", "reason": reason},
        "personal": personal(template, values),
    }
