"""Whether one recorded call is worth learning from, and as what: its believed answer, or the reason to leave it out.

In this order: safety, cost, shape (one user message of text), who was believed, whose answer it is, and whether the
answer is whole. Knows one call at a time; duplicates, caps and evaluation splits are the matter of others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.curate_rows import FixedPart, RecordedCall
from pipelines.loop_rows import AnswerSource, CuratedCall
from pipelines.surrogates import Surrogates, placeholders_in
from policies.answers import Answer, AnsweredToolCall, Expectation, Verdict
from policies.verify import VERIFIED, Verifier
from registry.errors import InvalidRequestError
from specialists.templates import parse_tool_calls

REASONS: Final[Mapping[str, str]] = {
    "erased": "somebody had its content erased",
    "not_kept": "its text was not kept: the tenant's content mode is hash or none",
    "withheld": "its text was withheld when it was recorded: redaction could not clear it",
    "unreadable": "its record is not in a form that is known here",
    "refused": "the answer is a refusal, or a content filter stopped it",
    "over_cost": "it cost more than the ceiling",
    "several_turns": "it is more than one user message, and a specialist's template holds only that",
    "no_text": "its last message has no text",
    "too_long": "its message is longer than the limit",
    "failed": "it got no answer: it failed or was cancelled",
    "contradicted": "feedback says that the answer was wrong, and not what was right",
    "unverified": "neither the verifier nor any feedback believed the answer",
    "not_frontier": "neither the frontier nor a correction gave the answer",
    "truncated": "the answer was cut off",
    "unclear_correction": "the correction cannot be read as the kind of answer, or names data that it leaves open",
    "malformed": "the answer does not fit the call's tools or format, as far as it was kept",
    "unseen_data": "the answer holds redacted data that is not in the input: nobody could learn it",
    "contaminated": "its input is in an evaluation split",
    "duplicate": "a newer or better judged call of the same agent says nearly the same",
    "end_user_cap": "its end user has enough calls of this template",
    "template_cap": "its template has enough calls",
}
"""Why a call is left out, in the order in which the reasons are looked for. The first one counts."""

_NOT_BELIEVED: Final = frozenset({"failed", "cancelled"})


class FilterOptions(Struct, frozen=True):
    """What passes."""

    max_cost_usd: float = 1.0
    """Of the whole call, all its attempts."""
    min_score: float = 0.5
    """Feedback below it contradicts an answer, from it on it confirms one."""
    max_input_chars: int = 32_000
    specialists_too: bool = False
    """Also take verified answers that the frontier did not give. A specialist that learns from its own answers learns
    its own errors."""


class Curated(Struct, frozen=True):
    """A call that passed. `redacted_input` is its input before surrogates."""

    call: CuratedCall
    redacted_input: str


class _Turn(Struct):
    role: str = ""
    content: Any = None
    tool_calls: Any = None


class _Believed(Struct, frozen=True):
    """The answer to learn, and who vouches for it."""

    source: AnswerSource
    text: str | None
    tool_calls: tuple[AnsweredToolCall, ...] = ()
    finish_reason: str = "stop"


_TURNS: Final = msgspec.json.Decoder(list[_Turn])
_COUNTS: Final = msgspec.json.Decoder(dict[str, int])
_TOOL_CALLS: Final = msgspec.json.Decoder(list[AnsweredToolCall])


class CallFilter:
    """Judges calls one by one. Keeps compiled schemas."""

    def __init__(self, options: FilterOptions) -> None:
        self._options = options
        self._verifier = Verifier(check_truncated_text=True)

    def judge(self, call: RecordedCall, fixed: FixedPart) -> Curated | str:
        """Return the call with its believed answer, or the reason's key in `REASONS`."""
        try:
            return self._judged(call, fixed)
        except msgspec.DecodeError:  # one odd record must not end the run
            return "unreadable"

    def _judged(self, call: RecordedCall, fixed: FixedPart) -> Curated | str:
        if call.erased_at_ms is not None:
            return "erased"
        if call.messages is None:
            return "withheld" if call.withheld else "not_kept"
        if call.withheld:
            return "withheld"
        if call.cost_usd > self._options.max_cost_usd:
            return "over_cost"
        asked, reason = self._input(call.messages)
        if reason:
            return reason
        believed = self._believed(call)
        if isinstance(believed, str):
            return believed
        if believed.source != "correction" and not self._is_teachers(call):
            return "not_frontier"
        return self._completed(call, fixed, asked, believed)

    def _input(self, messages: str) -> tuple[str, str]:
        """Return the one user message's text, or "" and a reason."""
        turns = _TURNS.decode(messages)
        if len(turns) != 1 or turns[0].role != "user":
            return "", "several_turns" if turns else "no_text"
        text = turns[0].content
        if not isinstance(text, str) or not text.strip():
            return "", "no_text"
        return (text, "") if len(text) <= self._options.max_input_chars else ("", "too_long")

    def _believed(self, call: RecordedCall) -> _Believed | str:
        if call.said_correction and call.said_correction.strip():
            return _corrected(call)
        if call.outcome in _NOT_BELIEVED:
            return "failed"
        score = call.said_score
        if call.said_outcome == "failure" or (score is not None and score < self._options.min_score):
            return "contradicted"
        is_praised = call.said_outcome == "success" or score is not None
        if call.outcome != "verified" and not is_praised:
            return "unverified"
        tool_calls = tuple(_TOOL_CALLS.decode(call.answer_tool_calls)) if call.answer_tool_calls else ()
        source: AnswerSource = "feedback" if is_praised else "verified"
        return _Believed(source, call.answer_text, tool_calls, call.finish_reason or "stop")

    def _is_teachers(self, call: RecordedCall) -> bool:
        """The frontier's own answer. Where no frontier is on record, any that no specialist (`name@digest`) gave."""
        if self._options.specialists_too:
            return True
        return call.served_by == call.frontier if call.frontier else "@" not in call.served_by

    def _completed(self, call: RecordedCall, fixed: FixedPart, asked: str, believed: _Believed) -> Curated | str:
        """Check the answer's shape and put surrogates in."""
        taken_out = _COUNTS.decode(call.redactions) if call.redactions else {}
        if believed.source == "correction":
            aligned = _aligned(believed, asked, taken_out)
            if isinstance(aligned, str):
                return aligned
            believed = aligned
        elif placeholders_in(_answer_of(believed), taken_out) - placeholders_in(asked, taken_out):
            return "unseen_data"
        surrogates = Surrogates(call.call_id, taken_out)
        text = surrogates.fill(asked)
        answer = _filled(believed, surrogates)
        fault = self._fault(answer, fixed, f"{call.tenant}:{call.signature}")
        return fault or Curated(_curated(call, fixed, text, answer), asked)

    def _fault(self, answer: _Believed, fixed: FixedPart, digest: str) -> str | None:
        verdict = self._verdict(Answer(answer.text, answer.tool_calls, answer.finish_reason), fixed, digest)
        if verdict.believed:
            return None
        if verdict.check == "truncated":
            return "truncated"
        return "refused" if verdict.outcome == "unsure" else "malformed"

    def _verdict(self, answer: Answer, fixed: FixedPart, digest: str) -> Verdict:
        """What the verifier says, as far as there is something to hold the answer against."""
        if fixed.known:
            with contextlib.suppress(InvalidRequestError):  # a schema that redaction went over
                return self._verifier.verify(answer, _expectation(fixed, digest))
        if not answer.tool_calls:
            return self._verifier.verify(answer, Expectation())
        return Verdict("malformed", "truncated") if answer.finish_reason == "length" else VERIFIED


