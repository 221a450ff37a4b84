"""Scores answers against held-out examples: exactness, form, tools, confidence, latency, cost. Pure; knows no model.

Shares come with Wilson intervals (95 %). The live verifier decides what is well-formed, the graders of the workloads
what is right, and `policies.confidence` which threshold the confidences justify.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipelines.graders import Answer as GradedAnswer
from pipelines.graders import ToolCall as GradedCall
from pipelines.graders import grade
from pipelines.render import Example, Shape, answer_of
from policies.confidence import calibrate, sample_of
from policies.verify import Verifier
from registry.entries import Prices, TemplateEntry
from specialists.calls import Completion, ToolCall
from specialists.templates import read_answer

_Z: Final = NormalDist().inv_cdf(0.975)
_CURVE_STEPS: Final = 5


class Answered(Struct, frozen=True):
    """What a candidate said to one held-out example."""

    completion: Completion
    latency_ms: float | None = None
    """None where several were asked at once: such a time says nothing of one alone."""
    confidence: float | None = None
    """Sum of the token log-probabilities."""
    asked_at_ms: int = 0
    """When it was asked; 0 where nobody noted it."""


class Share(Struct, frozen=True):
    """`hits` of `of`, with the Wilson interval (Wilson 1927) at 95 %."""

    hits: int
    of: int
    share: float | None
    low: float
    high: float


class Judged(Struct, frozen=True):
    """One answer against its example."""

    call_id: str
    exact: bool
    well_formed: bool
    reason: str
    right_tool: bool | None
    """None where no tool was to be called."""
    shared_fields: int
    """Arguments, or keys of the JSON object, that are right."""
    wanted_fields: int
    given_fields: int
    confidence: float | None


class Scores(Struct, frozen=True, kw_only=True):
    """A candidate's figures on the held-out examples."""

    who: str
    exact: Share
    well_formed: Share
    right_tool: Share | None
    field_f1: float | None
    """Over arguments (or JSON keys) with their values, all examples together."""
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    prompt_tokens: float | None
    """Mean."""
    completion_tokens: float | None
    cost_usd: float | None
    """Mean of one call."""
    reasons: dict[str, int] = {}
    """Why answers were not well-formed."""


class Threshold(Struct, frozen=True, kw_only=True):
    """How far the confidences tell right from wrong, and the threshold that they justify."""

    threshold: float | None
    coverage: float
    risk: float
    risk_upper: float
    alpha: float
    delta: float
    sample: int
    auroc: float | None
    """P(a right answer is surer than a wrong one)."""
    curve: list[dict[str, float]]
    """Fifths of the answers by confidence, the least sure first: from, count, share right."""
    steps: list[tuple[float, float]]
    """P(right | confidence), isotonic: confidence from which it holds, share."""


def wilson(hits: int, of: int) -> Share:
    """Return a share with its interval; nothing counted says nothing."""
    if of == 0:
        return Share(0, 0, None, 0.0, 1.0)
    p, z2 = hits / of, _Z * _Z
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z / (1 + z2 / of) * math.sqrt(p * (1 - p) / of + z2 / (4 * of * of))
    # A bound of 0 or 1 must not be missed by a rounding error.
    return Share(hits, of, p, 0.0 if hits == 0 else middle - half, 1.0 if hits == of else middle + half)


def judge(example: Example, answered: Answered, template: TemplateEntry, shape: Shape, verifier: Verifier) -> Judged:
    """Judge one answer as the gateway would, and against the example's own."""
    completion = answered.completion
    verdict = verifier.verify(answer_of(completion), shape.expectation())
    wanted = read_answer(template, Completion(example.completion))
    found = _graded(wanted, completion)
    want, got = _fields(wanted), _fields(completion)
    shared = sum((Counter(want) & Counter(got)).values())
    names = [call.name for call in wanted.tool_calls]
    return Judged(
        call_id=example.call_id,
        exact=found,
        well_formed=verdict.believed,
        reason="" if verdict.believed else f"{verdict.outcome}: {verdict.check}",
        right_tool=[call.name for call in completion.tool_calls] == names if names else None,
        shared_fields=shared,
        wanted_fields=len(want),
        given_fields=len(got),
        confidence=answered.confidence,
    )


def scores(who: str, judged: Sequence[Judged], answers: Sequence[Answered], prices: Prices | None) -> Scores:
    """Return the figures of a candidate. `prices` None leaves the cost out."""
    tools = [one.right_tool for one in judged if one.right_tool is not None]
    times = sorted(one.latency_ms for one in answers if one.latency_ms is not None)
    usages = [one.completion.usage for one in answers]
    reading = _mean(usage.prompt_tokens for usage in usages)
    writing = _mean(usage.completion_tokens for usage in usages)
    known = prices is not None and reading is not None and writing is not None
    return Scores(
        who=who,
        exact=wilson(sum(one.exact for one in judged), len(judged)),
        well_formed=wilson(sum(one.well_formed for one in judged), len(judged)),
        right_tool=wilson(sum(tools), len(tools)) if tools else None,
        field_f1=_f1(judged),
        latency_p50_ms=_quantile(times, 0.5),
        latency_p95_ms=_quantile(times, 0.95),
        prompt_tokens=reading,
        completion_tokens=writing,
        cost_usd=prices.cost_usd(reading or 0, writing or 0) if known and prices else None,
        reasons=dict(Counter(one.reason for one in judged if one.reason).most_common()),
    )


