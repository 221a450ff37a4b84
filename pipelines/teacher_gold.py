"""What a flawless large model would answer to a row, and what an erring one might.

It knows rows and graders; not HTTP, not how often errors happen.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipelines.graders import Answer, ToolCall, grade, last_number
from pipelines.graders_bfcl import legal_tool_names
from pipelines.workload_rows import App, Row

_TRIES: Final = 12


def gold_answer(row: Row) -> Answer:
    """The answer that the row's grader takes for right; for ungraded rows the reference."""
    return _GOLD[row.grader](row)


def wrong_answer(app: App, row: Row, rng: random.Random) -> Answer:
    """An answer that the grader refuses, of the kind large models give: a neighbouring label, a clipped argument, a
    number that is a little off. A row that nobody grades has no wrong answer and keeps its reference."""
    gold = gold_answer(row)
    if row.grader == "none":
        return gold
    for _ in range(_TRIES):
        candidate = _WRONG[row.grader](app, row, gold, rng)
        if grade(row.grader, row.expected, candidate, row.functions).correct is False:
            return candidate
    return Answer(text="I am not sure.")


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _gold_json(row: Row) -> Answer:
    return Answer(text=_json_text(row.expected))


def _gold_call(row: Row) -> Answer:
    return Answer(tool_calls=(ToolCall(row.expected["name"], _json_text(row.expected["arguments"])),))


def _gold_bfcl(row: Row) -> Answer:
    legal = legal_tool_names([function["name"] for function in row.functions])
    declared = {function["name"]: function for function in row.functions}
    calls = []
    for accepted in row.expected:
        ((name, arguments),) = accepted.items()
        required = declared.get(name, {}).get("parameters", {}).get("required", ())
        chosen = _choose_arguments(arguments, required)
        calls.append(ToolCall(legal.get(name, name), _json_text(chosen)))
    return Answer(tool_calls=tuple(calls))


def _choose_arguments(accepted: Mapping[str, Sequence[Any]], required: Sequence[str]) -> dict[str, Any]:
    chosen = {}
    for key, values in accepted.items():
        real = [value for value in values if value not in ("", None)]
        if key not in required and "" in values:
            continue
        chosen[key] = _plain(real[0]) if real else next(iter(values), [])
    return chosen


def _plain(value: Any) -> Any:
    """An accepted value as an argument: inside objects each key holds a list of accepted values."""
    if isinstance(value, dict):
        return _choose_arguments(value, ())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _gold_number(row: Row) -> Answer:
    reference = re.sub(r"<<.*?>>", "", row.reference or "").replace("####", "The answer is")
    if last_number(reference) == last_number(str(row.expected)):
        return Answer(text=reference)
    return Answer(text=f"The answer is {row.expected}.")


def _gold_extractive(row: Row) -> Answer:
    accepted = row.expected["answers"] if isinstance(row.expected, dict) else row.expected
    doc = row.expected.get("doc") if isinstance(row.expected, dict) else None
    return Answer(text=accepted if isinstance(accepted, str) else accepted[0], citations=(doc,) if doc else ())


def _gold_text(row: Row) -> Answer:
    return Answer(text=str(row.expected))


def _gold_retrieval(row: Row) -> Answer:
    doc = row.expected["doc"] if isinstance(row.expected, dict) else row.expected
    return Answer(text=str(doc), citations=(str(doc),))


def _gold_open(row: Row) -> Answer:
    return Answer(text=row.reference or "Happy to help. Could you tell me a little more about what you need?")


def _wrong_json(app: App, row: Row, gold: Answer, rng: random.Random) -> Answer:
    schema = ((app.response_format or {}).get("json_schema") or {}).get("schema") or {}
    return Answer(text=_json_text(_spoil(row.expected, schema, rng)))


def _wrong_call(app: App, row: Row, gold: Answer, rng: random.Random) -> Answer:
    names = [tool["function"]["name"] for tool in app.tools]
    return _spoil_call(gold.tool_calls, 0, names, rng)


