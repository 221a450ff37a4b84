"""What guessing ahead saves the embedded engine: the same calls with it and without, in one run.

Two engines serve the same trained adapters, one with `--max-guesses 0`. Calls come once each, as the gateway asks them
(the specialist's own prompt, greedy, log-probabilities, the end token obeyed), from 1, 4 and 16 callers at once; blocks
of calls go to both engines by turns, so that a busy machine slows both. Steps and guesses are the engines' own counts,
CPU seconds are the engine process's (Linux). Texts must be the same, and each token's log-probability to 0.001.

    python -m benchmarks.engine_guesses --adapter ADAPTER ROWS --adapter ADAPTER ROWS   # trained ones, with JSON lines
    JOURNEYMAN_DATA=... python -m benchmarks.engine_guesses                             # trains two first: minutes

ROWS have `prompt`, or `input` to which the plain template adds a line end.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.engine import call, say
from benchmarks.same_answers import Given, Job, jobs_of, trained
from tests.e2e.engine_process import EngineProcess, start_engine

CALLERS: Final = (1, 4, 16)
BLOCKS: Final = 4
WARM_UP: Final = 8
NEW_TOKENS: Final = 64
COUNTED: Final = ("steps_total", "guessed_tokens_total", "accepted_guesses_total")


class Answer(NamedTuple):
    """One call's answer and how long it took."""

    text: str
    logprobs: list[float]
    tokens: int
    latency_s: float


class Side(NamedTuple):
    """What one engine did in a cell."""

    answers: list[Answer]
    seconds: float
    cpu_s: float
    counts: dict[str, float]

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(answer.tokens for answer in self.answers)

    @property
    def p50_ms(self) -> float:
        """The median call's latency."""
        return 1000 * statistics.median(answer.latency_s for answer in self.answers)


class Cell(NamedTuple):
    """The same calls on both engines."""

    adapter: str
    callers: int
    plain: Side
    guessing: Side


def ask(engine: EngineProcess, job: Job) -> Answer:
    """One call."""
    body: dict[str, Any] = {"model": job.adapter, "prompt": job.prompt, "max_tokens": NEW_TOKENS}
    begin = time.perf_counter()
    said = call(f"{engine.url}/v1/completions", body | {"temperature": 0, "logprobs": 0})
    seconds, choice = time.perf_counter() - begin, said["choices"][0]
    return Answer(choice["text"], choice["logprobs"]["token_logprobs"], said["usage"]["completion_tokens"], seconds)


def counts(engine: EngineProcess) -> dict[str, float]:
    """The engine's own counters."""
    with urllib.request.urlopen(f"{engine.url}/metrics", timeout=10) as response:
        lines = [line.split() for line in response.read().decode().splitlines() if not line.startswith("#")]
    found = {name.removeprefix("journeyman_engine_"): float(value) for name, value in lines}
    return {name: found[name] for name in COUNTED}


def run(engine: EngineProcess, jobs: list[Job], callers: int) -> Side:
    """The calls, so many at a time."""
    before, cpu_s, begin = counts(engine), cpu_seconds(engine), time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(lambda job: ask(engine, job), jobs))
    seconds, after = time.perf_counter() - begin, counts(engine)
    used_s = cpu_seconds(engine) - cpu_s
    return Side(answers, seconds, used_s, {name: after[name] - before[name] for name in COUNTED})


