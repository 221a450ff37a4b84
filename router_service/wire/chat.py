"""OpenAI's chat completion request, as callers send it, decoded strictly enough to name the field that is wrong.

Fields that are not listed here are dropped, as the API's clients may be newer than we are: nothing unknown travels
to a backend. What would change the answer a caller pays for (`n`, `best_of`, `functions`) is refused by name instead.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from registry.errors import InvalidRequestError

Role = Literal["system", "developer", "user", "assistant", "tool"]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Limit = Annotated[int, Meta(ge=1, le=1_000_000)]
ShortText = Annotated[str, Meta(max_length=512)]


class FunctionCallIn(Struct):
    """The function of a tool call in the history."""

    name: ShortText
    arguments: str = ""


class ToolCallIn(Struct):
    """A tool call in the history."""

    id: ShortText
    function: FunctionCallIn
    type: Literal["function"] = "function"


class ContentPart(Struct):
    """A part of a message's content. Only text is served."""

    type: str
    text: str = ""
    refusal: str = ""


class MessageIn(Struct):
    """A message of the conversation."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: ShortText | None = None
    tool_calls: list[ToolCallIn] | None = None
    tool_call_id: ShortText | None = None


class FunctionIn(Struct, omit_defaults=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolIn(Struct):
    """A tool that the model may call."""

    function: FunctionIn
    type: Literal["function"] = "function"


class JsonSchemaIn(Struct, omit_defaults=True):
    """The schema of a structured output."""

    name: ShortText
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormatIn(Struct, omit_defaults=True):
    """`text`, `json_object` or `json_schema`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaIn | None = None


class StreamOptionsIn(Struct):
    """What a stream should carry besides the answer."""

    include_usage: bool = False


class RoutingIn(Struct, forbid_unknown_fields=True):
    """Journeyman's own hints; the same names work as `x-journeyman-<name>` headers."""

    task_type: ShortText | None = None
    latency_budget_ms: Annotated[float, Meta(gt=0)] | None = None
    max_cost_usd: Annotated[float, Meta(ge=0)] | None = None
    safety_level: ShortText | None = None
    user_tier: ShortText | None = None


class ChatRequest(Struct):
    """The body of POST /v1/chat/completions."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[MessageIn], Meta(min_length=1, max_length=4096)]
    stream: bool | None = False
    stream_options: StreamOptionsIn | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    n: int | None = 1
    best_of: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    tools: Annotated[list[ToolIn], Meta(max_length=512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormatIn | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    user: ShortText | None = None
    metadata: dict[str, str] | None = None
    routing: RoutingIn | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None
    function_call: Any = None


class AskRequest(Struct):
    """The body of POST /v1/ask: a prompt or messages, and the same options as a chat completion."""

    prompt: str | None = None
    messages: Annotated[list[MessageIn], Meta(min_length=1, max_length=4096)] | None = None
    model: Annotated[str, Meta(min_length=1, max_length=256)] = "auto"
    system: str | None = None
    max_tokens: Limit | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    n: int | None = 1
    best_of: int | None = None
    tools: Annotated[list[ToolIn], Meta(max_length=512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: ResponseFormatIn | None = None
    user: ShortText | None = None
    metadata: dict[str, str] | None = None
    routing: RoutingIn | None = None

    def as_chat(self) -> ChatRequest:
        """The same call as a chat request."""
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError("Give exactly one of `prompt` and `messages`.", param="prompt")
        messages = self.messages or [MessageIn(role="user", content=self.prompt)]
        if self.system is not None:
            messages = [MessageIn(role="system", content=self.system), *messages]
        return ChatRequest(
            model=self.model,
            messages=messages,
            stream=True,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self.stop,
            n=self.n,
            best_of=self.best_of,
            tools=self.tools,
            tool_choice=self.tool_choice,
            response_format=self.response_format,
            user=self.user,
            metadata=self.metadata,
            routing=self.routing,
        )


class FeedbackRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /v1/feedback."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    outcome: Literal["success", "failure"] | None = None
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    comment: Annotated[str, Meta(max_length=8192)] | None = None
    correction: Annotated[str, Meta(max_length=262_144)] | None = None
    source: Annotated[str, Meta(max_length=64)] = "caller"


_CHAT = msgspec.json.Decoder(ChatRequest)
_ASK = msgspec.json.Decoder(AskRequest)
_FEEDBACK = msgspec.json.Decoder(FeedbackRequest)


def decode_chat(body: bytes) -> ChatRequest:
    """Decode a chat request; InvalidRequestError names the field."""
    request: ChatRequest = _decode(_CHAT, body)
    check_supported(request)
    return request


def decode_ask(body: bytes) -> ChatRequest:
    """Decode an ask request as a chat request."""
    ask: AskRequest = _decode(_ASK, body)
    request = ask.as_chat()
    check_supported(request)
    return request


def decode_feedback(body: bytes) -> FeedbackRequest:
    """Decode feedback; at least one of outcome, score, comment, correction must be there."""
    feedback: FeedbackRequest = _decode(_FEEDBACK, body)
    told = (feedback.outcome, feedback.score, feedback.comment, feedback.correction)
    if all(part is None for part in told):
        raise InvalidRequestError("Give at least one of `outcome`, `score`, `comment`, `correction`.", param="outcome")
    return feedback


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `")
        param = path.rstrip("`").removeprefix("$").removeprefix(".") or None
        raise InvalidRequestError(f"{text}{f' (at `{param}`)' if param else ''}.", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequestError("The body is nested too deeply.") from None


def check_supported(request: ChatRequest) -> None:
    """Refuse what this gateway does not serve, by name and with the mend."""
    for count in ("n", "best_of"):
        if getattr(request, count) not in (None, 1):
            mend = "send the request again for more answers"
            raise InvalidRequestError(f"Only `{count}` = 1 is served; {mend}.", param=count)
    if request.functions is not None or request.function_call is not None:
        raise InvalidRequestError("`functions` is deprecated; use `tools`.", param="functions")
    if request.modalities not in (None, ["text"]):
        raise InvalidRequestError("Only the `text` modality is served.", param="modalities")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("`top_logprobs` needs `logprobs` to be true.", param="top_logprobs")
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        raise InvalidRequestError("`json_schema` is missing.", param="response_format.json_schema")
    for number, message in enumerate(request.messages):
        _check_parts(message, number)


def _check_parts(message: MessageIn, number: int) -> None:
    if not isinstance(message.content, list):
        return
    for index, part in enumerate(message.content):
        if part.type not in ("text", "refusal"):
            raise InvalidRequestError(
                f"Content of type `{part.type}` is not served; send text.", param=f"messages[{number}].content[{index}]"
            )
