"""The abstract-syntax check of the Berkeley Function Calling Leaderboard, for its Python categories.

Each argument has a list of accepted values; "" in that list means that the argument may be left out. Written anew from
the rules of BFCL's `ast_checker` (Patil et al., gorilla, Apache-2.0); it knows no wire format and no models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

TYPES: Final[Mapping[str, type]] = {
    "string": str,
    "integer": int,
    "float": float,
    "number": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "object": dict,
    "any": str,
}
_NAME_LIMIT: Final = 64


def legal_tool_names(names: Sequence[str]) -> dict[str, str]:
    """Each declared name and the distinct one OpenAI allows for it (`[a-zA-Z0-9_-]{1,64}`)."""
    legal: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_NAME_LIMIT] or "tool"
        candidate, number = base, 2
        while candidate in legal.values():
            candidate = f"{base[: _NAME_LIMIT - 3]}_{number}"
            number += 1
        legal[name] = candidate
    return legal


def check_calls(
    functions: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    calls: Sequence[tuple[str, Mapping[str, Any]]],
) -> str | None:
    """What is wrong with `calls` (name, arguments), or `None`. The order of parallel calls does not matter."""
    if len(calls) != len(expected):
        return f"{len(calls)} tool calls instead of {len(expected)}"
    declared = {function["name"]: function for function in functions}
    legal = legal_tool_names(list(declared))
    left = list(calls)
    for accepted in expected:
        ((name, arguments),) = accepted.items()
        wire_name = legal.get(name, name)
        findings = [_check_call(declared.get(name, {}), wire_name, arguments, call) for call in left]
        if None not in findings:
            return findings[0] if len(findings) == 1 else f"no call matches {name}: {'; '.join(map(str, findings))}"
        left.pop(findings.index(None))
    return None


def standard_text(text: str) -> str:
    """BFCL's normal form: no blanks and none of `,./-_*^`, lower case, one kind of quote."""
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _check_call(
    function: Mapping[str, Any], wire_name: str, accepted: Mapping[str, Any], call: tuple[str, Mapping[str, Any]]
) -> str | None:
    name, arguments = call
    if name not in (wire_name, function.get("name")):
        return f"called {name} instead of {wire_name}"
    parameters = function.get("parameters", {})
    for key in parameters.get("required", ()):
        if key not in arguments:
            return f"required argument {key} is missing"
    for key, value in arguments.items():
        details = parameters.get("properties", {}).get(key)
        if details is None or key not in accepted:
            return f"unexpected argument {key}"
        # A few rows of BFCL accept no value at all for a list argument; what they mean is the empty list.
        finding = _check_value(value, accepted[key] or [[]], details)
        if finding is not None:
            return f"argument {key}: {finding}"
    for key, values in accepted.items():
        if key not in arguments and "" not in values:
            return f"argument {key} is missing"
    return None


def _check_value(value: Any, accepted: Sequence[Any], details: Mapping[str, Any]) -> str | None:
    kind = TYPES.get(details.get("type", "any"), str)
    if kind is float and type(value) is int:
        value = float(value)
    nested = _nested_type(details)
    fits, as_declared = _fits_type(value, accepted, kind, nested)
    if not fits:
        return f"{value!r} is not of type {details.get('type')}"
    if as_declared:
        return _compare(value, accepted, kind, nested)
    return None if value in accepted else _not_accepted(value, accepted)


def _nested_type(details: Mapping[str, Any]) -> type | None:
    if details.get("type") not in ("array", "tuple"):
        return None
    name = (details.get("items") or {}).get("type")
    return TYPES.get(name) if name else None


def _fits_type(value: Any, accepted: Sequence[Any], kind: type, nested: type | None) -> tuple[bool, bool]:
    """Whether the type will do; whether accepted values are as declared (else they are compared as they are)."""
    sample = next((one for one in accepted if one != ""), None)
    as_declared = sample is None or type(sample) is kind
    if type(value) is kind and (nested is None or _items_fit(value, accepted, nested)):
        return True, as_declared
    return (sample is not None and type(value) is type(sample) and type(value) is not kind), False


def _items_fit(value: Any, accepted: Sequence[Any], nested: type) -> bool:
    return any(not isinstance(one, list) or all(_item_fits(item, one, nested) for item in value) for one in accepted)


def _item_fits(item: Any, accepted: Sequence[Any], nested: type) -> bool:
    sample = next((one for one in accepted if one != ""), None)
    return type(item) is nested or (sample is not None and type(item) is type(sample))


def _compare(value: Any, accepted: Sequence[Any], kind: type, nested: type | None) -> str | None:
    if kind is dict:
        return _first_match([_check_dict(value, one) for one in accepted if isinstance(one, dict)], value)
    if kind is list and nested is dict:
        return _first_match([_check_dicts(value, one) for one in accepted if isinstance(one, list)], value)
    plain = [one for one in accepted if kind is not list or isinstance(one, list)]
    return None if _standard(value) in [_standard(one) for one in plain] else _not_accepted(value, accepted)


def _check_dict(value: Any, accepted: Mapping[str, Any]) -> str | None:
    if not isinstance(value, dict):
        return f"{value!r} is not an object"
    for key, item in value.items():
        if key not in accepted:
            return f"unexpected key {key}"
        if _standard(item) not in [_standard(one) for one in accepted[key]]:
            return f"key {key}: {_not_accepted(item, accepted[key])}"
    missing = [key for key, values in accepted.items() if key not in value and "" not in values]
    return f"key {missing[0]} is missing" if missing else None


def _check_dicts(value: Sequence[Any], accepted: Sequence[Any]) -> str | None:
    if len(value) != len(accepted):
        return f"{len(value)} objects instead of {len(accepted)}"
    findings = [_check_dict(item, one) for item, one in zip(value, accepted, strict=True)]
    return next((finding for finding in findings if finding is not None), None)


def _first_match(findings: Sequence[str | None], value: Any) -> str | None:
    if None in findings:
        return None
    return findings[0] if findings else f"{value!r} was not expected"


def _standard(value: Any) -> Any:
    if isinstance(value, str):
        return standard_text(value)
    if isinstance(value, list):
        return [_standard(item) for item in value]
    return value


def _not_accepted(value: Any, accepted: Sequence[Any]) -> str:
    return f"{value!r} is not one of {list(accepted)!r}"
