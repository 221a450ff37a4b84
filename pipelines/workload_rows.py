"""One row of a workload: reading it, checking it, and the OpenAI request that it stands for.

It knows the row formats of a workload folder and OpenAI's request body; not where rows come from or go to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from pipelines.graders import known_graders, last_number
from pipelines.graders_bfcl import legal_tool_names
from registry.errors import WorkloadError


class App(msgspec.Struct, frozen=True):
    """The agent behind a family: what is the same on every call it makes."""

    family: str
    system: str
    grader: str
    tools: tuple[dict[str, Any], ...] = ()
    response_format: dict[str, Any] | None = None
    max_tokens: int | None = None
    """The limit that the agent sets on its answers; None: none."""


class Row(msgspec.Struct, frozen=True):
    """One call and what a right answer is. `grader` is resolved: never `per_row`."""

    id: str
    family: str
    split: str
    text: str
    grader: str
    expected: Any = None
    reference: str | None = None
    messages: tuple[dict[str, Any], ...] = ()
    functions: tuple[dict[str, Any], ...] = ()
    personal: tuple[tuple[str, str], ...] = ()
    """The personal data in the text, as (type, value)."""


class _RowWire(msgspec.Struct):
    id: str
    split: Literal["train", "dev", "hold"]
    family: str | None = None
    input: str | None = None
    expected: Any = None
    reference: str | None = None
    grader: str | None = None
    messages: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None
    personal: list[tuple[str, str]] = []
    question: str | None = None
    doc: str | None = None
    answers: list[str] | None = None


_DECODER: Final = msgspec.json.Decoder(_RowWire)


def parse_row(app: App, line: bytes, number: int) -> Row:
    """One line of FAMILY.jsonl; `number` is its line number, for rows that lack an id of their own.

    Raises:
        WorkloadError: what is wrong with the line, without its place.
    """
    try:
        wire = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkloadError(str(error)) from None
    if wire.family not in (None, app.family):
        raise WorkloadError(f"family is {wire.family!r} in the file of {app.family!r}")
    row = Row(
        id=wire.id or f"{app.family}-{number}",
        family=app.family,
        split=wire.split,
        text=_user_text(wire),
        grader=_grader(app, wire),
        expected=_expected(wire),
        reference=wire.reference,
        messages=tuple(wire.messages or ()),
        functions=tuple(wire.functions or ()),
        personal=tuple(wire.personal),
    )
    check_expected(row)
    return row


def passage_app(family: str) -> App:
    """The agent that asks questions about documents; `apps.json` has none for them."""
    system = "Answer the question with the shortest words of the documents that answer it. Give nothing else."
    return App(family, system, "extractive")


def request_body(app: App, row: Row, model: str) -> dict[str, Any]:
    """The OpenAI chat request of a row."""
    turns = list(row.messages) or [{"role": "user", "content": row.text}]
    body: dict[str, Any] = {"model": model, "messages": [{"role": "system", "content": app.system}, *turns]}
    tools = functions_as_tools(row.functions) if row.functions else list(app.tools)
    if tools:
        body["tools"] = tools
    if app.response_format:
        body["response_format"] = app.response_format
    if app.max_tokens:
        body["max_tokens"] = app.max_tokens
    return body


def functions_as_tools(functions: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """BFCL's declarations as OpenAI tools: legal names, JSON Schema types."""
    legal = legal_tool_names([function["name"] for function in functions])
    return [
        {
            "type": "function",
            "function": {
                "name": legal[function["name"]],
                "description": function.get("description", ""),
                "parameters": json_schema(function.get("parameters") or {"type": "dict", "properties": {}}),
            },
        }
        for function in functions
    ]


_SCHEMA_TYPES: Final[Mapping[str, str]] = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "integer": "integer",
    "number": "number",
    "string": "string",
    "boolean": "boolean",
    "array": "array",
    "object": "object",
    "null": "null",
}
_SCHEMA_KEYS: Final = ("description", "enum", "default", "required", "format", "minimum", "maximum")


def json_schema(declared: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL parameter declaration as JSON Schema: `dict` is object, `float` number, `tuple` array, `any` anything."""
    schema: dict[str, Any] = {}
    kind = _SCHEMA_TYPES.get(str(declared.get("type", "any")))
    if kind:
        schema["type"] = kind
    schema.update({key: declared[key] for key in _SCHEMA_KEYS if key in declared})
    if isinstance(declared.get("properties"), dict):
        schema["properties"] = {name: json_schema(one) for name, one in declared["properties"].items()}
    if isinstance(declared.get("items"), dict):
        schema["items"] = json_schema(declared["items"])
    return schema


def check_expected(row: Row) -> None:
    """Refuse a row whose `expected` its grader could not use.

    Raises:
        WorkloadError: what is missing.
    """
    expected = row.expected
    if row.grader == "json_equal" and expected is None:
        raise WorkloadError("grader json_equal needs `expected`")
    if row.grader == "tool_call" and not _is_tool_call(expected):
        raise WorkloadError("grader tool_call needs `expected`: {name, arguments}")
    if row.grader == "number" and (expected is None or last_number(str(expected)) is None):
        raise WorkloadError("grader number needs a number as `expected`")
    if row.grader == "bfcl_ast" and not (row.functions and _is_bfcl(expected)):
        raise WorkloadError("grader bfcl_ast needs `functions` and `expected`: [{name: {argument: [values]}}]")
    if row.grader in ("extractive", "exact", "retrieval") and expected is None:
        raise WorkloadError(f"grader {row.grader} needs `expected`")


def _is_tool_call(expected: Any) -> bool:
    return isinstance(expected, dict) and "name" in expected and isinstance(expected.get("arguments"), dict)


def _is_bfcl(expected: Any) -> bool:
    return isinstance(expected, list) and all(
        isinstance(call, dict) and len(call) == 1 and all(_lists(arguments) for arguments in call.values())
        for call in expected
    )


def _lists(arguments: Any) -> bool:
    return isinstance(arguments, dict) and all(isinstance(values, list) for values in arguments.values())


def _user_text(wire: _RowWire) -> str:
    if wire.messages:
        spoken = [turn.get("content") for turn in wire.messages if turn.get("role") == "user"]
        if not spoken or not isinstance(spoken[-1], str):
            raise WorkloadError("`messages` has no user message with text")
        return spoken[-1]
    text = wire.input if wire.input is not None else wire.question
    if text is None:
        raise WorkloadError("a row needs `input` or `messages`")
    return text


def _grader(app: App, wire: _RowWire) -> str:
    grader = app.grader if app.grader != "per_row" else wire.grader
    if grader is None:
        raise WorkloadError("the app's grader is per_row, so the row must name its `grader`")
    if grader not in known_graders():
        raise WorkloadError(f"no grader {grader!r}; known: {', '.join(known_graders())}")
    return grader


def _expected(wire: _RowWire) -> Any:
    if wire.answers is not None:
        return {"doc": wire.doc, "answers": wire.answers}
    return wire.expected