def cpu_seconds(engine: EngineProcess) -> float:
    """What the process used so far, by the system's clock ticks."""
    fields = Path(f"/proc/{engine.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def together(sides: list[Side]) -> Side:
    """Blocks of one cell as one."""
    answers = [answer for side in sides for answer in side.answers]
    totals = {name: sum(side.counts[name] for side in sides) for name in COUNTED}
    return Side(answers, sum(side.seconds for side in sides), sum(side.cpu_s for side in sides), totals)


def measure(plain: EngineProcess, guessing: EngineProcess, jobs: list[Job], callers: int) -> Cell:
    """A cell: blocks of calls by turns, who goes first by turns too."""
    found: dict[str, list[Side]] = {plain.url: [], guessing.url: []}
    size = max(len(jobs) // BLOCKS, callers)
    for number, begin in enumerate(range(0, len(jobs), size)):
        pair = (plain, guessing) if number % 2 else (guessing, plain)
        for engine in pair:
            found[engine.url].append(run(engine, jobs[begin : begin + size], callers))
    adapters = {job.adapter for job in jobs}
    name = adapters.pop() if len(adapters) == 1 else "mixed"
    return Cell(name, callers, together(found[plain.url]), together(found[guessing.url]))


def same(cell: Cell) -> int:
    """Answers with the same text and log-probabilities."""
    pairs = zip(cell.plain.answers, cell.guessing.answers, strict=True)
    return sum(
        one.text == other.text
        and len(one.logprobs) == len(other.logprobs)
        and all(abs(a - b) < 1e-3 for a, b in zip(one.logprobs, other.logprobs, strict=True))
        for one, other in pairs
    )


def report(cells: list[Cell]) -> None:
    """The table: without / with guessing."""
    print("| adapter | callers | same | tokens each | steps | guesses right | tokens/s | p50 ms | CPU s | faster |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for cell in cells:
        plain, guessing = cell.plain, cell.guessing
        guessed, right = (guessing.counts[name] for name in ("guessed_tokens_total", "accepted_guesses_total"))
        steps = f"{plain.counts['steps_total']:.0f} / {guessing.counts['steps_total']:.0f}"
        speeds = f"{plain.tokens / plain.seconds:.0f} / {guessing.tokens / guessing.seconds:.0f}"
        p50s = f"{plain.p50_ms:.0f} / {guessing.p50_ms:.0f} | {plain.cpu_s:.1f} / {guessing.cpu_s:.1f}"
        print(
            f"| {cell.adapter} | {cell.callers} | {same(cell)} of {len(plain.answers)} "
            f"| {plain.tokens / len(plain.answers):.1f} | {steps} | {right:.0f} of {guessed:.0f} | {speeds} "
            f"| {p50s} | {plain.seconds / guessing.seconds:.2f} |"
        )


@contextlib.contextmanager
def engines(given: dict[str, Given], threads: int | None) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """One without guessing, one with."""
    options = [f"--lora={name}={one.folder.resolve()}" for name, one in given.items()]
    options += [f"--threads={threads}"] if threads else []
    say("starting two engines")
    with start_engine("--max-guesses=0", *options) as plain, start_engine(*options) as guessing:
        yield plain, guessing


def main() -> None:
    """Starts both, measures each adapter alone and then mixed, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", nargs=2, action="append", default=[], metavar=("ADAPTER", "ROWS"), type=Path)
    parser.add_argument("--threads", type=int, help="compute threads of each engine (torch's choice)")
    parser.add_argument("--callers", type=int, nargs="+", default=list(CALLERS), help="calls at once (%(default)s)")
    parser.add_argument(
        "--calls", type=int, default=48, help="of each adapter for each number of callers (%(default)s)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        every = [Given(*pair) for pair in options.adapter] or trained(Path(scratch))
        given = {f"{one.folder.name}-{number}": one for number, one in enumerate(every)}
        with engines(given, options.threads) as (plain, guessing):
            report(list(_cells(given, plain, guessing, options)))


def _cells(
    given: dict[str, Given], plain: EngineProcess, guessing: EngineProcess, options: argparse.Namespace
) -> Iterator[Cell]:
    queues = {name: iter(jobs_of({name: one}, 10**6)) for name, one in given.items()}
    for queue in queues.values():
        warm_up = list(itertools.islice(queue, WARM_UP))
        for engine in (plain, guessing):
            run(engine, warm_up, 1)
        for callers in options.callers:
            yield _said(measure(plain, guessing, list(itertools.islice(queue, options.calls)), callers))
    for callers in options.callers:
        each = [list(itertools.islice(queue, options.calls // len(queues))) for queue in queues.values()]
        yield _said(measure(plain, guessing, [job for jobs in zip(*each, strict=False) for job in jobs], callers))


def _said(cell: Cell) -> Cell:
    seconds = f"{cell.plain.seconds:.1f} s without, {cell.guessing.seconds:.1f} s with"
    say(f"{cell.adapter}, {cell.callers} at once: {seconds}")
    return cell


if __name__ == "__main__":
    main()
