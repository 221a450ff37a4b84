"""Sends a workload to an OpenAI base URL, open loop: calls leave when they are due, whoever has not answered yet.

Latency is counted from the moment a call was due, so a sender that cannot keep up shows in the figures instead of
hiding them. It knows arrivals and grading; neither what is on the wire nor how results are shown.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import aiohttp
import msgspec

from pipelines.graders import UNGRADED
from pipelines.teacher_gold import gold_answer
from pipelines.traffic_call import Received, call_chat, check_reachable, post_feedback
from pipelines.traffic_report import CallResult, Sending, TrafficReport, summarise
from pipelines.workload import Workload
from pipelines.workload_rows import Row
from registry.errors import BadInputError, EnvironmentFaultError, WorkloadError

Progress = Callable[[int, int], None]
_SPIN_S: Final = 0.001


class TrafficPlan(msgspec.Struct, frozen=True):
    """What to send, where and how fast. `calls` None sends every chosen row once."""

    workload: Workload
    base_url: str
    api_key: str = ""
    model: str = "auto"
    rate_per_s: float = 10.0
    calls: int | None = None
    families: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    arrivals: Literal["poisson", "fixed"] = "poisson"
    stream: bool = False
    feedback_share: float = 0.0
    """Share of the callers that report how their call went."""
    corrections: bool = False
    """Whether who reports a wrong answer says what would have been right."""
    skip: int = 0
    """Leave out so many of the chosen rows: those that an earlier run of the same seed has sent."""
    rows: tuple[Row, ...] = ()
    """Just these, in this order, instead of choosing some."""
    max_in_flight: int = 256
    when_full: Literal["delay", "drop"] = "delay"
    timeout_s: float = 120.0
    seed: int = 7
    out: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_s < math.inf:
            raise BadInputError(f"rate must be above 0 calls a second, not {self.rate_per_s}")
        if self.calls is not None and self.calls < 1:
            raise BadInputError(f"calls must be at least 1, not {self.calls}")
        if self.skip < 0:
            raise BadInputError(f"skip must not be negative, and is {self.skip}")
        if self.max_in_flight < 1 or self.timeout_s <= 0:
            raise BadInputError("max_in_flight and timeout_s must be above 0")
        if not 0 <= self.feedback_share <= 1:
            raise BadInputError(f"feedback_share must be in 0..1, not {self.feedback_share}")


async def run_traffic(plan: TrafficPlan, on_progress: Progress | None = None) -> TrafficReport:
    """Send the traffic and grade the answers. `on_progress(done, total)` is called after each answer.

    Raises:
        EnvironmentFaultError: nobody listens at the base URL.
        BadInputError: the key is refused, or the workload has no such rows.
    """
    rows = pick_rows(plan)
    headers = {"content-type": "application/json"}
    if plan.api_key:
        headers["authorization"] = f"Bearer {plan.api_key}"
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        await check_reachable(session, plan.base_url.rstrip("/"))
        sender = _Sender(plan, session, len(rows), on_progress)
        try:
            return await sender.send_all(rows)
        finally:
            sender.close()


def pick_rows(plan: TrafficPlan) -> list[Row]:
    """The rows to send, in order: families take turns by chance, each family's rows shuffled, repeated when used up.

    Raises:
        WorkloadError: no such family or split, or nothing is left after choosing.
    """
    if plan.rows:
        return list(plan.rows)
    rng = random.Random(f"traffic:{plan.seed}")  # noqa: S311 (no secret)
    pools: dict[str, list[Row]] = {}
    for row in plan.workload.rows(plan.families, plan.splits):
        pools.setdefault(row.family, []).append(row)
    if not pools:
        raise WorkloadError(f"{plan.workload.name}: no rows in split {', '.join(plan.splits or ())} of these families")
    if plan.calls is None:
        everything = [row for pool in pools.values() for row in pool]
        rng.shuffle(everything)
        return everything[plan.skip :]
    endless = {family: _shuffled(pool, rng) for family, pool in pools.items()}
    families = list(endless)
    return [next(endless[rng.choice(families)]) for _ in range(plan.skip + plan.calls)][plan.skip :]


def arrival_times(plan: TrafficPlan, count: int) -> Iterator[float]:
    """Seconds from the start at which each call is due."""
    rng = random.Random(f"arrivals:{plan.seed}")  # noqa: S311
    due = 0.0
    for _ in range(count):
        yield due
        due += rng.expovariate(plan.rate_per_s) if plan.arrivals == "poisson" else 1 / plan.rate_per_s


def correction_text(row: Row) -> str:
    """What a caller writes who knows better: the right answer's text, or its tool calls as JSON."""
    gold = gold_answer(row)
    calls = [{"name": call.name, "arguments": call.parsed()} for call in gold.tool_calls]
    return msgspec.json.encode(calls[0] if len(calls) == 1 else calls).decode() if calls else gold.text


