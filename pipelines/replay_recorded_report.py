"""What a replay of the record found: as a value, as JSON and as tables for people. Not how it was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.offpolicy_values import Estimates, Interval
from pipelines.replay_decision import WHY_SKIPPED

Quantity = Literal["reward", "judged", "cost_usd", "escalated", "latency_ms"]


class First(Struct, frozen=True):
    """How often a candidate goes first, 0 to 1: under the policies that logged, under the new one."""

    logged: float
    target: float


class Judged(Struct, frozen=True):
    """Whose word the rewards are, in decisions."""

    feedback: int = 0
    verifier: int = 0
    unknown: int = 0
    """Given unverified, and nobody said anything: left out of the reward."""


class Part(Struct, frozen=True):
    """The estimates over some decisions."""

    decisions: int
    quantities: dict[Quantity, Estimates]
    """`reward`: feedback or else the checks' verdict, 0 to 1; `judged`: feedback alone; the rest are means a call."""


class RecordedReport(Struct, frozen=True):
    """A new policy against those that logged."""

    read: int
    """Recorded calls looked at."""
    skipped: dict[str, int]
    """Why calls could not be decided again, most frequent first."""
    refusals: dict[str, int]
    """Calls that the new policy would turn away; they count as outcome 0 at no cost."""
    changed: float
    """Share of decisions that the new policy makes otherwise, be it only by chance or further down the chain."""
    rewards: Judged
    first: dict[str, First]
    total: Part | None
    """None when no decision could be made again."""
    clusters: dict[str, Part]
    """Most frequent first."""
    verdict: str = ""
    """What can be said, and what cannot, in plain sentences."""

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    def as_table(self, console: Console) -> None:
        """Print the report."""
        if self.total is not None:
            console.print(_quantities_table(self.total, "The record under the new policy"))
            console.print(_first_table(self))
            if len(self.clusters) > 1:
                console.print(_clusters_table(self))
        for line in _skipped_lines(self):
            console.print(line, highlight=False)
        console.print(self.verdict, highlight=False)


PER_CALLS: Final = 1_000
"""Calls that amounts of money are shown for: one call's are too small to read."""

_TITLES: Final[dict[Quantity, str]] = {
    "reward": "reward",
    "judged": "reward, judged",
    "cost_usd": f"US dollars, {PER_CALLS:,} calls",
    "escalated": "escalated",
    "latency_ms": "latency, ms",
}


_SHOWN: Final[tuple[Quantity, ...]] = ("reward", "cost_usd", "escalated", "latency_ms")


def share(value: float) -> str:
    """Three digits; no minus before a zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def dollars(value: float) -> str:
    """Of so many calls, with enough digits for small amounts."""
    amount = value * PER_CALLS
    return f"{round(amount, 2) + 0.0:.2f}" if abs(amount) >= 10 else f"{round(amount, 4) + 0.0:.4f}"


def millis(value: float) -> str:
    """Whole ones, unless they are few."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 1) + 0.0:.1f}"


WRITTEN: Final[dict[Quantity, Callable[[float], str]]] = {
    "reward": share,
    "judged": share,
    "cost_usd": dollars,
    "escalated": share,
    "latency_ms": millis,
}


def _with_bounds(value: Interval, write: Callable[[float], str]) -> str:
    return f"{write(value.mean)} [{write(value.low)}, {write(value.high)}]"


def _quantities_table(part: Part, title: str) -> Table:
    table = Table(
        "mean [95 % interval]", "calls", "logged", "new (DR)", "difference (DR)", "new (SNIPS)", title=title,
        box=SIMPLE_HEAD,
    )  # fmt: skip
    for name, found in part.quantities.items():
        write = WRITTEN[name]
        cells = (found.logged, found.dr, found.dr_difference, found.snips)
        table.add_row(_TITLES[name], str(found.overlap.decisions), *(_with_bounds(cell, write) for cell in cells))
    return table


def _first_table(report: RecordedReport) -> Table:
    table = Table("goes first", "logged", "new", box=SIMPLE_HEAD)
    for name, one in report.first.items():
        if max(one.logged, one.target) > 0.0:
            table.add_row(name, f"{one.logged:.1%}", f"{one.target:.1%}")
    return table


def _clusters_table(report: RecordedReport) -> Table:
    columns = (
        "cluster",
        "decisions",
        "effective",
        "untried",
        "reward",
        "US dollars a call",
        "escalated",
        "latency, ms",
    )
    table = Table(*columns, title="Differences (DR) by cluster", box=SIMPLE_HEAD)
    for cluster, part in report.clusters.items():
        overlap = part.quantities["cost_usd"].overlap
        cells = []
        for name in _SHOWN:
            found = part.quantities.get(name)
            cells.append(_with_bounds(found.dr_difference, WRITTEN[name]) if found else "-")
        head = (cluster, str(part.decisions), f"{overlap.effective:.0f}", f"{overlap.unsupported:.0%}")
        table.add_row(*head, *cells)
    return table


def _skipped_lines(report: RecordedReport) -> list[str]:
    return [f"left out: {count} of {report.read} calls, {WHY_SKIPPED[code]}" for code, count in report.skipped.items()]
