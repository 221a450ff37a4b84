"""The agents of the project's own workload whose answer is a JSON object."""

from __future__ import annotations

from typing import Any

from pipelines.own_workload.wording import table


def json_app(place: str, form: str, properties: dict[str, Any]) -> dict[str, Any]:
    """Return an agent: its system prompt from the table `place`, and the schema `form`; every property is due."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "system": table(place)["system"],
        "grader": "json_equal",
        "tools": None,
        "response_format": {"type": "json_schema", "json_schema": {"name": form, "strict": True, "schema": schema}},
    }
