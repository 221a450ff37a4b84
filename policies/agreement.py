"""Whether two answers to the same call say the same: how a shadow's answer is judged by what was served.

JSON and tool calls are compared as values, so that the order of keys and white space do not count. Free text says the
same when its words are the same; when they differ nobody knows, and `None` says so.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .answers import Answer


def agree(one: Answer, other: Answer) -> bool | None:
    """Return True or False where the answers can be compared, None where only a reader could tell."""
    if one.tool_calls or other.tool_calls:
        return _calls(one) == _calls(other)
    first, second = _value(one.text), _value(other.text)
    if isinstance(first, str) and isinstance(second, str):
        return True if first == second else None
    if isinstance(first, str) or isinstance(second, str):
        return False  # one kept the format that was asked for, the other did not
    return bool(_plain(first) == _plain(second))


def _calls(answer: Answer) -> list[tuple[str, Any]]:
    return [(call.name, _plain(_value(call.arguments))) for call in answer.tool_calls]


def _value(text: str | None) -> Any:
    """The JSON value of an object or array; any other text as its words in lower case."""
    stripped = (text or "").strip()
    if stripped[:1] in ("{", "["):
        try:
            return msgspec.json.decode(stripped)
        except (ValueError, RecursionError):
            return " ".join(stripped.lower().split())
    return " ".join(stripped.lower().split())


def _plain(value: Any) -> Any:
    """The value with `true` told from 1, as JSON tells them; 1 and 1.0 stay equal."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