def recorded_scores(who: str, examples: Sequence[Example], cost_of: Callable[[Example], float]) -> Scores:
    """Return the figures of whoever answered the recorded calls.

    Its believed answers are what the examples call right, so only those that somebody corrected count as wrong.
    """
    right = sum(one.answer_source != "correction" for one in examples)
    times = sorted(one.latency_ms for one in examples if one.latency_ms > 0)
    return Scores(
        who=who,
        exact=wilson(right, len(examples)),
        well_formed=wilson(len(examples), len(examples)),
        right_tool=None,
        field_f1=None,
        latency_p50_ms=_quantile(times, 0.5),
        latency_p95_ms=_quantile(times, 0.95),
        prompt_tokens=_mean(one.prompt_tokens for one in examples),
        completion_tokens=_mean(one.completion_tokens for one in examples),
        cost_usd=_mean(map(cost_of, examples)),
    )


def threshold_of(judged: Sequence[Judged], alpha: float, delta: float) -> Threshold:
    """Return the threshold with P(accepted and wrong) <= alpha at confidence 1 - delta, and the reliability."""
    sample = sample_of([one.confidence for one in judged], [one.exact and one.well_formed for one in judged])
    found = calibrate(sample, alpha, delta)
    steps = found.reliability
    return Threshold(
        threshold=found.threshold,
        coverage=found.coverage,
        risk=found.risk,
        risk_upper=found.risk_upper,
        alpha=alpha,
        delta=delta,
        sample=found.sample,
        auroc=auroc(judged),
        curve=_curve(judged),
        steps=list(zip(steps.scores, steps.p_right, strict=True)),
    )


def auroc(judged: Sequence[Judged]) -> float | None:
    """Return P(a right answer's confidence is above a wrong one's), ties a half; None without both kinds."""
    right = [one.confidence for one in judged if one.exact and one.confidence is not None]
    wrong = [one.confidence for one in judged if not one.exact and one.confidence is not None]
    if not right or not wrong:
        return None
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong))


def table(every: Iterable[Scores]) -> str:
    """Return the figures side by side, as Markdown."""
    head = ("who", "exact", "well-formed", "tool", "fields F1", "p50 ms", "p95 ms", "tokens in / out", "USD per 1000")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in every:
        tokens = "-" if one.prompt_tokens is None else f"{one.prompt_tokens:.0f} / {one.completion_tokens or 0:.0f}"
        cells = (
            one.who,
            _percent(one.exact),
            _percent(one.well_formed),
            _percent(one.right_tool) if one.right_tool else "-",
            "-" if one.field_f1 is None else f"{one.field_f1:.3f}",
            _number(one.latency_p50_ms),
            _number(one.latency_p95_ms),
            tokens,
            "-" if one.cost_usd is None else f"{one.cost_usd * 1000:.4f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _graded(wanted: Completion, given: Completion) -> bool:
    answer = GradedAnswer(given.text or "", tuple(GradedCall(call.name, call.arguments) for call in given.tool_calls))
    if len(wanted.tool_calls) > 1:
        return [_call_key(call) for call in wanted.tool_calls] == [_call_key(call) for call in given.tool_calls]
    if wanted.tool_calls:
        call = wanted.tool_calls[0]
        expected = {"name": call.name, "arguments": msgspec.json.decode(call.arguments)}
        return grade("tool_call", expected, answer).correct is True
    try:
        return grade("json_equal", msgspec.json.decode(wanted.text or ""), answer).correct is True
    except msgspec.DecodeError:
        return grade("exact", wanted.text, answer).correct is True


def _call_key(call: ToolCall) -> tuple[str, str]:
    try:
        return call.name, msgspec.json.encode(msgspec.json.decode(call.arguments), order="sorted").decode()
    except msgspec.DecodeError:
        return call.name, call.arguments


def _fields(completion: Completion) -> list[str]:
    """Arguments of all tool calls, or keys of a JSON object, each with its value."""
    texts = [call.arguments for call in completion.tool_calls] or [completion.text or ""]
    found = []
    for at, text in enumerate(texts):
        try:
            value: Any = msgspec.json.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        if isinstance(value, Mapping):
            found += [f"{at} {key} {_text(one)}" for key, one in value.items()]
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()


def _f1(judged: Sequence[Judged]) -> float | None:
    total = sum(one.wanted_fields + one.given_fields for one in judged)
    return 2 * sum(one.shared_fields for one in judged) / total if total else None


def _curve(judged: Sequence[Judged]) -> list[dict[str, float]]:
    scored = sorted((one for one in judged if one.confidence is not None), key=lambda one: one.confidence or 0.0)
    cuts = [len(scored) * step // _CURVE_STEPS for step in range(_CURVE_STEPS + 1)]
    groups = [scored[start:end] for start, end in itertools.pairwise(cuts) if end > start]
    return [
        {
            "from": group[0].confidence or 0.0,
            "count": len(group),
            "share_right": sum(one.exact for one in group) / len(group),
        }
        for group in groups
    ]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _percent(one: Share) -> str:
    if one.share is None:
        return "-"
    return f"{one.share:.1%} [{one.low:.1%}, {one.high:.1%}] of {one.of}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
