"""Tool calls of an office assistant: one of six tools, arguments copied from the words."""

from __future__ import annotations

import random
from typing import Any

from pipelines.own_workload.people import person
from pipelines.own_workload.wording import choose, fill, of_split, roughen, slots, table

_OPENINGS = ("", "", "", "", "Hi, ", "Hey, ", "OK, ", "Good morning. ", "Quick one: ", "Also, ")


def app() -> dict[str, Any]:
    """The agent: its prompt and its tools."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": tool["description"],
                "parameters": {
                    "type": "object",
                    "properties": {argument: {"type": "string"} for argument in tool["arguments"]},
                    "additionalProperties": False,
                },
            },
        }
        for name, tool in table("actions")["tools"].items()
    ]
    return {"system": table("actions")["system"], "grader": "tool_call", "tools": tools, "response_format": None}


def row(split: str, rng: random.Random) -> dict[str, Any]:
    """One message and the call it asks for."""
    data = table("actions")
    tool = rng.choice(list(data["tools"]))
    someone = person(rng)
    values = {slot: rng.choice(block.split("|")) for slot, block in data["values"].items()}
    values["person"] = someone.name if rng.random() < 0.6 else someone.name.split()[0]
    values["email"] = someone.email
    values["order_id"] = rng.choice(("FH-", "ORD", "#")) + str(rng.randrange(10000, 99999))
    values["amount"] = rng.choice(("€{}", "${}", "{} euros", "{} dollars", "{}.50")).format(rng.randrange(5, 300))
    template = choose(rng.choice(of_split(data["templates"][tool], split)), rng)
    template = roughen(rng.choice(_OPENINGS) + template, rng)
    used = set(slots(template))
    arguments = {slot: values[slot] for slot in data["tools"][tool]["arguments"] if slot in used}
    kinds = {"person": "name", "email": "email"}
    return {
        "input": fill(template, values),
        "expected": {"name": tool, "arguments": arguments},
        "personal": [[kinds[slot], values[slot]] for slot in arguments if slot in kinds],
    }
