"""Puts the pieces of a streamed answer together. Knows nothing of where the pieces came from."""

from __future__ import annotations

from .calls import Completion, Delta, TokenLogprob, ToolCall, ToolCallDelta, Usage


class Collector:
    """Takes deltas in order; `completion()` is what has come so far."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, _PartialCall] = {}
        self.finish_reason: str | None = None
        self.usage: Usage | None = None

    def add(self, delta: Delta) -> None:
        """Take the next piece."""
        if delta.text:
            self._text.append(delta.text)
        if delta.refusal:
            self._refusal.append(delta.refusal)
        self._logprobs.extend(delta.logprobs)
        for piece in delta.tool_calls:
            self._calls.setdefault(piece.index, _PartialCall()).add(piece)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage

    def completion(self) -> Completion:
        """What has come so far; usage is estimated (four characters a token) when none came."""
        text = "".join(self._text)
        calls = tuple(call.whole(index) for index, call in sorted(self._calls.items()))
        spent = len(text) + sum(len(call.name) + len(call.arguments) for call in calls)
        return Completion(
            text=text if text or not calls else None,
            tool_calls=calls,
            finish_reason=self.finish_reason or "stop",
            usage=self.usage or Usage(completion_tokens=-(-spent // 4), estimated=True),
            logprobs=tuple(self._logprobs),
            refusal="".join(self._refusal) or None,
        )


class _PartialCall:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def add(self, piece: ToolCallDelta) -> None:
        self.id = piece.id or self.id
        self.name = piece.name or self.name
        self.arguments.append(piece.arguments)

    def whole(self, index: int) -> ToolCall:
        return ToolCall(id=self.id or f"call_{index}", name=self.name, arguments="".join(self.arguments))
