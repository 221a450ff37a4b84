"""A specialist's prompt and answer: rendered from what varies in a call, and read back into what was asked for.

`prompt_text` and `answer_text` make a training example, so that what is learnt is what is asked.
The fixed part of a call (system prompt, tools, response format) is not rendered: the fine-tuning taught it.

The text of a tool call is one JSON object, `{"name": ..., "arguments": {...}}`, or a list of them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import structs

from registry.entries import TemplateEntry
from registry.errors import InvalidRequestError
from registry.identifiers import new_ulid

from .calls import Call, Completion, ToolCall

INPUT = "{input}"


def input_of(call: Call) -> str | None:
    """Return the text of the last user message, None when there is none or it holds more than text."""
    for message in reversed(call.messages):
        if message.role == "user":
            content = message.content
            if not isinstance(content, list):
                return content
            texts = [part.get("text") for part in content if part.get("type") == "text"]
            return "".join(map(str, texts)) if len(texts) == len(content) else None
    return None


def prompt_text(template: TemplateEntry, text: str) -> str:
    """Return the prompt for an input. The input is inserted as it is: it is never itself a template."""
    return template.prompt.replace(INPUT, text)


def render(template: TemplateEntry, call: Call) -> Call:
    """Return the call as the specialist is asked it: its prompt, greedily, without messages, tools or formats.

    Greedily, because its confidence was calibrated that way. Raises InvalidRequestError when there is no text to use.
    """
    text = input_of(call)
    if text is None:
        raise InvalidRequestError("a specialist's template needs a last user message of text alone", param="messages")
    given = call.sampling.max_tokens
    sampling = structs.replace(
        call.sampling,
        max_tokens=template.max_tokens if given is None else min(given, template.max_tokens),
        temperature=0.0,
        top_p=None,
        stop=template.stop,
        presence_penalty=None,
        frequency_penalty=None,
    )
    return Call(
        model=call.model,
        prompt=prompt_text(template, text),
        sampling=sampling,
        logprobs=call.logprobs,
        top_logprobs=call.top_logprobs,
        tenant=call.tenant,
    )


def read_answer(template: TemplateEntry, completion: Completion) -> Completion:
    """Turn the specialist's text into what the caller asked for.

    What should be a tool call and cannot be read as one stays text, marked: where tools are optional, half a tool call
    would else pass for an answer in words.
    """
    text = (completion.text or "").strip()
    if template.answer != "tool_call":
        return structs.replace(completion, text=text)
    calls = parse_tool_calls(text)
    if calls is None:
        return structs.replace(completion, text=text, unreadable=True)
    reason = "tool_calls" if completion.finish_reason == "stop" else completion.finish_reason
    return structs.replace(completion, text=None, tool_calls=calls, finish_reason=reason)


def parse_tool_calls(text: str) -> tuple[ToolCall, ...] | None:
    """Read the text of one or more tool calls, None when it is not that."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    items = value if isinstance(value, list) else [value]
    if not items or not all(_is_call(item) for item in items):
        return None
    return tuple(
        ToolCall(id=f"call_{new_ulid()}", name=item["name"], arguments=_dump(item["arguments"])) for item in items
    )


def answer_text(template: TemplateEntry, completion: Completion) -> str | None:
    """Return the text that the specialist should learn to write for an answer; None when it has no such form.

    The inverse of `read_answer`: JSON is written compactly, with its keys in the order in which they came.
    """
    if template.answer == "tool_call":
        return _tool_text(completion)
    text = (completion.text or "").strip()
    if completion.tool_calls or not text:
        return None
    if template.answer == "text":
        return text
    try:
        return _dump(msgspec.json.decode(text))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _tool_text(completion: Completion) -> str | None:
    try:
        items = [
            {"name": call.name, "arguments": msgspec.json.decode(call.arguments)} for call in completion.tool_calls
        ]
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if not items or not all(_is_call(item) for item in items):
        return None
    return _dump(items[0] if len(items) == 1 else items)


def _is_call(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("arguments"), dict)


def _dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()
