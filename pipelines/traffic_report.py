"""What came of some traffic: one result a call, sums for each family, and the table that shows them.

It knows results only; not how calls are made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.graders import ToolCall

_Z95: Final = 1.959963984540054


class CallResult(msgspec.Struct, frozen=True):
    """One call. `correct` is None when it was not graded or failed; times in ms."""

    family: str
    row_id: str
    split: str
    correct: bool | None
    score: float
    reason: str
    error: str
    latency_ms: float
    ttft_ms: float | None
    model: str
    call_id: str
    plan: str
    escalated: bool | None
    outcome: str
    cost_usd: float | None
    saved_usd: float | None
    prompt_tokens: int
    completion_tokens: int
    text: str
    tool_calls: tuple[ToolCall, ...]


class Sending(msgspec.Struct):
    """How the sender itself did."""

    sent: int = 0
    delayed: int = 0
    """Calls that were due while `max_in_flight` were under way and had to wait."""
    dropped: int = 0
    worst_lag_ms: float = 0.0
    """The most that the sender was behind its own schedule."""
    send_s: float = 0.0
    total_s: float = 0.0
    feedback_sent: int = 0
    feedback_failed: int = 0


class Summary(msgspec.Struct, frozen=True):
    """Sums over some calls. Shares in 0..1; `correct_low`/`high` are Wilson's 95 % interval; latencies in ms."""

    calls: int
    graded: int
    correct: int
    correct_share: float | None
    correct_low: float | None
    correct_high: float | None
    errors: dict[str, int]
    models: dict[str, float]
    escalated_share: float | None
    verified_share: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    """None when no answer told its cost."""
    saved_usd: float | None
    """Against the frontier alone; likewise."""


class TrafficReport(msgspec.Struct, frozen=True):
    """The whole run, each family, and each call."""

    total: Summary
    families: dict[str, Summary]
    sending: Sending
    results: tuple[CallResult, ...]


def summarise(results: Sequence[CallResult], sending: Sending) -> TrafficReport:
    """Sums for all calls and for each family (sorted by name)."""
    families = sorted({result.family for result in results})
    by_family = {name: summary([one for one in results if one.family == name]) for name in families}
    return TrafficReport(summary(results), by_family, sending, tuple(results))


def summary(results: Sequence[CallResult]) -> Summary:
    """Sums over some calls. Failed calls are errors; the correct share is that of the graded answers."""
    answered = [result for result in results if not result.error]
    graded = [result for result in answered if result.correct is not None]
    correct = sum(result.correct is True for result in graded)
    low, high = wilson(correct, len(graded)) if graded else (None, None)
    told = [result.escalated for result in answered if result.escalated is not None]
    costs = [result.cost_usd for result in results if result.cost_usd is not None]
    saved = [result.saved_usd for result in results if result.saved_usd is not None]
    outcomes = [result.outcome for result in answered if result.outcome]
    latencies = [result.latency_ms for result in answered]
    first = [result.ttft_ms for result in answered if result.ttft_ms is not None]
    models = Counter(result.model or "?" for result in answered)
    return Summary(
        calls=len(results),
        graded=len(graded),
        correct=correct,
        correct_share=correct / len(graded) if graded else None,
        correct_low=low,
        correct_high=high,
        errors=dict(Counter(result.error for result in results if result.error).most_common()),
        models={name: count / len(answered) for name, count in models.most_common()},
        escalated_share=sum(told) / len(told) if told else None,
        verified_share=sum(one == "verified" for one in outcomes) / len(outcomes) if outcomes else None,
        latency_p50_ms=quantile(latencies, 0.5),
        latency_p95_ms=quantile(latencies, 0.95),
        ttft_p50_ms=quantile(first, 0.5),
        ttft_p95_ms=quantile(first, 0.95),
        prompt_tokens=sum(result.prompt_tokens for result in results),
        completion_tokens=sum(result.completion_tokens for result in results),
        cost_usd=sum(costs) if costs else None,
        saved_usd=sum(saved) if saved else None,
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share, spread = successes / trials, _Z95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def as_table(report: TrafficReport) -> Table:
    """A rich table: one line a family and the total; a column that nobody has a figure for is left out."""
    table = Table(caption=sending_line(report.sending), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    columns = [(name, show) for name, show in _COLUMNS if show(report.total) != "-"]
    for name, _ in columns:
        prose = name in ("answered by", "errors")
        table.add_column(name, justify="left" if prose else "right", no_wrap=not prose, overflow="fold")
    for family, one in report.families.items():
        table.add_row(family, *(show(one) for _, show in columns))
    if len(report.families) > 1:
        table.add_section()
        table.add_row("total", *(show(report.total) for _, show in columns))
    return table


def sending_line(sending: Sending) -> str:
    """How the sender did, in one line."""
    rate = (sending.sent + sending.dropped) / sending.send_s if sending.send_s else 0.0
    parts = [f"{sending.sent} sent at {rate:.1f}/s", f"{sending.delayed} delayed", f"{sending.dropped} dropped"]
    parts.append(f"at most {sending.worst_lag_ms:.0f} ms behind schedule")
    if sending.feedback_sent or sending.feedback_failed:
        parts.append(f"feedback {sending.feedback_sent} taken, {sending.feedback_failed} failed")
    return ", ".join(parts)


def _correct(one: Summary) -> str:
    if one.correct_share is None or one.correct_low is None or one.correct_high is None:
        return "-"
    return f"{one.correct_share:.0%} ({one.correct_low:.0%}-{one.correct_high:.0%})"


def _ms(median: float | None, p95: float | None) -> str:
    return "-" if median is None or p95 is None else f"{median:.0f} / {p95:.0f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _answered_by(models: dict[str, float]) -> str:
    if len(models) == 1:
        return next(iter(models))
    return ", ".join(f"{name} {share:.0%}" for name, share in models.items())


def _saved(one: Summary) -> str:
    """What was saved, as a share of what the frontier alone would have cost."""
    if one.cost_usd is None or one.saved_usd is None or one.cost_usd + one.saved_usd <= 0:
        return "-"
    return f"{one.saved_usd / (one.cost_usd + one.saved_usd):.0%}"


_COLUMNS: Final[Sequence[tuple[str, Callable[[Summary], str]]]] = (
    ("calls", lambda one: str(one.calls)),
    ("correct (95 %)", _correct),
    ("verified", lambda one: _share(one.verified_share)),
    ("escalated", lambda one: _share(one.escalated_share)),
    ("p50 / p95 ms", lambda one: _ms(one.latency_p50_ms, one.latency_p95_ms)),
    ("first token ms", lambda one: _ms(one.ttft_p50_ms, one.ttft_p95_ms)),
    ("cost $", lambda one: "-" if one.cost_usd is None else f"{one.cost_usd:.4f}"),
    ("saved", _saved),
    ("answered by", lambda one: _answered_by(one.models)),
    ("errors", lambda one: ", ".join(f"{name} {count}" for name, count in one.errors.items()) or "-"),
)
