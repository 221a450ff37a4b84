"""What does curation cost a call, and does that grow with the record? And what would datasketch's own index cost?

    python benchmarks/curate.py --calls 10000 100000

Each size is a record of its own, written into the store by the loader's statements, and curated in a process of its own
whose peak memory is its own. A tenth of the calls repeats another, a tenth nearly does, a third is boilerplate with
values in it, a tenth was redacted, one in twenty has feedback. The near-duplicate search alone is then run on the
inputs of the smallest size, with DistinctTexts and with datasketch's MinHashLSH, each in a process of its own; `wrong`
counts texts that were dropped although they are at most 0.8 alike to all that were kept.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from observations.records import CallRecord, Event, FeedbackRecord, SignatureRecord  # noqa: E402
from observations.rows import SPEC_OF, insert_statement, to_arrow  # noqa: E402
from observations.state import StatePaths  # noqa: E402
from observations.store import StoreSettings, open_writer  # noqa: E402
from pipelines.curate import CurateOptions, curate  # noqa: E402
from pipelines.near_duplicates import SKETCH_SIZE, DistinctTexts, sketches_of  # noqa: E402
from pipelines.run import Run  # noqa: E402

START_MS = 1_790_000_000_000
AGENTS = 40
BATCH = 20_000
VOCABULARY = [f"{head}{tail}" for head in "ba ce di fo gu ha jo ka li mo".split() for tail in range(500)]  # noqa: SIM905
FRAME = " ".join(f"clause{at}" for at in range(40))


def texts(count: int, agents: int = 1) -> Iterator[str]:
    """Inputs as agents send them in turn; see the module's docstring."""
    rng = random.Random(1)
    sent: list[list[str]] = [[] for _ in range(agents)]
    for number in range(count):
        kind = rng.random()
        recent = sent[number % agents]
        if recent and kind < 0.1:
            yield rng.choice(recent)
            continue
        if recent and kind < 0.2:
            words = rng.choice(recent).split()
            words[rng.randrange(len(words))] = rng.choice(VOCABULARY)
            yield " ".join(words)
            continue
        if kind < 0.53:
            text = f"{FRAME} {' '.join(rng.choices(VOCABULARY, k=14))} total {rng.randrange(10**6)}"
        else:
            text = " ".join(rng.choices(VOCABULARY, k=rng.randrange(6, 40)))
        if rng.random() < 0.1:
            text += " write to <EMAIL_1> or call <PHONE_1>"
        recent.append(text)
        del recent[:-500]
        yield text


def events(count: int) -> Iterator[Event]:
    """The record: agents, calls and feedback."""
    rng = random.Random(2)
    for agent in range(AGENTS):
        yield SignatureRecord(
            id=f"default:agent-{agent}", at_ms=1, signature=f"agent-{agent}", system=f"You are agent {agent}. " * 20
        )
    for number, text in enumerate(texts(count, AGENTS)):
        yield CallRecord(
            id=f"chatcmpl-{number:026d}",
            at_ms=START_MS + number * 20,
            signature=f"agent-{number % AGENTS}",
            end_user=f"user-{rng.randrange(5_000)}",
            messages=[{"role": "user", "content": text}],
            answer_text='{"label": "refund"}',
            redactions={"EMAIL": 1, "PHONE": 1} if "<EMAIL_1>" in text else {},
            served_by="large",
            frontier="large",
            outcome="verified" if rng.random() < 0.95 else "unverified",
            finish_reason="stop",
            cost_usd=0.001,
        )
        if number % 20 == 0:
            yield FeedbackRecord(
                id=f"fb-{number}", call_id=f"chatcmpl-{number:026d}", at_ms=START_MS, outcome="success"
            )


def write_store(state: StatePaths, count: int) -> float:
    """Bulk insert with the loader's statements; returns the seconds."""
    begun = time.perf_counter()
    state.create()
    store = open_writer(state, StoreSettings(memory_limit_mb=512))
    waiting: dict[type, list[Event]] = {}

    def flush(kind: type) -> None:
        rows = waiting.pop(kind, [])
        if rows:
            store.register("batch", to_arrow(SPEC_OF[kind], rows))
            times = [row.at_ms for row in rows]
            store.execute(insert_statement(SPEC_OF[kind], min(times), max(times)))
            store.unregister("batch")

    for event in events(count):
        waiting.setdefault(type(event), []).append(event)
        if len(waiting[type(event)]) >= BATCH:
            flush(type(event))
    for kind in list(waiting):
        flush(kind)
    store.execute("CHECKPOINT")
    store.close()
    return time.perf_counter() - begun