def _corrected(call: RecordedCall) -> _Believed | str:
    """A correction as an answer of the same kind as the recorded one."""
    text = (call.said_correction or "").strip()
    if not call.answer_tool_calls:
        return _Believed("correction", text)
    made = parse_tool_calls(text)
    if made is None:
        return "unclear_correction"
    return _Believed("correction", None, tuple(AnsweredToolCall(one.name, one.arguments) for one in made))


def _aligned(believed: _Believed, asked: str, taken_out: Mapping[str, int]) -> _Believed | str:
    """Give a correction's placeholders the input's numbers: it was redacted on its own, so its numbers are its own.

    Only where each kind has one value on both sides is it clear which is which.
    """
    there, said = _by_kind(asked, taken_out), _by_kind(_answer_of(believed), taken_out)
    if any(kind not in there for kind in said):
        return "unseen_data"
    if any(len(numbers) > 1 or len(there[kind]) > 1 for kind, numbers in said.items()):
        return "unclear_correction"
    names = {f"<{kind}_{min(numbers)}>": f"<{kind}_{min(there[kind])}>" for kind, numbers in said.items()}
    return _each_text(believed, lambda text: _renamed(text, names))


def _by_kind(text: str, taken_out: Mapping[str, int]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for kind, number in placeholders_in(text, taken_out):
        found.setdefault(kind, set()).add(number)
    return found


def _renamed(text: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def _answer_of(believed: _Believed) -> str:
    return "\n".join([believed.text or "", *(f"{one.name} {one.arguments}" for one in believed.tool_calls)])


def _filled(believed: _Believed, surrogates: Surrogates) -> _Believed:
    return _each_text(believed, surrogates.fill)


def _each_text(believed: _Believed, change: Callable[[str], str]) -> _Believed:
    return _Believed(
        source=believed.source,
        text=None if believed.text is None else change(believed.text),
        tool_calls=tuple(AnsweredToolCall(one.name, change(one.arguments)) for one in believed.tool_calls),
        finish_reason=believed.finish_reason,
    )


def _expectation(fixed: FixedPart, digest: str) -> Expectation:
    form = fixed.response_format or {}
    schema = form.get("json_schema")
    return Expectation(
        json_schema=schema.get("schema") if isinstance(schema, dict) else None,
        json_object=form.get("type") in ("json_object", "json_schema"),
        tools=tuple(fixed.tools or ()),
        digest=digest,
    )


def _curated(call: RecordedCall, fixed: FixedPart, text: str, answer: _Believed) -> CuratedCall:
    made = [{"name": one.name, "arguments": one.arguments} for one in answer.tool_calls]
    return CuratedCall(
        call_id=call.call_id,
        at_ms=call.at_ms,
        tenant=call.tenant,
        end_user=call.end_user,
        signature=call.signature,
        cluster=call.cluster,
        cluster_source=call.cluster_source,
        input=text,
        system=fixed.system,
        tool_names=fixed.tool_names,
        tools=fixed.tools,
        response_format=fixed.response_format,
        answer_text=answer.text,
        answer_tool_calls=made or None,
        answer_source=answer.source,
        served_by=call.served_by,
        frontier=call.frontier,
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.completion_tokens,
        cost_usd=call.cost_usd,
        frontier_cost_usd=call.frontier_cost_usd,
        latency_ms=call.latency_ms,
    )
