"""What does recording cost a call, and what does loading cost the machine? The alternatives side by side, in one run.

    python benchmarks/recording.py --records 20000 --rounds 3

Each way stores the same 2 kB record so that a SIGKILL afterwards cannot lose it. The rounds are interleaved; CPU is the
appending thread's own, so it holds on a busy machine, too. Wall times include what the disk and other processes do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import duckdb  # noqa: E402
import msgspec  # noqa: E402

from observations.loading import load_once  # noqa: E402
from observations.records import (  # noqa: E402
    AttemptRecord,
    CallRecord,
    CandidateRecord,
    PlanRecord,
)
from observations.spool import Spool  # noqa: E402
from observations.state import StatePaths  # noqa: E402

Append = Callable[[CallRecord], object]
_ENCODER = msgspec.json.Encoder()
_SLOW = {"DuckDB, one INSERT a record": 300, "SQLite WAL, one INSERT a record": 3000}


def record(number: int) -> CallRecord:
    """A call with 1 kB of content, four candidates and one attempt: about 2 kB as JSON."""
    candidates = tuple(
        CandidateRecord(f"specialist-{n}@0123456789ab", "specialist", 0.93, 0.0001, 120.0, 0.25) for n in range(4)
    )
    return CallRecord(
        id=f"chatcmpl-{number:026d}",
        at_ms=1_790_000_000_000 + number,
        tenant="acme",
        signature="0" * 64,
        prompt_hash="1" * 64,
        cluster="billing",
        messages=[{"role": "user", "content": "Where is my refund? " * 35}],
        answer_text="It is on its way. " * 17,
        plan=PlanRecord(
            "plan_1", "specialist-0@0123456789ab", ("frontier",), "cheapest that meets the SLA", candidates
        ),
        attempts=(AttemptRecord("specialist-0@0123456789ab", "engine", "verified", latency_ms=83.1),),
        served_by="specialist-0@0123456789ab",
        outcome="verified",
    )


def spool(folder: Path) -> tuple[Append, Callable[[], None]]:
    """What the gateway does."""
    writer = Spool.open(folder)
    return writer.append, writer.close


def plain_jsonl(folder: Path) -> tuple[Append, Callable[[], None]]:
    """A line a record: no checksum, no lock, no sealing, no fsync ever."""
    fd = os.open(folder / "calls.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda event: os.write(fd, _ENCODER.encode(event) + b"\n"), lambda: os.close(fd)


def sqlite_wal(folder: Path) -> tuple[Append, Callable[[], None]]:
    """A transaction a record, synchronous=NORMAL: safe from a kill, as the spool is."""
    base = sqlite3.connect(folder / "calls.sqlite", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")
    base.execute("CREATE TABLE calls (id TEXT, at_ms INTEGER, body TEXT)")

    def append(event: CallRecord) -> None:
        base.execute("INSERT INTO calls VALUES (?, ?, ?)", (event.id, event.at_ms, _ENCODER.encode(event)))

    return append, base.close


def duckdb_rows(folder: Path) -> tuple[Append, Callable[[], None]]:
    """A transaction a record, straight into the store."""
    base = duckdb.connect(str(folder / "calls.duckdb"), config={"threads": 1, "memory_limit": "256MB"})
    base.execute("CREATE TABLE calls (id VARCHAR, at_ms BIGINT, body VARCHAR)")

    def append(event: CallRecord) -> None:
        base.execute("INSERT INTO calls VALUES (?, ?, ?)", [event.id, event.at_ms, _ENCODER.encode(event).decode()])

    return append, base.close


WAYS = {
    "spool.append": spool,
    "plain JSON lines, no checksum": plain_jsonl,
    "SQLite WAL, one INSERT a record": sqlite_wal,
    "DuckDB, one INSERT a record": duckdb_rows,
}


def time_appends(name: str, events: list[CallRecord]) -> tuple[list[float], float]:
    """Return each append's microseconds and the thread's CPU microseconds for one."""
    with tempfile.TemporaryDirectory() as folder:
        append, close = WAYS[name](Path(folder))
        taken = []
        cpu_before = time.thread_time_ns()
        for event in events:
            begun = time.perf_counter_ns()
            append(event)
            taken.append((time.perf_counter_ns() - begun) / 1000)
        cpu_us = (time.thread_time_ns() - cpu_before) / 1000 / len(events)
        close()
    return taken, cpu_us


def time_loader(folder: Path, records: int) -> dict[str, float]:
    """Load `records` in a process of its own, as in production; return its rate and memory."""
    state = StatePaths(folder / "state").create()
    writer = Spool.open(state.spool)
    for number in range(records):
        writer.append(record(number))
    writer.close()
    command = [sys.executable, __file__, "--load", str(state.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def load_and_report(root: Path) -> None:
    """The loading process: print one JSON object."""
    before = time.process_time()
    begun = time.perf_counter()
    report = load_once(StatePaths(root))
    figures = {
        "rows": report.rows["slm_observation_raw"],
        "wall_s": time.perf_counter() - begun,
        "cpu_s": time.process_time() - before,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store_mib": StatePaths(root).store.stat().st_size / 2**20,
    }
    print(json.dumps(figures))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load_and_report(options.load)
        return
    events = [record(number) for number in range(options.records)]
    print(f"{len(_ENCODER.encode(events[0]))} bytes a record")
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(options.rounds):
        for name in WAYS:
            times, cpu_us = time_appends(name, events[: _SLOW.get(name, len(events))])
            taken[name] += times
            cpu[name].append(cpu_us)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    base = statistics.median(taken["spool.append"])
    print(f"{'way':34} {'p50 us':>9} {'p99 us':>9} {'CPU us':>9} {'p50 ratio':>9}")
    for name, times in taken.items():
        cuts = statistics.quantiles(times, n=100)
        print(f"{name:34} {cuts[49]:9.1f} {cuts[98]:9.1f} {statistics.median(cpu[name]):9.1f} {cuts[49] / base:9.1f}")
    with tempfile.TemporaryDirectory() as folder:
        figures = time_loader(Path(folder), options.records)
    print(
        f"loader: {figures['rows']:.0f} rows in {figures['wall_s']:.2f} s ({figures['rows'] / figures['wall_s']:.0f}"
        f" rows/s; {figures['cpu_s']:.2f} s of CPU), peak {figures['peak_mib']:.0f} MiB,"
        f" store {figures['store_mib']:.1f} MiB"
    )


if __name__ == "__main__":
    main()
