"""An answer as the checks see it, and what the call demands of it. Converted by hand from the backends' values."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class AnsweredToolCall(Struct, frozen=True):
    """A tool call of an answer; `arguments` is JSON text."""

    name: str
    arguments: str


class Answer(Struct, frozen=True):
    """One candidate's whole answer."""

    text: str | None
    tool_calls: tuple[AnsweredToolCall, ...] = ()
    finish_reason: str = "stop"
    refusal: str | None = None
    confidence: float | None = None
    """Sum of the token log-probabilities; None when the backend gave none."""
    unreadable: bool = False
    """A specialist's answer that is not in its own form: half a tool call, say, which looks like plain text."""


class Expectation(Struct, frozen=True):
    """What the call demands: the shape that any believable answer has."""

    json_schema: dict[str, Any] | None = None
    json_object: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    """OpenAI tool definitions."""
    tool_choice: str | dict[str, Any] | None = None
    digest: str = ""
    """Equal for equal expectations, so that compiled validators can be kept."""


class Verdict(Struct, frozen=True):
    """Whether an answer is to be believed."""

    outcome: Literal["verified", "malformed", "unsure"]
    check: str = ""
    """json, schema, tool_name, tool_arguments, tool_missing, truncated, refusal, content_filter, empty, confidence."""
    reason: str = ""

    @property
    def believed(self) -> bool:
        """True when every check passed."""
        return self.outcome == "verified"
