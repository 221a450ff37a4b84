"""A call in tokens: of its fixed part, of its answer's form, and of its answer's values.

What one agent sends on each call, and what an answer is made of, as short strings that can be counted. Source of the
choice: SLM agents, arXiv:2506.02153, S3. It knows calls; nothing of vectors or clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from pipelines.loop_rows import CuratedCall
from registry.identifiers import digest_of
from specialists.words import words_of

Kind = Literal["tool_call", "json", "text"]

KINDS: Final[tuple[Kind, ...]] = ("tool_call", "json", "text")
MAX_DEPTH: Final = 3
MAX_ITEMS: Final = 64
"""Of a JSON object or list: what lies deeper or further is not looked at."""
MAX_VALUE_CHARS: Final = 48
MAX_SYSTEM_CHARS: Final = 3_072
_SYSTEM_HEAD: Final = 2_048
"""Of a longer system prompt its beginning and its end are looked at."""
_SENTENCE_ENDS: Final = (". ", "! ", "? ", "; ")


def kind_of(call: CuratedCall) -> Kind:
    """Return what the answer is, by its look."""
    if call.answer_tool_calls:
        return "tool_call"
    text = (call.answer_text or "").lstrip()
    return "json" if text.startswith(("{", "[")) and _parsed(text) is not None else "text"


def fixed_key_of(call: CuratedCall) -> str:
    """Return what names the call's fixed part: its signature, or a digest of what else is the same on every call.

    "" when nothing fixed is known: then no other call is known to come from the same agent.
    """
    if call.signature:
        return call.signature
    if not (call.system or call.tool_names or call.response_format):
        return ""
    return digest_of([call.system, sorted(call.tool_names), call.response_format])


def fixed_tokens(call: CuratedCall) -> list[str]:
    """Return the words and structural tokens of the fixed part, in no order that says anything."""
    system = call.system
    if len(system) > MAX_SYSTEM_CHARS:
        system = f"{system[:_SYSTEM_HEAD]}\n{system[_SYSTEM_HEAD - MAX_SYSTEM_CHARS :]}"
    tokens = [token for line in system.split("\n") for token in _line_tokens(line)]
    tokens += _tool_name_tokens(tuple(call.tool_names[:MAX_ITEMS]))
    if call.response_format:
        tokens += _schema_tokens(msgspec.json.encode(call.response_format))
    return tokens


@lru_cache(maxsize=8_192)
def _line_tokens(line: str) -> tuple[str, ...]:
    """Prompts that differ from call to call still have most of their lines in common: each is cut once."""
    return (*(f"w:{word}" for word in words_of(line)), *(f"verb:{verb}" for verb in leading_verbs(line)))


@lru_cache(maxsize=1_024)
def _tool_name_tokens(names: tuple[str, ...]) -> tuple[str, ...]:
    words = (f"w:{word}" for name in names for word in words_of(name.replace("_", " ")))
    return (*(f"tool:{name}" for name in names), *words)


@lru_cache(maxsize=1_024)
def _schema_tokens(schema: bytes) -> tuple[str, ...]:
    return tuple(f"schema:{step}" for step in _steps(msgspec.json.decode(schema), MAX_DEPTH * 3))


def leading_verbs(text: str) -> list[str]:
    """Return the first word of each sentence or line: in an instruction that is its verb, in whatever language."""
    for end in _SENTENCE_ENDS:
        text = text.replace(end, "\n")
    starts = (words_of(line[:80]) for line in text[:MAX_SYSTEM_CHARS].split("\n"))
    return [words[0] for words in starts if words]


def form_tokens(call: CuratedCall) -> list[str]:
    """Return the structural tokens of the answer: never a value."""
    if call.answer_tool_calls:
        return ["kind:tool_call", *_tool_tokens(call.answer_tool_calls)]
    value = _parsed(call.answer_text or "")
    if value is None:
        return ["kind:text"]
    return ["kind:json", *(f"key:{step}" for step in _keys(value))]


def answer_keys(call: CuratedCall) -> list[str]:
    """Return the top-level JSON keys of the answer, or of its first tool call's arguments."""
    value: Any = _parsed(call.answer_text or "")
    if call.answer_tool_calls:
        value = _arguments(call.answer_tool_calls[0])
    return list(value)[:MAX_ITEMS] if isinstance(value, dict) else []


def value_tokens(call: CuratedCall) -> list[str]:
    """Return `key=value` of the answer's short top-level values: those that recur are labels."""
    if call.answer_tool_calls:
        return [f"tool={one.get('name', '')}" for one in call.answer_tool_calls[:MAX_ITEMS]]
    value = _parsed(call.answer_text or "")
    return list(_value_tokens(value)) if isinstance(value, dict) else []


def _value_tokens(value: Mapping[str, Any]) -> Iterator[str]:
    for key, one in list(value.items())[:MAX_ITEMS]:
        for item in one[:MAX_ITEMS] if isinstance(one, list) else [one]:
            if isinstance(item, str | bool) and len(str(item)) <= MAX_VALUE_CHARS:
                yield f"{key}={item}"


def _tool_tokens(calls: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in calls[:MAX_ITEMS]:
        name = str(one.get("name", ""))
        yield f"tool:{name}"
        yield from (f"verb:{word}" for word in words_of(name.replace("_", " "))[:1])
        yield from (f"argument:{key}" for key in _arguments(one))


def _arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    given = call.get("arguments")
    value = _parsed(given) if isinstance(given, str) else given
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=4_096)
def _parsed(text: str) -> Any:
    """Return a JSON object or list, or None for text that is neither."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _keys(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the paths of the keys; a list counts as its items do."""
    if depth >= MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, one in list(value.items())[:MAX_ITEMS]:
            yield f"{path}{key}"
            yield from _keys(one, f"{path}{key}.", depth + 1)
    elif isinstance(value, list):
        for one in value[:MAX_ITEMS]:
            yield from _keys(one, path, depth + 1)


def _steps(value: Any, depth: int) -> Iterator[str]:
    """Yield every key and short string of a schema: keys of answers and allowed values are among them."""
    if depth <= 0:
        return
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _steps(one, depth - 1)
    elif isinstance(value, list):
        for one in value[: 8 * MAX_ITEMS]:
            yield from _steps(one, depth - 1)
    elif isinstance(value, str) and len(value) <= MAX_VALUE_CHARS:
        yield value
