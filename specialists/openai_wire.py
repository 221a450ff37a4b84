"""What goes up to an OpenAI-compatible server: the request types, and their making from a Call.

Only the fields named here ever leave: whatever else a caller wrote (chat templates, prompt embeddings, engine
parameters) stops at this allow-list. `n` is never sent, so it is 1. Knows nothing of connections or answers.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from registry.errors import InvalidRequestError

from .calls import Call, Message, Sampling


class Function(Struct, frozen=True):
    """The function of a tool call in the history."""

    name: str
    arguments: str


class HistoryToolCall(Struct, frozen=True):
    """A tool call that an assistant message of the history made."""

    id: str
    function: Function
    type: str = "function"


class ChatMessage(Struct, frozen=True):
    """One message. `content` is sent even when it is null."""

    role: str
    content: str | list[dict[str, Any]] | None
    name: str | UnsetType = UNSET
    tool_calls: list[HistoryToolCall] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class StreamOptions(Struct, frozen=True):
    """Usage is always asked for: the bill depends on it."""

    include_usage: bool = True


class Drawing(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What both kinds of request share."""

    model: str
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    cache_salt: str | None = None
    """vLLM's: prompts share cached prefixes only with prompts of the same salt."""


class ChatRequest(Drawing, frozen=True, omit_defaults=True, kw_only=True):
    """The body of `/chat/completions`."""

    messages: list[ChatMessage]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class TextRequest(Drawing, frozen=True, omit_defaults=True, kw_only=True):
    """The body of `/completions`."""

    prompt: str
    logprobs: int | None = None


class Dialect(Struct, frozen=True):
    """How one server's OpenAI differs."""

    renames_max_tokens: bool = False
    """Takes `max_completion_tokens` in chat calls; newer models of OpenAI's refuse `max_tokens`."""
    fetches_media: bool = True
    """May be given URLs to fetch. Our own servers may not: a caller could make them reach inside the network."""
    cache_secret: bytes | None = None
    """Keys each tenant's `cache_salt`; None for servers that know no such field."""


CHAT_PATH = "/chat/completions"
TEXT_PATH = "/completions"

_ENCODER = msgspec.json.Encoder()
_STREAM_OPTIONS = StreamOptions()
_MOST_TEXT_LOGPROBS = 5

# Part type -> the one key that holds its value -> the keys allowed in it (None: plain text).
_PARTS: dict[str, tuple[str, frozenset[str] | None]] = {
    "text": ("text", None),
    "refusal": ("refusal", None),
    "image_url": ("image_url", frozenset({"url", "detail"})),
    "input_audio": ("input_audio", frozenset({"data", "format"})),
    "file": ("file", frozenset({"file_id", "file_data", "filename"})),
}
_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict"})
_SCHEMA_KEYS = frozenset({"name", "description", "schema", "strict"})
_RESPONSE_FORMATS = frozenset({"text", "json_object", "json_schema"})
_TOOL_CHOICES = ("auto", "none", "required")


def encode_call(call: Call, dialect: Dialect, *, stream: bool) -> tuple[str, bytes]:
    """Return the path under the base URL and the body. Raises InvalidRequestError."""
    try:
        if call.prompt is not None:
            return TEXT_PATH, _ENCODER.encode(_text_request(call, call.prompt, dialect, stream))
        return CHAT_PATH, _ENCODER.encode(_chat_request(call, dialect, stream))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the call cannot be written as JSON: {error}") from None


@lru_cache(maxsize=4096)
def cache_salt(secret: bytes, tenant: str) -> str:
    """Return the salt of a tenant's prefix cache: 64 hex digits, the same for as long as the secret is.

    Without it a caller learns from the time to the first token which prompts other tenants have sent (vLLM's
    RFC #16016, arXiv:2411.18191). Nobody without the secret can compute it.
    """
    return hmac.digest(secret, b"cache_salt\0" + tenant.encode("utf-8", "surrogatepass"), "sha256").hex()


