"""What does it cost to erase calls for good? Emptying their rows alone, against writing the store anew as well.

One store for each number of calls, erased from copies of it: seconds of the load that does it, and the file's size.
Emptying alone leaves the words in free blocks (tests/unit/test_erasure.py); it is here for the price of the rest.

    python -m benchmarks.erasure [--calls 20000 100000] [--erased 1 1000]
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from observations import loading
from observations.loading import load_once
from observations.records import CallRecord, ErasureRecord, Event
from observations.spool import Spool
from observations.state import StatePaths

SEED, START_MS, WORDS = 7, 1_790_000_000_000, 100
_SEGMENT_CALLS = 50_000


def call_id(number: int) -> str:
    """An id as the gateway makes them."""
    return f"chatcmpl-{number:026d}"


def calls(count: int) -> Iterator[CallRecord]:
    """Calls of about 700 bytes."""
    draw = random.Random(SEED)
    words = [f"w{draw.randrange(10**6)}" for _ in range(20_000)]
    for number in range(count):
        said = " ".join(draw.choices(words, k=WORDS))
        messages = [{"role": "user", "content": said}]
        yield CallRecord(id=call_id(number), at_ms=START_MS + number, messages=messages, answer_text=said[:80])


def load(state: StatePaths, events: Iterator[Event]) -> None:
    """Bring events into the store."""
    spool = Spool.open(state.spool)
    for number, event in enumerate(events, start=1):
        spool.append(event)
        if number % _SEGMENT_CALLS == 0:
            spool.seal()
            load_once(state)
            print(f"  {number:,} loaded", flush=True)
    spool.close()
    load_once(state)


def erased(original: StatePaths, numbers: list[int], *, rewrite: bool) -> tuple[float, float]:
    """Seconds of the load that erases, and megabytes of the store after it."""
    folder = Path(tempfile.mkdtemp(prefix="erasure-"))
    rewriting = vars(loading)["rewrite_if_unclean"]
    try:
        state = StatePaths(folder / "state").create()
        shutil.copy(original.store, state.store)
        spool = Spool.open(state.spool)
        for number in numbers:
            spool.append(ErasureRecord(id=call_id(number), call_id=call_id(number), at_ms=START_MS))
        spool.close()
        if not rewrite:
            vars(loading)["rewrite_if_unclean"] = lambda *_: False
        began_s = time.perf_counter()
        load_once(state)
        seconds = time.perf_counter() - began_s
        return seconds, state.store.stat().st_size / 1e6
    finally:
        vars(loading)["rewrite_if_unclean"] = rewriting
        shutil.rmtree(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--erased", type=int, nargs="+", default=[1, 1_000])
    options = parser.parse_args()
    rows = []
    for count in options.calls:
        folder = Path(tempfile.mkdtemp(prefix="erasure-"))
        state = StatePaths(folder / "state").create()
        chosen = random.Random(SEED).sample(range(count), max(options.erased))
        load(state, calls(count))
        for how_many in options.erased:
            for rewrite in (False, True):
                found = erased(state, chosen[:how_many], rewrite=rewrite)
                rows.append(
                    (count, how_many, "rows emptied, store written anew" if rewrite else "rows emptied", *found)
                )
        shutil.rmtree(folder)
    print(f"{'calls':>9} {'erased':>7}  {'':34} {'seconds':>8} {'MB':>7}")
    for count, how_many, how, seconds, megabytes in rows:
        print(f"{count:>9,} {how_many:>7,}  {how:34} {seconds:>8.2f} {megabytes:>7.1f}")


if __name__ == "__main__":
    main()
