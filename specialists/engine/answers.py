"""OpenAI's answer bodies, whole and in chunks, for chat and for completions. Pure."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from specialists.engine.sequence import Delta, TokenLogprob

Shown = Callable[[int], str]
Json = dict[str, Any]


class Heading(msgspec.Struct, frozen=True):
    """What every chunk of one answer repeats."""

    chat: bool
    model: str
    prompt_tokens: int
    id: str
    created_s: int

    @classmethod
    def new(cls, chat: bool, model: str, prompt_tokens: int) -> Heading:
        """A heading with a fresh id."""
        return cls(chat, model, prompt_tokens, f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", int(time.time()))

    def body(self, choices: list[Json], *, chunk: bool) -> Json:
        """The envelope around `choices`."""
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.model, "choices": choices}


def usage(heading: Heading, completion_tokens: int, cached_tokens: int) -> Json:
    """Token counts; `cached_tokens` are the prompt tokens that were not computed again."""
    return {
        "prompt_tokens": heading.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": heading.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def whole(heading: Heading, deltas: list[Delta], shown: Shown, wants_logprobs: bool) -> Json:
    """The unstreamed answer."""
    text = "".join(delta.text for delta in deltas)
    tokens = [token for delta in deltas for token in delta.logprobs]
    last = deltas[-1]
    choice: Json = {"index": 0, "finish_reason": last.finish_reason, "logprobs": None}
    choice |= {"message": {"role": "assistant", "content": text}} if heading.chat else {"text": text}
    if wants_logprobs:
        choice["logprobs"] = _logprobs(heading, tokens, shown, 0)
    return heading.body([choice], chunk=False) | {"usage": usage(heading, last.completion_tokens, last.cached_tokens)}


def role_chunk(heading: Heading) -> Json:
    """The first chunk of a chat stream."""
    return heading.body(
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}], chunk=True
    )


def chunk(heading: Heading, delta: Delta, shown: Shown, wants_logprobs: bool, offset: int) -> Json:
    """One chunk of a stream; `offset` counts the characters sent before."""
    choice: Json = {"index": 0, "finish_reason": delta.finish_reason, "logprobs": None}
    choice |= {"delta": {"content": delta.text}} if heading.chat else {"text": delta.text}
    if wants_logprobs and delta.logprobs:
        choice["logprobs"] = _logprobs(heading, list(delta.logprobs), shown, offset)
    return heading.body([choice], chunk=True)


def usage_chunk(heading: Heading, last: Delta) -> Json:
    """The chunk after the last, when `stream_options.include_usage` asks for it."""
    return heading.body([], chunk=True) | {"usage": usage(heading, last.completion_tokens, last.cached_tokens)}


def _logprobs(heading: Heading, tokens: list[TokenLogprob], shown: Shown, offset: int) -> Json:
    return (
        {"content": [_chat_token(token, shown) for token in tokens]} if heading.chat else _legacy(tokens, shown, offset)
    )


def _chat_token(token: TokenLogprob, shown: Shown) -> Json:
    top = [_entry(shown(token_id), logprob) for token_id, logprob in token.top]
    return _entry(shown(token.token_id), token.logprob) | {"top_logprobs": top}


def _entry(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", errors="replace"))}


def _legacy(tokens: list[TokenLogprob], shown: Shown, offset: int) -> Json:
    texts = [shown(token.token_id) for token in tokens]
    starts = [offset + sum(map(len, texts[:index])) for index in range(len(texts))]
    tops = [
        {shown(i): logprob for i, logprob in token.top} | {text: token.logprob}
        for text, token in zip(texts, tokens, strict=True)
    ]
    return {"tokens": texts, "token_logprobs": [t.logprob for t in tokens], "top_logprobs": tops, "text_offset": starts}
