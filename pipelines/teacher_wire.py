"""OpenAI's JSON for the teacher's answers: tokens, completions, chunks and log-probabilities.

It knows the wire format only; what is answered comes in as an `Answer`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from pipelines.graders import Answer, ToolCall
from pipelines.teacher import message_text

_PIECE: Final = re.compile(r"\s?\S{1,4}|\s+")
_MESSAGE_OVERHEAD_TOKENS: Final = 4


def pieces(text: str) -> list[str]:
    """Token-like pieces: at most about four characters, blanks in front; joined they are the text."""
    return _PIECE.findall(text)


class Completion(msgspec.Struct, frozen=True):
    """What one call is answered with, cut to its token limit, and what it used."""

    id: str
    model: str
    created: int
    answer: Answer
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: bool = False
    sure: bool = True

    def usage(self) -> dict[str, Any]:
        """Token counts, about four characters a token."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


def complete(body: Mapping[str, Any], answer: Answer, *, ident: str, created: int, sure: bool) -> Completion:
    """Apply the request's token limit to an answer and count tokens."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    text, finish = answer.text, "tool_calls" if answer.tool_calls else "stop"
    parts = pieces(text)
    calls = sum(len(pieces(call.name)) + len(pieces(call.arguments)) for call in answer.tool_calls)
    if limit and len(parts) + calls > limit:
        finish = "length"
        answer, parts, calls = _cut(answer, int(limit))
    return Completion(
        id=ident,
        model=str(body.get("model")),
        created=created,
        answer=answer,
        finish_reason=finish,
        prompt_tokens=prompt_tokens(body),
        completion_tokens=max(1, len(parts) + calls),
        logprobs=bool(body.get("logprobs")),
        sure=sure,
    )


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of the messages, the tools and the response format."""
    texts = [message_text(message) for message in body.get("messages") or ()]
    extra = [msgspec.json.encode(body[key]).decode() for key in ("tools", "response_format") if body.get(key)]
    chars = sum(map(len, [*texts, *extra]))
    return chars // 4 + _MESSAGE_OVERHEAD_TOKENS * len(texts)


def as_response(done: Completion) -> dict[str, Any]:
    """The body of a call that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": done.answer.text or None, "refusal": None}
    if done.answer.tool_calls:
        message["tool_calls"] = [_call_json(done, at) for at in range(len(done.answer.tool_calls))]
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": done.finish_reason, "logprobs": None}
    if done.logprobs:
        choice["logprobs"] = {"content": logprobs(done), "refusal": None}
    return _head(done, "chat.completion") | {"choices": [choice], "usage": done.usage()}


def as_chunks(done: Completion, *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed call, without the closing `[DONE]`."""
    yield _chunk(done, {"role": "assistant", "content": "" if done.answer.text else None})
    told = logprobs(done) if done.logprobs else []
    for at, piece in enumerate(pieces(done.answer.text)):
        yield _chunk(done, {"content": piece}, told=told[at : at + 1])
    for at, call in enumerate(done.answer.tool_calls):
        first = _call_json(done, at) | {"index": at}
        first["function"] = {"name": call.name, "arguments": ""}
        yield _chunk(done, {"tool_calls": [first]})
        for piece in pieces(call.arguments):
            yield _chunk(done, {"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
    yield _chunk(done, {}, finish=done.finish_reason)
    if include_usage:
        yield _head(done, "chat.completion.chunk") | {"choices": [], "usage": done.usage()}


def logprobs(done: Completion) -> list[dict[str, Any]]:
    """One entry a token: nearly certain, save for one doubtful token in a wrong answer. Invented, but repeatable."""
    rng = random.Random(f"logprobs:{done.answer.text}")  # noqa: S311
    parts = pieces(done.answer.text)
    values = [-abs(rng.gauss(0, 0.02)) for _ in parts]
    if parts and not done.sure:
        values[rng.randrange(len(parts))] = -rng.uniform(0.4, 1.6)
    return [
        {"token": part, "logprob": value, "bytes": list(part.encode()), "top_logprobs": []}
        for part, value in zip(parts, values, strict=True)
    ]


def _cut(answer: Answer, limit: int) -> tuple[Answer, list[str], int]:
    parts = pieces(answer.text)[:limit]
    left, calls, used = limit - len(parts), [], 0
    for call in answer.tool_calls:
        kept = pieces(call.arguments)[: max(0, left - len(pieces(call.name)))]
        if left <= 0:
            break
        calls.append(ToolCall(call.name, "".join(kept)))
        spent = len(pieces(call.name)) + len(kept)
        left, used = left - spent, used + min(spent, left)
    return Answer("".join(parts), tuple(calls)), parts, used


def _head(done: Completion, kind: str) -> dict[str, Any]:
    return {"id": done.id, "object": kind, "created": done.created, "model": done.model}


def _chunk(
    done: Completion, delta: dict[str, Any], *, finish: str | None = None, told: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": {"content": told} if told else None}
    return _head(done, "chat.completion.chunk") | {"choices": [choice]}


def _call_json(done: Completion, at: int) -> dict[str, Any]:
    call = done.answer.tool_calls[at]
    return {
        "id": f"call_{done.id[-12:]}_{at}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