def _shuffled(pool: list[Row], rng: random.Random) -> Iterator[Row]:
    while True:
        order = pool[:]
        rng.shuffle(order)
        yield from order


class _Sender:
    """The state of one run."""

    def __init__(
        self, plan: TrafficPlan, session: aiohttp.ClientSession, total: int, on_progress: Progress | None
    ) -> None:
        self._plan = plan
        self._session = session
        self._base_url = plan.base_url.rstrip("/")
        self._total = total
        self._on_progress = on_progress
        self._gate = asyncio.Semaphore(plan.max_in_flight)
        self._results: list[CallResult] = []
        self._sending = Sending()
        self._out = _open_out(plan.out)

    def close(self) -> None:
        if self._out:
            self._out.close()

    async def send_all(self, rows: list[Row]) -> TrafficReport:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for row, offset in zip(rows, arrival_times(self._plan, len(rows)), strict=True):
                due = start + offset
                await _wait_until(due)
                self._sending.worst_lag_ms = max(self._sending.worst_lag_ms, (time.perf_counter() - due) * 1000)
                if self._gate.locked():
                    if self._plan.when_full == "drop":
                        self._sending.dropped += 1
                        self._advance()
                        continue
                    self._sending.delayed += 1
                group.create_task(self._one(row, due))
            self._sending.send_s = time.perf_counter() - start
        self._sending.total_s = time.perf_counter() - start
        return summarise(self._results, self._sending)

    async def _one(self, row: Row, due: float) -> None:
        body = self._plan.workload.request(row, self._plan.model)
        if self._plan.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        async with self._gate:
            self._sending.sent += 1
            received = await call_chat(self._session, f"{self._base_url}/chat/completions", body, due)
        result = self._grade(row, received)
        self._results.append(result)
        if self._out:
            self._out.write(msgspec.json.encode(result) + b"\n")
        if received.call_id and result.correct is not None and self._reports(row):
            await self._report_outcome(row, result)
        self._advance()

    def _grade(self, row: Row, received: Received) -> CallResult:
        grade = UNGRADED if received.error else self._plan.workload.grade(row, received.answer)
        facts: dict[str, Any] = msgspec.structs.asdict(received)
        answer = facts.pop("answer")
        return CallResult(
            family=row.family,
            row_id=row.id,
            split=row.split,
            correct=grade.correct,
            score=grade.score,
            reason=grade.reason,
            text=answer.text,
            tool_calls=answer.tool_calls,
            **facts,
        )

    def _reports(self, row: Row) -> bool:
        """Whether the caller of this row is one who reports: the same ones in every run of a seed."""
        return random.Random(f"feedback:{self._plan.seed}:{row.id}").random() < self._plan.feedback_share  # noqa: S311

    async def _report_outcome(self, row: Row, result: CallResult) -> None:
        said: dict[str, Any] = {"outcome": "success" if result.correct else "failure", "score": result.score}
        if self._plan.corrections and not result.correct:
            said["correction"] = correction_text(row)
        taken = await post_feedback(self._session, f"{self._base_url}/feedback", result.call_id, said)
        self._sending.feedback_sent += taken
        self._sending.feedback_failed += not taken

    def _advance(self) -> None:
        if self._on_progress:
            self._on_progress(len(self._results) + self._sending.dropped, self._total)


def _open_out(path: Path | None) -> BinaryIO | None:
    try:
        return path.open("wb") if path else None
    except OSError as error:
        raise EnvironmentFaultError(
            f"--out {path}: {error.strerror}; choose a file in a folder you may write"
        ) from None


async def _wait_until(due: float) -> None:
    """Sleep until `due`; when late, still let answers be read now and then."""
    left = due - time.perf_counter()
    await asyncio.sleep(left if left > _SPIN_S else 0)