def _text_request(call: Call, prompt: str, dialect: Dialect, stream: bool) -> TextRequest:
    logprobs = min(max(1, call.top_logprobs or 1), _MOST_TEXT_LOGPROBS) if call.logprobs else None
    return TextRequest(prompt=prompt, logprobs=logprobs, **_drawing(call, dialect, stream))


def _chat_request(call: Call, dialect: Dialect, stream: bool) -> ChatRequest:
    shared = _drawing(call, dialect, stream)
    if dialect.renames_max_tokens:
        shared["max_completion_tokens"] = shared.pop("max_tokens")
    has_tools = bool(call.tools)
    return ChatRequest(
        messages=[_message(message, at, dialect) for at, message in enumerate(call.messages)],
        tools=[_tool(tool, at) for at, tool in enumerate(call.tools)] if has_tools else None,
        tool_choice=_tool_choice(call.tool_choice) if has_tools else None,
        parallel_tool_calls=call.parallel_tool_calls if has_tools else None,
        response_format=_response_format(call.response_format),
        logprobs=True if call.logprobs else None,
        top_logprobs=call.top_logprobs if call.logprobs else None,
        **shared,
    )


def _drawing(call: Call, dialect: Dialect, stream: bool) -> dict[str, Any]:
    sampling: Sampling = call.sampling
    secret = dialect.cache_secret
    return {
        "model": call.model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": sampling.stop,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stream": stream,
        "stream_options": _STREAM_OPTIONS if stream else None,
        "cache_salt": cache_salt(secret, call.tenant) if secret is not None else None,
    }


def _message(message: Message, at: int, dialect: Dialect) -> ChatMessage:
    content = message.content
    if isinstance(content, list):
        content = [_part(part, f"messages[{at}].content[{i}]", dialect) for i, part in enumerate(content)]
    calls = [HistoryToolCall(call.id, Function(call.name, call.arguments)) for call in message.tool_calls]
    return ChatMessage(
        role=message.role,
        content=content,
        name=UNSET if message.name is None else message.name,
        tool_calls=calls or UNSET,
        tool_call_id=UNSET if message.tool_call_id is None else message.tool_call_id,
    )


def _part(part: dict[str, Any], where: str, dialect: Dialect) -> dict[str, Any]:
    kind = part.get("type")
    known = _PARTS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise InvalidRequestError(f"{where}.type must be one of {', '.join(_PARTS)}", param=f"{where}.type")
    key, allowed = known
    value = part.get(key)
    if allowed is None:
        if not isinstance(value, str):
            raise InvalidRequestError(f"{where}.{key} must be a string", param=f"{where}.{key}")
        return {"type": kind, key: value}
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where}.{key} must be an object", param=f"{where}.{key}")
    url = value.get("url")
    if url is not None and not dialect.fetches_media and not str(url).startswith("data:"):
        raise InvalidRequestError(f"{where}.{key}.url must be a data: URL for this model", param=f"{where}.{key}.url")
    return {"type": kind, key: _only(value, allowed)}


def _tool(tool: dict[str, Any], at: int) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"tools[{at}].function.name must be a string", param=f"tools[{at}].function.name")
    return {"type": "function", "function": _only(function, _FUNCTION_KEYS)}


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if choice is None or choice in _TOOL_CHOICES:
        return choice
    if isinstance(choice, str):
        names = ", ".join(_TOOL_CHOICES)
        raise InvalidRequestError(f"tool_choice must be one of {names}, or name a function", param="tool_choice")
    function = choice.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError("tool_choice.function.name must be a string", param="tool_choice")
    return {"type": "function", "function": {"name": function["name"]}}


def _response_format(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    kind = wanted.get("type")
    if kind not in _RESPONSE_FORMATS:
        names = ", ".join(sorted(_RESPONSE_FORMATS))
        raise InvalidRequestError(f"response_format.type must be one of {names}", param="response_format.type")
    schema = wanted.get("json_schema")
    if kind != "json_schema":
        return {"type": kind}
    if not isinstance(schema, dict):
        raise InvalidRequestError("response_format.json_schema must be an object", param="response_format.json_schema")
    return {"type": kind, "json_schema": _only(schema, _SCHEMA_KEYS)}


def _only(value: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key in allowed}
