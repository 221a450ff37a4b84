"""What clients send, decoded and checked: OpenAI's fields, and those of vLLM's that the gateway uses. Unknown
fields are passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from registry.errors import InvalidRequestError
from specialists.engine.sequence import Sampling

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1)]


class StreamOptions(msgspec.Struct, frozen=True):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class _Common(msgspec.Struct, frozen=True, kw_only=True):
    model: str = ""
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Common, frozen=True, kw_only=True):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def most_new_tokens(self) -> int | None:
        """The bound on the answer; None is up to the end of the context."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Alternatives to report with each token; None reports no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Common, frozen=True, kw_only=True):
    """Body of /v1/completions: one prompt, as text or token ids."""

    prompt: str | list[int | str | list[int]] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = None

    @property
    def most_new_tokens(self) -> int | None:
        """The bound on the answer: OpenAI's default is 16."""
        return self.max_tokens or 16

    @property
    def alternatives(self) -> int | None:
        """Alternatives to report with each token; None reports no log-probabilities."""
        return self.logprobs

    def one_prompt(self) -> str | list[int]:
        """The prompt. Raises InvalidRequestError for none or several."""
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise InvalidRequestError(f"{len(prompt)} prompts in one request; send one at a time", param="prompt")
            prompt = prompt[0]  # type: ignore[assignment]
        if isinstance(prompt, str) and prompt:
            return prompt
        if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
            return prompt  # type: ignore[return-value]
        raise InvalidRequestError("prompt must be text or token ids, and not empty", param="prompt")


Body = TypeVar("Body", ChatRequest, CompletionRequest)


class AdapterRequest(msgspec.Struct, frozen=True):
    """Body of vLLM's adapter routes."""

    lora_name: str = ""
    lora_path: str = ""


def decode(body: bytes, kind: type[Body]) -> Body:
    """Decodes a request. Raises InvalidRequestError with the path of what is wrong."""
    try:
        request = msgspec.json.decode(body, type=kind, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        path = str(error).rpartition("`$.")[2].rstrip("`") if "`$." in str(error) else None
        raise InvalidRequestError(f"request body: {error}", param=path) from error
    if request.n not in (None, 1):
        raise InvalidRequestError(f"n is {request.n}; this engine gives one answer a request", param="n")
    if isinstance(request, CompletionRequest) and (request.echo or request.suffix or request.best_of not in (None, 1)):
        raise InvalidRequestError("echo, suffix and best_of are not served by this engine", param="echo")
    return request


def sampling_of(request: ChatRequest | CompletionRequest, max_tokens: int) -> Sampling:
    """The request's sampling, in the engine's words."""
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=min(request.min_tokens, max_tokens),
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(request.top_k or 0, 0),
        seed=request.seed,
        stop=tuple(stop for stop in stops if stop),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=request.ignore_eos,
        top_logprobs=request.alternatives,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias=_biases(request.logit_bias or {}),
    )


def _biases(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    try:
        return tuple((int(token), bias) for token, bias in biases.items())
    except ValueError as error:
        raise InvalidRequestError(f"logit_bias: keys are token ids ({error})", param="logit_bias") from error
