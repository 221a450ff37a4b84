"""The smallest value that satisfies a JSON Schema: for fakes that must answer with something valid.

Covers what tool parameters and response formats use (types, required, enum, const, bounds, local $ref, anyOf, allOf);
a schema that only an odd value satisfies (a pattern, `not`) is beyond it.
"""

from __future__ import annotations

import math
from typing import Any

_MOST_DEPTH = 32

_FORMATS = {
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "a@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
}


def least_instance(schema: Any, text: str = "") -> Any:
    """Return a small instance of the schema; `text` fills the strings that have room for it."""
    return _Maker(schema, text).make(schema, 0)


def least_arguments(parameters: Any, text: str = "") -> Any:
    """Return small arguments for a tool's parameters: an object, also where they say nothing."""
    return least_instance({"type": "object", **(parameters or {})}, text)


class _Maker:
    def __init__(self, root: Any, text: str) -> None:
        self._root = root
        self._text = text

    def make(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > _MOST_DEPTH:
            return None
        schema = self._resolve(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if kind is None:
            kind = "object" if "properties" in schema else "string"
        return self._of_type(str(kind), schema, depth)

    def _of_type(self, kind: str, schema: dict[str, Any], depth: int) -> Any:
        if kind == "object":
            properties = schema.get("properties") or {}
            return {name: self.make(properties.get(name, {}), depth + 1) for name in schema.get("required") or ()}
        if kind == "array":
            return [self.make(schema.get("items", {}), depth + 1) for _ in range(int(schema.get("minItems") or 0))]
        if kind in ("integer", "number"):
            return _number(kind, schema)
        return {"boolean": False, "null": None}[kind] if kind in ("boolean", "null") else self._string(schema)

    def _string(self, schema: dict[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        least = int(schema.get("minLength") or 0)
        return self._text.ljust(least, "x")[: schema.get("maxLength")]

    def _resolve(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """Follow $ref, take the first alternative, and lay the parts of allOf over one another."""
        for _ in range(_MOST_DEPTH):
            reference = schema.get("$ref")
            choice = schema.get("anyOf") or schema.get("oneOf")
            if isinstance(reference, str):
                schema = self._look_up(reference)
            elif choice:
                schema = {key: item for key, item in schema.items() if key not in ("anyOf", "oneOf")} | choice[0]
            elif schema.get("allOf"):
                schema = self._merge(schema, depth)
            else:
                return schema
        return {}

    def _merge(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        merged = {key: item for key, item in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            whole = self._resolve(part, depth + 1) if isinstance(part, dict) and depth < _MOST_DEPTH else {}
            properties = {**(merged.get("properties") or {}), **(whole.get("properties") or {})}
            required = [*(merged.get("required") or ()), *(whole.get("required") or ())]
            merged = {**merged, **whole, **({"properties": properties, "required": required} if properties else {})}
        return merged

    def _look_up(self, reference: str) -> dict[str, Any]:
        found: Any = self._root
        for name in reference.removeprefix("#").split("/")[1:]:
            key = name.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}


def _number(kind: str, schema: dict[str, Any]) -> float | int:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + 1
    value: float = low if low is not None else 0
    if high is not None and value > high:
        value = high
    step = schema.get("multipleOf")
    if step:
        value = math.ceil(value / step) * step
    return math.ceil(value) if kind == "integer" else value
