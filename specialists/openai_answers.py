"""What comes back from an OpenAI-compatible server: its types, lenient where providers differ, and their reading.

Unknown fields are skipped, missing usage is estimated, malformed JSON is a BackendError. Knows nothing of connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct, field

from registry.errors import BackendError

from .calls import Call, Completion, Delta, TokenLogprob, ToolCall, ToolCallDelta, Usage

CHARS_PER_TOKEN = 4


class TopLogprob(Struct):
    """One alternative of a position."""

    token: str = ""
    logprob: float = 0.0


class ChatLogprob(Struct):
    """One sampled token of a chat answer."""

    token: str = ""
    logprob: float = 0.0
    top_logprobs: list[TopLogprob] | None = None


class Logprobs(Struct):
    """Both endpoints' shapes: `content` is the chat's, the parallel lists are the completions'."""

    content: list[ChatLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class FunctionPiece(Struct):
    """A function's name and arguments, whole or in part. Some servers send the arguments as an object."""

    name: str | None = None
    arguments: Any = None


class ToolCallPiece(Struct):
    """A tool call, whole or in part. Some servers leave the index out."""

    index: int | None = None
    id: str | None = None
    function: FunctionPiece = field(default_factory=FunctionPiece)


class MessagePiece(Struct):
    """A message or a delta. Only what Delta and Completion carry is read, and what shows that work goes on."""

    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(Struct):
    """The one choice, of either endpoint, whole or in part."""

    message: MessagePiece | None = None
    delta: MessagePiece | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class CachedTokens(Struct):
    """Where OpenAI puts the cached prompt tokens."""

    cached_tokens: int | None = None


class WireUsage(Struct):
    """Tokens as the server counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None


class Answer(Struct):
    """A whole answer, or one event of a stream. `error` is how a server tells of a failure after a status of 200."""

    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: Any = None


class ModelCard(Struct):
    """One entry of `/models`."""

    id: str


class ModelList(Struct):
    """The answer of `/models`."""

    data: list[ModelCard]


_MODELS = msgspec.json.Decoder(ModelList)
_DECODER = msgspec.json.Decoder(Answer)


class Piece(Struct, frozen=True):
    """One event of a stream: its Delta, and whether it carries work (an empty role announcement does not)."""

    delta: Delta
    is_progress: bool


def decode_answer(data: bytes, backend: str) -> Answer:
    """Read one JSON text. Raises BackendError when it is malformed."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BackendError(f"backend {backend!r} sent malformed JSON: {str(error)[:200]}", backend=backend) from None


def read_model_names(data: bytes, backend: str) -> frozenset[str]:
    """Read the list of models. Raises BackendError."""
    try:
        return frozenset(card.id for card in _MODELS.decode(data).data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BackendError(f"backend {backend!r} sent a malformed list of models: {error}", backend=backend) from None


def read_completion(answer: Answer, call: Call, backend: str) -> Completion:
    """Turn a whole answer into a Completion. Raises BackendError when it holds no choice."""
    if not answer.choices:
        raise BackendError(f"backend {backend!r} answered without a choice", backend=backend)
    choice = answer.choices[0]
    message = choice.message or MessagePiece(content=choice.text)
    text = _text(message.content)
    tool_calls = tuple(
        ToolCall(id=piece.id or f"call_{at}", name=piece.function.name or "", arguments=_arguments(piece))
        for at, piece in enumerate(message.tool_calls or ())
    )
    written = len(text or "") + sum(len(c.name) + len(c.arguments) for c in tool_calls)
    return Completion(
        text=text,
        tool_calls=tool_calls,
        finish_reason=choice.finish_reason or "stop",
        usage=read_usage(answer.usage) or estimate_usage(call, written),
        logprobs=_logprobs(choice.logprobs),
        refusal=message.refusal or None,
    )


def read_piece(answer: Answer, index_of: Callable[[ToolCallPiece], int]) -> Piece:
    """Turn one event of a stream into a Delta. `index_of` says which tool call a piece belongs to."""
    usage = read_usage(answer.usage)
    if not answer.choices:
        return Piece(Delta(usage=usage), False)
    choice = answer.choices[0]
    message = choice.delta or MessagePiece(content=choice.text)
    calls = tuple(
        ToolCallDelta(
            index=index_of(piece),
            id=piece.id,
            name=piece.function.name,
            arguments=_arguments(piece),
        )
        for piece in message.tool_calls or ()
    )
    delta = Delta(
        text=_text(message.content) or "",
        tool_calls=calls,
        logprobs=_logprobs(choice.logprobs),
        finish_reason=choice.finish_reason,
        usage=usage,
        refusal=message.refusal or "",
    )
    thinks = bool(message.reasoning_content or message.reasoning)
    return Piece(delta, bool(delta.text or calls or delta.refusal or delta.finish_reason or thinks))


def read_usage(usage: WireUsage | None) -> Usage | None:
    """Return the server's count, or None when it gave none."""
    if usage is None or usage.prompt_tokens is None:
        return None
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return Usage(
        prompt_tokens=max(0, usage.prompt_tokens),
        completion_tokens=max(0, usage.completion_tokens or 0),
        cached_tokens=max(0, cached or 0),
    )


def estimate_usage(call: Call, written_chars: int) -> Usage:
    """Guess the tokens from the characters; marked as estimated."""
    asked = len(call.prompt or "")
    if call.prompt is None:
        asked = sum(_chars(message.content) + 8 for message in call.messages)
        asked += sum(len(c.name) + len(c.arguments) for message in call.messages for c in message.tool_calls)
        asked += sum(len(msgspec.json.encode(tool)) for tool in call.tools)
    return Usage(
        prompt_tokens=max(1, -(-asked // CHARS_PER_TOKEN)),
        completion_tokens=-(-written_chars // CHARS_PER_TOKEN),
        estimated=True,
    )


def _chars(content: str | list[dict[str, Any]] | None) -> int:
    if isinstance(content, list):
        return sum(len(str(part.get("text") or "")) for part in content)
    return len(content or "")


def _text(content: str | list[dict[str, Any]] | None) -> str | None:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content


def _arguments(piece: ToolCallPiece) -> str:
    arguments = piece.function.arguments
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _logprobs(logprobs: Logprobs | None) -> tuple[TokenLogprob, ...]:
    if logprobs is None:
        return ()
    if logprobs.content is not None:
        return tuple(
            TokenLogprob(item.token, item.logprob, tuple((t.token, t.logprob) for t in item.top_logprobs or ()))
            for item in logprobs.content
        )
    tokens, values = logprobs.tokens or [], logprobs.token_logprobs or []
    tops: list[dict[str, float] | None] = logprobs.top_logprobs or [None] * len(tokens)
    return tuple(
        TokenLogprob(token, value, tuple(sorted((top or {}).items(), key=lambda item: -item[1])))
        for token, value, top in zip(tokens, values, tops, strict=False)
        if value is not None
    )
