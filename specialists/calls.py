"""The domain values of one call to a backend: what is asked, what comes back, whole or in pieces.

Not OpenAI's wire types (router_service/wire, specialists/openai_wire) and not the stored records: converted by hand.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class ToolCall(Struct, frozen=True):
    """One tool call of an answer. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True, omit_defaults=True):
    """One message of a conversation. `content` is text, a list of OpenAI content parts, or None."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Sampling(Struct, frozen=True, omit_defaults=True):
    """How to draw tokens. None leaves the backend's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class Call(Struct, frozen=True):
    """What a backend is asked. `model` is the backend's own name for the model or adapter.

    With `prompt` set, the call goes to `/v1/completions` and `messages` are not sent: a specialist's template.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    sampling: Sampling = Sampling()
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    tenant: str = ""
    """Whose call it is, so that tenants share no prefix cache; never sent as it is. Empty: the gateway's own."""


class TokenLogprob(Struct, frozen=True):
    """One sampled token with its natural-log probability and the alternatives, likeliest first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Usage(Struct, frozen=True):
    """Tokens in and out. `estimated` when the backend did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False


class ToolCallDelta(Struct, frozen=True):
    """A piece of the tool call at `index`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(Struct, frozen=True):
    """One piece of a streamed answer. The last has `finish_reason`; `usage` may come with it or after it."""

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    refusal: str = ""


class Completion(Struct, frozen=True):
    """A whole answer."""

    text: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage = Usage()
    logprobs: tuple[TokenLogprob, ...] = ()
    refusal: str | None = None
    unreadable: bool = False
    """It is not in the form that its specialist's template has."""
