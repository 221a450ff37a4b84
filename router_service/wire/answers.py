"""OpenAI's answers, whole and as chunks, made from the backends' domain values by hand."""

from __future__ import annotations

from typing import Any

import msgspec

from specialists.calls import Completion, Delta, TokenLogprob, Usage

_ENCODER = msgspec.json.Encoder()

DONE = b"data: [DONE]\n\n"


def completion_bytes(call_id: str, created: int, model: str, answer: Completion, *, with_logprobs: bool) -> bytes:
    """The body of a non-streamed chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(answer.logprobs) if with_logprobs else None,
        "finish_reason": answer.finish_reason,
    }
    return _ENCODER.encode(
        {
            "id": call_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [choice],
            "usage": usage_of(answer.usage),
        }
    )


def chunk_bytes(call_id: str, created: int, model: str, delta: dict[str, Any], **choice: Any) -> bytes:
    """One server-sent event with one chunk. `choice`: finish_reason, logprobs, and `journeyman` for the last."""
    body: dict[str, Any] = {
        "id": call_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "delta": delta,
                "logprobs": choice.get("logprobs"),
                "finish_reason": choice.get("finish_reason"),
            }
        ],
    }
    if "journeyman" in choice:
        body["journeyman"] = choice["journeyman"]
    return sse(body)


def usage_chunk_bytes(call_id: str, created: int, model: str, usage: Usage) -> bytes:
    """The last chunk of a stream that asked for its usage: no choices, only tokens."""
    return sse(
        {
            "id": call_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "choices": [],
            "usage": usage_of(usage),
        }
    )


def delta_fields(delta: Delta) -> dict[str, Any]:
    """The `delta` object of a chunk."""
    fields: dict[str, Any] = {}
    if delta.text:
        fields["content"] = delta.text
    if delta.refusal:
        fields["refusal"] = delta.refusal
    if delta.tool_calls:
        fields["tool_calls"] = [_tool_call_delta(piece) for piece in delta.tool_calls]
    return fields


def _tool_call_delta(piece: Any) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": piece.arguments}
    fields: dict[str, Any] = {"index": piece.index, "function": function}
    if piece.id is not None:
        fields |= {"id": piece.id, "type": "function"}
    if piece.name is not None:
        function["name"] = piece.name
    return fields


def logprobs_of(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
    """OpenAI's `logprobs` object, or None when there are none."""
    return _logprobs(tokens) if tokens else None


def _logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    return {"content": [_token(t.token, t.logprob) | {"top_logprobs": [_token(*top) for top in t.top]} for t in tokens]}


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def sse(body: Any) -> bytes:
    """One `data:` event."""
    return b"data: " + _ENCODER.encode(body) + b"\n\n"
