"""A row of the table, and how a measurement that fails becomes one that says why."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable

import torch
from msgspec import Struct

GIB = 1 << 30


class Side(Struct, frozen=True):
    """One of the two that are compared."""

    tokens_per_s: float
    peak_bytes: int | None
    """Most that the device held; None on a CPU, where it cannot be told apart."""


class Row(Struct, frozen=True, kw_only=True):
    """One measurement."""

    name: str
    alternative: str = ""
    ours: Side | None = None
    theirs: Side | None = None
    note: str = ""
    """What is special about it, or why there are no figures."""

    @property
    def ratio(self) -> float | None:
        """Our tokens a second by theirs."""
        return self.ours.tokens_per_s / self.theirs.tokens_per_s if self.ours and self.theirs else None


def attempt(name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a measurement, or one with the reason: no measurement takes another's figures along."""
    begin = time.perf_counter()
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        rows = measure()
    except torch.OutOfMemoryError as error:
        rows = [Row(name=name, note=f"out of memory: {first_line(error)}")]
    except Exception as error:
        rows = [Row(name=name, note=f"{type(error).__name__}: {first_line(error)}")]
    free()
    print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return rows


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a table."""
    return (str(error).strip().splitlines() or [""])[0].replace("|", "/")[:160]


def free() -> None:
    """Give back what nobody holds, so that the next measurement starts from nothing."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def begin_memory() -> None:
    """Count the peak from here."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """The most the device held since `begin_memory`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def synchronize() -> None:
    """Wait for the device, so that a clock can be read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def as_table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = [
        "| measurement | tokens/s | alternative | its tokens/s | ours / its | peak GiB, ours / its | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        speeds = f"{_speed(row.ours)} | {row.alternative or '-'} | {_speed(row.theirs)} | {ratio}"
        lines.append(f"| {row.name} | {speeds} | {_gib(row.ours)} / {_gib(row.theirs)} | {row.note} |")
    return "\n".join(lines)


def _speed(side: Side | None) -> str:
    return "-" if side is None else f"{side.tokens_per_s:,.0f}"


def _gib(side: Side | None) -> str:
    return "-" if side is None or side.peak_bytes is None else f"{side.peak_bytes / GIB:.1f}"
