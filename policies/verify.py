"""Whether an answer may be believed: its shape against what the call demands, then refusal and confidence.

`malformed`: the shape is wrong, which another model may get right. `unsure`: the shape is right and the answer is not
to be trusted. Reasons hold rules, names the caller gave and numbers, never text of the answer: they are stored. Nothing
that a model can write makes `verify` raise. Knows nothing of backends.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, Final

import msgspec
from msgspec import Struct

from registry.errors import InvalidRequestError
from registry.identifiers import digest_of

from .answers import Answer, AnsweredToolCall, Expectation, Verdict
from .refusals import OPENERS, PHRASES
from .schemas import CompiledSchema, UnusableSchemaError, compile_schema

MAX_JSON_CHARS: Final = 1_000_000
MAX_JSON_DEPTH: Final = 64
MAX_TOOL_CALLS: Final = 128

VERIFIED: Final = Verdict("verified")
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}
_QUOTES: Final = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})


class _Compiled(Struct, frozen=True):
    """An expectation's validators."""

    answer: CompiledSchema | None
    tools: dict[str, CompiledSchema]


_NOTHING: Final = _Compiled(None, {})


class Verifier:
    """Checks answers. Keeps the validators of the last `capacity` expectations."""

    def __init__(self, capacity: int = 512, *, check_truncated_text: bool = False) -> None:
        self._capacity = capacity
        self._check_truncated_text = check_truncated_text
        self._kept: OrderedDict[str, _Compiled] = OrderedDict()

    def check_expectation(self, expectation: Expectation) -> None:
        """Compile what the call demands, at admission. Raises InvalidRequestError naming the field at fault."""
        self._compiled(expectation)
        _check_tool_choice(expectation)

    def verify(self, answer: Answer, expectation: Expectation, threshold: float | None = None) -> Verdict:
        """Return the verdict. `threshold`: least sum of token log-probabilities that is believed; None: not checked.

        Never raises on what an answer holds. Raises InvalidRequestError for an expectation that
        `check_expectation` would have refused.
        """
        compiled = self._compiled(expectation)
        wants_json = compiled.answer is not None and not answer.tool_calls
        verdict = (
            _withheld(answer)
            or _empty(answer)
            or self._truncated(answer, structured=wants_json or bool(answer.tool_calls))
            or _unreadable(answer)
            or _wrong_tools(answer, expectation, compiled)
            or (_wrong_json(answer, compiled.answer) if wants_json else _refused(answer))
            or _unsure(answer, threshold)
        )
        return verdict or VERIFIED

    def _truncated(self, answer: Answer, *, structured: bool) -> Verdict | None:
        if answer.finish_reason != "length":
            return None
        if structured:
            return Verdict("malformed", "truncated", "it was cut off before its end")
        if self._check_truncated_text:
            return Verdict("unsure", "truncated", "its text was cut off by max_tokens")
        return None

    def _compiled(self, expectation: Expectation) -> _Compiled:
        if not expectation.tools and expectation.json_schema is None and not expectation.json_object:
            return _NOTHING
        key = expectation.digest or digest_of(
            (expectation.json_schema, expectation.json_object, expectation.tools, expectation.tool_choice)
        )
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        compiled = _compile(expectation)
        self._kept[key] = compiled
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return compiled


