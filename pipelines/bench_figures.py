"""What a turn of the loop brought, for each family of a workload: from graded calls to the figures of a table.

Pure: results of calls in, figures out. Knows nothing of how calls were sent or specialists made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.traffic_report import CallResult, quantile


class Promotion(Struct, frozen=True, kw_only=True):
    """How far a family's specialist came."""

    specialist: str = ""
    stage: str = ""
    """Empty: none was made."""
    minutes: float | None = None
    """From the first call to the move to `active`."""
    why_not: str = ""
    """In words, where it is not active."""

    @property
    def promoted(self) -> bool:
        """Whether it answers all of its task's calls."""
        return self.stage == "active"


class FamilyFigures(Struct, frozen=True, kw_only=True):
    """A family's calls after the loop. Shares in 0..1, of all calls; a call without an answer counts as wrong."""

    calls: int
    share_specialist: float
    """Calls that a specialist answered, believed."""
    escalated: float
    """Calls that went on to the frontier."""
    quality_served: float | None
    """Right by the gold answers, escalations included; None where nobody can grade."""
    quality_teacher: float | None
    """The frontier's, asked by name, on the same rows."""
    accepted_wrong: float
    """Calls that a specialist answered, believed, and wrongly."""
    cost_saved: float | None
    """1 less what was spent over what the frontier alone would have cost."""
    p50_ms: float | None
    p95_ms: float | None
    frontier_p50_ms: float | None
    frontier_p95_ms: float | None
    errors: int
    promoted: int
    """Specialists in stage active."""
    minutes_to_promotion: float | None
    specialist: str = ""
    stage: str = ""
    why_not: str = ""


class BenchResult(Struct, frozen=True, kw_only=True):
    """The whole benchmark."""

    families: dict[str, FamilyFigures]
    total: FamilyFigures

    def as_json(self) -> dict[str, Any]:
        """Plain values; `promoted` of a family is true or false, that of the total a count."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        for family in built["families"].values():
            family["promoted"] = bool(family["promoted"])
        return built


def figures(
    served: Sequence[CallResult], frontier: Sequence[CallResult], promotions: Mapping[str, Promotion]
) -> BenchResult:
    """Return the figures of the calls served after the loop, beside the same rows answered by the frontier."""
    families = {
        name: _family(
            [one for one in served if one.family == name], [one for one in frontier if one.family == name], [promotion]
        )
        for name, promotion in promotions.items()
    }
    return BenchResult(families=families, total=_family(served, frontier, list(promotions.values())))


def _family(
    served: Sequence[CallResult], frontier: Sequence[CallResult], promotions: Sequence[Promotion]
) -> FamilyFigures:
    calls = len(served)
    by_specialist = [one for one in served if not one.error and "@" in one.model]
    minutes = [one.minutes for one in promotions if one.minutes is not None]
    alone = promotions[0] if len(promotions) == 1 else Promotion()
    p50, p95 = _latencies(served)
    frontier_p50, frontier_p95 = _latencies(frontier)
    return FamilyFigures(
        calls=calls,
        share_specialist=_share(len(by_specialist), calls),
        escalated=_share(sum(one.escalated is True for one in served), calls),
        quality_served=_quality(served),
        quality_teacher=_quality(frontier),
        accepted_wrong=_share(sum(one.correct is False for one in by_specialist), calls),
        cost_saved=_saved(served),
        p50_ms=p50,
        p95_ms=p95,
        frontier_p50_ms=frontier_p50,
        frontier_p95_ms=frontier_p95,
        errors=sum(bool(one.error) for one in served),
        promoted=sum(one.promoted for one in promotions),
        minutes_to_promotion=max(minutes, default=None),
        specialist=alone.specialist,
        stage=alone.stage,
        why_not=alone.why_not,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _quality(results: Sequence[CallResult]) -> float | None:
    graded = sum(one.correct is not None or bool(one.error) for one in results)
    return sum(one.correct is True for one in results) / graded if graded else None


def _saved(results: Sequence[CallResult]) -> float | None:
    spent = sum(one.cost_usd or 0.0 for one in results)
    saved = sum(one.saved_usd or 0.0 for one in results)
    return saved / (spent + saved) if spent + saved > 0 else None


def _latencies(results: Sequence[CallResult]) -> tuple[float | None, float | None]:
    times = [one.latency_ms for one in results if not one.error]
    return quantile(times, 0.5), quantile(times, 0.95)


def as_table(result: BenchResult) -> Table:
    """The figures, a line a family and the total."""
    table = Table(*_TITLES, box=SIMPLE_HEAD, header_style="dim")
    for name, one in [*result.families.items(), ("total", result.total)]:
        table.add_row(name, *_cells(one))
    return table


_TITLES = (
    "family", "calls", "specialist", "escalated", "right", "teacher", "accepted wrong", "saved", "p50 / p95 ms",
    "frontier ms", "stage", "minutes",
)  # fmt: skip


def _cells(one: FamilyFigures) -> tuple[str, ...]:
    return (
        str(one.calls),
        f"{one.share_specialist:.1%}",
        f"{one.escalated:.1%}",
        _percent(one.quality_served),
        _percent(one.quality_teacher),
        f"{one.accepted_wrong:.1%}",
        _percent(one.cost_saved),
        _pair(one.p50_ms, one.p95_ms),
        _pair(one.frontier_p50_ms, one.frontier_p95_ms),
        one.stage or (f"{one.promoted} active" if one.promoted else "-"),
        "-" if one.minutes_to_promotion is None else f"{one.minutes_to_promotion:.1f}",
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _pair(median: float | None, p95: float | None) -> str:
    return "-" if median is None or p95 is None else f"{median:.0f} / {p95:.0f}"