def _wrong_bfcl(app: App, row: Row, gold: Answer, rng: random.Random) -> Answer:
    if len(gold.tool_calls) > 1 and rng.random() < 0.3:
        return Answer(tool_calls=gold.tool_calls[:-1])
    names = list(legal_tool_names([function["name"] for function in row.functions]).values())
    return _spoil_call(gold.tool_calls, rng.randrange(len(gold.tool_calls)), names, rng)


def _spoil_call(calls: Sequence[ToolCall], at: int, names: Sequence[str], rng: random.Random) -> Answer:
    call, arguments = calls[at], calls[at].parsed()
    others = [name for name in names if name != call.name]
    if others and (not arguments or rng.random() < 0.25):
        call = ToolCall(rng.choice(others), call.arguments)
    elif arguments:
        key = rng.choice(sorted(arguments))
        spoilt = arguments | {key: _spoil(arguments[key], {}, rng)}
        if len(arguments) > 1 and rng.random() < 0.3:
            del spoilt[key]
        call = ToolCall(call.name, _json_text(spoilt))
    else:
        return Answer(text="Could you give me more details?")
    return Answer(tool_calls=(*calls[:at], call, *calls[at + 1 :]))


def _wrong_number(app: App, row: Row, gold: Answer, rng: random.Random) -> Answer:
    value = last_number(str(row.expected)) or 0.0
    return Answer(text=f"The answer is {_spoil(int(value) if value.is_integer() else value, {}, rng)}.")


def _wrong_text(app: App, row: Row, gold: Answer, rng: random.Random) -> Answer:
    spoilt = str(_spoil(gold.text, {}, rng))
    return Answer(text=spoilt if rng.random() < 0.7 else "The documents do not say.")


def _spoil(value: Any, schema: Mapping[str, Any], rng: random.Random) -> Any:
    """A value near to the right one, valid under the schema where the schema says what is allowed."""
    others = [one for one in schema.get("enum", ()) if one != value]
    if others:
        return rng.choice(others)
    if isinstance(value, bool):
        return not value
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        return value | {key: _spoil(value[key], schema.get("properties", {}).get(key, {}), rng)}
    if isinstance(value, list):
        return _spoil_list(value, schema.get("items", {}), rng)
    if isinstance(value, int | float):
        return value + rng.choice((-10, -2, -1, 1, 2, 10))
    return _spoil_text(value, rng) if isinstance(value, str) else ""


def _spoil_list(value: list[Any], items: Mapping[str, Any], rng: random.Random) -> list[Any]:
    fresh = [one for one in items.get("enum", ()) if one not in value]
    if fresh and (not value or rng.random() < 0.5):
        return sorted([*value, rng.choice(fresh)])
    return [one for at, one in enumerate(value) if at != rng.randrange(len(value))] or [""]


def _spoil_text(value: str, rng: random.Random) -> str:
    words = value.split()
    if len(words) > 1:
        return " ".join(words[:-1] if rng.random() < 0.5 else words[1:])
    return value[:-1] if len(value) > 3 and rng.random() < 0.5 else f"the {value}"


_GOLD: Final[Mapping[str, Callable[[Row], Answer]]] = {
    "json_equal": _gold_json,
    "tool_call": _gold_call,
    "bfcl_ast": _gold_bfcl,
    "number": _gold_number,
    "extractive": _gold_extractive,
    "exact": _gold_text,
    "retrieval": _gold_retrieval,
    "none": _gold_open,
}
_WRONG: Final[Mapping[str, Callable[[App, Row, Answer, random.Random], Answer]]] = {
    "json_equal": _wrong_json,
    "tool_call": _wrong_call,
    "bfcl_ast": _wrong_bfcl,
    "number": _wrong_number,
    "extractive": _wrong_text,
    "exact": _wrong_text,
    "retrieval": _wrong_text,
}