def _compile(expectation: Expectation) -> _Compiled:
    schema = expectation.json_schema
    if schema is None and expectation.json_object:
        schema = _ANY_OBJECT
    answer = None if schema is None else _usable(schema, "response_format.json_schema.schema")
    tools: dict[str, CompiledSchema] = {}
    for index, tool in enumerate(expectation.tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            path = f"tools[{index}].function.name"
            raise InvalidRequestError(f"`{path}` must be the tool's name (a string).", param=path)
        if name in tools:
            raise InvalidRequestError(f"The tool `{name}` is offered twice.", param=f"tools[{index}].function.name")
        tools[name] = _usable(function.get("parameters") or _ANY_OBJECT, f"tools[{index}].function.parameters")
    return _Compiled(answer, tools)


def _usable(schema: Any, path: str) -> CompiledSchema:
    try:
        return compile_schema(schema)
    except UnusableSchemaError as error:
        raise InvalidRequestError(f"`{path}` cannot be used: {error}.", param=path) from None


def _check_tool_choice(expectation: Expectation) -> None:
    choice = expectation.tool_choice
    if isinstance(choice, dict):
        name = _chosen(choice)
        if name is None or name not in _names(expectation):
            said = f"`{name[:64]}` is not among the tools" if name is not None else "it must name a function"
            raise InvalidRequestError(f"`tool_choice` cannot be met: {said}.", param="tool_choice")
    elif choice not in {None, "none", "auto", "required"}:
        raise InvalidRequestError(
            "`tool_choice` is `none`, `auto`, `required` or names a function.", param="tool_choice"
        )
    elif choice == "required" and not expectation.tools:
        raise InvalidRequestError("`tool_choice` is `required`, and no tools are given.", param="tool_choice")


def _withheld(answer: Answer) -> Verdict | None:
    if answer.refusal:
        return Verdict("unsure", "refusal", "the model refused")
    if answer.finish_reason == "content_filter":
        return Verdict("unsure", "content_filter", "its backend's content filter withheld it")
    return None


def _empty(answer: Answer) -> Verdict | None:
    if answer.tool_calls or (answer.text and not answer.text.isspace()):
        return None
    return Verdict("malformed", "empty", "it holds neither text nor a tool call")


def _unreadable(answer: Answer) -> Verdict | None:
    if not answer.unreadable:
        return None
    return Verdict("malformed", "template", "it is not in the form that its specialist was trained to write")


def _wrong_tools(answer: Answer, expectation: Expectation, compiled: _Compiled) -> Verdict | None:
    """Tool calls where they are due, by a name that is offered, with arguments that fit."""
    choice = expectation.tool_choice
    due = _chosen(choice) if isinstance(choice, dict) else None
    if not answer.tool_calls:
        if due is not None or choice == "required":
            return Verdict("malformed", "tool_missing", f"it calls no tool, and {f'`{due}`' if due else 'one'} is due")
        return None
    if choice == "none":
        return Verdict("malformed", "tool_name", "it calls a tool, and tool_choice is none")
    if len(answer.tool_calls) > MAX_TOOL_CALLS:
        return Verdict("malformed", "tool_arguments", f"it makes more than {MAX_TOOL_CALLS} tool calls")
    faults = (_wrong_call(call, due, compiled) for call in answer.tool_calls)
    return next((fault for fault in faults if fault is not None), None)


def _wrong_call(call: AnsweredToolCall, due: str | None, compiled: _Compiled) -> Verdict | None:
    schema = compiled.tools.get(call.name)
    if schema is None:
        return Verdict("malformed", "tool_name", "it calls a tool that is not offered")
    if due is not None and call.name != due:
        return Verdict("malformed", "tool_name", f"it calls `{call.name}`, and `{due}` is due")
    value, fault = _decoded(call.arguments)
    if fault is None and not isinstance(value, dict):
        fault = "they are not a JSON object"
    fault = fault or schema.fault_of(value)
    if fault is None:
        return None
    return Verdict("malformed", "tool_arguments", f"the arguments of `{call.name}`: {fault}")


def _wrong_json(answer: Answer, schema: CompiledSchema | None) -> Verdict | None:
    if schema is None:
        return None
    value, fault = _decoded(answer.text or "")
    if fault is not None:
        return Verdict("malformed", "json", fault)
    fault = schema.fault_of(value)
    return None if fault is None else Verdict("malformed", "schema", fault)


def _refused(answer: Answer) -> Verdict | None:
    """Only for free text: a refusal in place of JSON is malformed already, and one beside a tool call is talk."""
    if answer.tool_calls or not answer.text:
        return None
    phrase = refusal_phrase(answer.text)
    return None if phrase is None else Verdict("unsure", "refusal", f"it begins as a refusal does: `{phrase}`")


def _unsure(answer: Answer, threshold: float | None) -> Verdict | None:
    if threshold is None:
        return None
    if threshold == math.inf:
        return Verdict(
            "unsure", "confidence", "its judged answers justify no threshold, so none of its answers is believed"
        )
    if answer.confidence is None:
        return Verdict("unsure", "confidence", "its backend gave no log-probabilities, and a threshold is set")
    if answer.confidence >= threshold:  # false for NaN
        return None
    return Verdict("unsure", "confidence", f"its confidence is {answer.confidence:.2f}, and {threshold:.2f} is needed")


def refusal_phrase(text: str) -> str | None:
    """Return the phrase of the table that the text begins with, or None."""
    start = text.lstrip(" \t\r\n*_>\"'#")[:400].translate(_QUOTES).lower()
    while not start.startswith(PHRASES):
        opener = next((opener for opener in OPENERS if start.startswith(opener)), None)
        if opener is None:
            return None
        start = start[len(opener) :]
    return next(phrase for phrase in PHRASES if start.startswith(phrase))


def _decoded(text: str) -> tuple[Any, str | None]:
    """Return (value, None) or (None, what is wrong). NaN and Infinity are not JSON."""
    if len(text) > MAX_JSON_CHARS:
        return None, f"it is longer than {MAX_JSON_CHARS:,} characters"
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None, "it is not JSON"
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _depth(value) > MAX_JSON_DEPTH:
        return None, f"it is nested more than {MAX_JSON_DEPTH} deep"
    return value, None


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= MAX_JSON_DEPTH:
        containers = [part for part in level if isinstance(part, dict | list)]
        depth += bool(containers)
        level = [item for part in containers for item in (part.values() if isinstance(part, dict) else part)]
    return depth


def _chosen(choice: dict[str, Any]) -> str | None:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _names(expectation: Expectation) -> frozenset[str]:
    return frozenset(tool["function"]["name"] for tool in expectation.tools)