def curate_and_report(root: Path, cap: int) -> None:
    """The measured process: print one JSON object."""
    state = StatePaths(root)
    cpu, begun = time.process_time(), time.perf_counter()
    moments: list[tuple[str, float]] = []
    with Run.open(root / "runs", say=lambda line: moments.append((line, time.perf_counter()))) as run:
        report = curate(state, run, CurateOptions(max_per_template=cap, max_per_end_user=cap)).report
    read_s = max((at for line, at in moments if "calls read" in line), default=begun) - begun
    figures = {
        "wall_s": time.perf_counter() - begun,
        "cpu_s": time.process_time() - cpu,
        "read_s": read_s,
        "peak_mib": peak_mib(),
        "kept": report.kept,
        "duplicates": report.dropped["duplicate"].calls if "duplicate" in report.dropped else 0,
    }
    print(json.dumps(figures))


def peak_mib() -> float:
    """Of this process so far. Not ru_maxrss: a child begins with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def search_ours(count: int) -> tuple[int, int]:
    """Near-duplicates with DistinctTexts; returns how many stay, and how many were dropped for less than 0.8."""
    found = list(texts(count))
    sketches = np.concatenate([sketches_of(found[at : at + 2_048]) for at in range(0, count, 2_048)])
    known = DistinctTexts(sketches, np.zeros(count, dtype=np.int64), found.__getitem__)
    kept = 0
    for row in range(count):
        if known.duplicate_of(row) is None:
            known.keep(row)
            kept += 1
    return kept, 0


def search_datasketch(count: int) -> tuple[int, int]:
    """The same with datasketch's MinHashLSH alone: what it says is alike counts as a duplicate."""
    import zlib  # noqa: PLC0415

    import datasketch  # noqa: PLC0415

    from pipelines.near_duplicates import jaccard, shingles_of  # noqa: PLC0415

    found = list(texts(count))
    index = datasketch.MinHashLSH(threshold=0.8, num_perm=SKETCH_SIZE)
    kept = wrong = 0
    for at in range(0, count, 2_048):
        hashed = [[one.encode() for one in shingles_of(text)] for text in found[at : at + 2_048]]
        for row, sketch in enumerate(
            datasketch.MinHash.bulk(hashed, num_perm=SKETCH_SIZE, hashfunc=zlib.crc32), start=at
        ):
            near = index.query(sketch)
            if not near:
                index.insert(row, sketch)
                kept += 1
            elif max(jaccard(shingles_of(found[row]), shingles_of(found[other])) for other in near) <= 0.8:
                wrong += 1
    return kept, wrong


SEARCHES = {"DistinctTexts": search_ours, "MinHashLSH": search_datasketch}


def search_and_report(name: str, count: int) -> None:
    """The measured process of one search."""
    before = peak_mib()
    cpu = time.process_time()
    kept, wrong = SEARCHES[name](count)
    figures = {"cpu_s": time.process_time() - cpu, "grown_mib": peak_mib() - before, "kept": kept, "wrong": wrong}
    print(json.dumps(figures))


def child(*arguments: object) -> dict[str, float]:
    """Run this script for one measurement."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--cap", type=int, default=5_000, help="calls of a template and of an end user")
    parser.add_argument("--curate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--search", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.curate:
        curate_and_report(options.curate, options.cap)
        return
    if options.search:
        search_and_report(options.search, options.calls[0])
        return
    print(f"{'calls':>8} {'kept':>8} {'dups':>7} {'wall s':>8} {'read s':>7} {'CPU s':>7} {'us/call':>8} {'MiB':>6}")
    for count in options.calls:
        with tempfile.TemporaryDirectory() as folder:
            state = StatePaths(Path(folder) / "s")
            print(f"{count} calls written in {write_store(state, count):.0f} s", file=sys.stderr)
            got = child("--curate", state.root, "--cap", options.cap)
        print(
            f"{count:8} {got['kept']:8.0f} {got['duplicates']:7.0f} {got['wall_s']:8.1f} {got['read_s']:7.1f}"
            f" {got['cpu_s']:7.1f} {got['cpu_s'] / count * 1e6:8.0f} {got['peak_mib']:6.0f}"
        )
    texts_count = min(options.calls)
    print(f"\n{'search of near-duplicates':25} {'kept':>7} {'wrong':>7} {'CPU s':>7} {'MiB':>6}  {texts_count} texts")
    for name in SEARCHES:
        got = child("--search", name, "--calls", texts_count)
        print(f"{name:25} {got['kept']:7.0f} {got['wrong']:7.0f} {got['cpu_s']:7.1f} {got['grown_mib']:6.0f}")


if __name__ == "__main__":
    main()
