"""Turns believed calls into examples: the prompt as the gateway renders it, and the text that should be learnt for it.

Each example is read back and checked by the live verifier before it counts, so nothing is taught that would be
refused. Knows nothing of files or splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.loop_rows import CuratedCall
from policies.answers import Answer, AnsweredToolCall, Expectation
from policies.verify import Verifier
from registry.entries import TemplateEntry
from registry.errors import BadInputError, InvalidRequestError
from registry.identifiers import digest_of
from specialists.calls import Completion, ToolCall
from specialists.templates import answer_text, prompt_text, read_answer

LEAST_SHARE_OF_ONE_SIGNATURE: Final = 0.95
"""From this share on a cluster counts as one signature's, and the other calls are left out."""


class Shape(Struct, frozen=True):
    """What a call demands of its answer: the part of its signature that the verifier needs."""

    response_format: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def digest(self) -> str:
        """Equal for equal shapes."""
        return digest_of(msgspec.to_builtins(self))

    def expectation(self) -> Expectation:
        """As the verifier wants it."""
        form = self.response_format
        schema = form["json_schema"].get("schema") if form and form.get("type") == "json_schema" else None
        wants_json = form is not None and form.get("type") != "text"
        return Expectation(json_schema=schema, json_object=wants_json, tools=self.tools, digest=self.digest)


class Example(Struct, frozen=True, kw_only=True):
    """One line of a dataset."""

    call_id: str
    prompt: str
    completion: str
    also: tuple[str, ...] = ()
    """Other calls that said the same and were answered the same; they are in here as well."""
    shape: str = ""
    """Digest of the `Shape` that the answer must have."""
    answer_source: str = "verified"
    at_ms: int = 0
    served_by: str = ""
    """Who answered the recorded call; the figures are that answer's."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    frontier_cost_usd: float = 0.0
    latency_ms: float = 0.0

    @property
    def call_ids(self) -> tuple[str, ...]:
        """Every call that is in this line."""
        return (self.call_id, *self.also)

    @property
    def is_judged(self) -> bool:
        """Whether a person said that the answer is right, or what would have been."""
        return self.answer_source in ("feedback", "correction")


def template_of(calls: Sequence[CuratedCall]) -> TemplateEntry:
    """Return the template that fits the calls of one task: how they are answered, and for which signature.

    The kind of answer is that of most calls. The signature is None where no single one has nearly all calls.
    """
    if not calls:
        raise BadInputError("There are no calls to make a template from.")
    kinds = Counter(_kind(call) for call in calls)
    signature, count = Counter(call.signature for call in calls).most_common(1)[0]
    alone = count >= LEAST_SHARE_OF_ONE_SIGNATURE * len(calls)
    return TemplateEntry(answer=kinds.most_common(1)[0][0], signature=signature if alone else None)  # type: ignore[arg-type]


def shape_of(call: CuratedCall) -> Shape:
    """Return what the call demanded."""
    return Shape(call.response_format, tuple(call.tools or ()))


def example_of(template: TemplateEntry, call: CuratedCall, verifier: Verifier) -> Example | str:
    """Return the call as an example, or in words why it is none."""
    if template.signature is not None and call.signature != template.signature:
        return "another signature"
    if not call.input.strip():
        return "no text in the last user message"
    completion = answer_text(template, _answer(call))
    if completion is None:
        return f"its answer is no {template.answer.replace('_', ' ')}"
    shape = shape_of(call)
    fault = fault_of(template, completion, shape, verifier)
    if fault is not None:
        return fault
    return Example(
        call_id=call.call_id,
        prompt=prompt_text(template, call.input),
        completion=completion,
        shape=shape.digest,
        **{name: getattr(call, name) for name in _COPIED},
    )


def fault_of(template: TemplateEntry, completion: str, shape: Shape, verifier: Verifier) -> str | None:
    """Return why the verifier would not believe the completion, None when it would."""
    read = read_answer(template, Completion(completion))
    answer = answer_of(read)
    try:
        verdict = verifier.verify(answer, shape.expectation())
    except InvalidRequestError:
        return "its own tools or response format cannot be checked"
    return None if verdict.believed else f"{verdict.outcome}: {verdict.check}"


def answer_of(completion: Completion, confidence: float | None = None) -> Answer:
    """Return a completion as the verifier wants it."""
    calls = tuple(AnsweredToolCall(call.name, call.arguments) for call in completion.tool_calls)
    return Answer(
        completion.text, calls, completion.finish_reason, completion.refusal, confidence, completion.unreadable
    )


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """Return how often each reason came, the most frequent first."""
    return dict(Counter(reasons).most_common())


_COPIED: Final = (
    "answer_source",
    "at_ms",
    "served_by",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "frontier_cost_usd",
    "latency_ms",
)


def _kind(call: CuratedCall) -> str:
    if call.answer_tool_calls:
        return "tool_call"
    form = call.response_format
    if form is not None and form.get("type") != "text":
        return "json"
    try:
        value = msgspec.json.decode(call.answer_text or "")
    except (msgspec.DecodeError, ValueError, RecursionError):
        return "text"
    return "json" if isinstance(value, dict | list) else "text"


def _answer(call: CuratedCall) -> Completion:
    calls = tuple(
        ToolCall("", str(one.get("name")), _arguments(one.get("arguments"))) for one in call.answer_tool_calls or ()
    )
    return Completion(call.answer_text, calls)


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
