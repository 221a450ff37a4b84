"""Measures a whole turn of the loop on a workload: traffic, learning, promotion, then rows that it has never seen.

The gateway, the engine and the large model's stand-in are processes of their own, as a user runs them; the rows to
learn from are sent as traffic, and nothing else reaches the loop. Knows the phases; each does its work elsewhere.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from msgspec import Struct

from observations.state import StatePaths
from observations.store import open_reader
from pipelines.bench_figures import BenchResult, Promotion, figures
from pipelines.children import Child, command_of, wait_until_ready
from pipelines.datasets import DatasetStore
from pipelines.flywheel import Made, Turn, TurnOptions, turn
from pipelines.promote import ON_THE_WAY, Look, look_at_all
from pipelines.promote_command import read_policy
from pipelines.quick_trial import policies_with
from pipelines.traffic import TrafficPlan, pick_rows, run_traffic
from pipelines.traffic_report import TrafficReport
from pipelines.workload import Workload
from pipelines.workload_rows import Row
from registry.errors import BadInputError, EnvironmentFaultError, WorkloadError
from registry.loading import load_catalog
from registry.managed import MadeSpecialists
from registry.registrar import Registrar

Say = Callable[[str], None]

JUDGED_SPLITS: Final = ("dev", "hold")
_RECORD_WAIT_S: Final = 120.0
_TAKEN_UP_S: Final = 4.0
"""A gateway follows the ledger within two seconds."""
_LEARNING_RATE_PER_S: Final = 60.0
_FRONTIER_RATE_PER_S: Final = 30.0
_CANARY_BATCH: Final = 60
RESULT: Final = "bench.json"


class BenchOptions(Struct, frozen=True, kw_only=True):
    """What is measured, and how much of it."""

    workload: Workload
    data: str
    """What names the workload to a teacher: a folder, `env` or `own`."""
    families: tuple[str, ...]
    state: Path
    registry: Path
    promotion: Path
    """A promotion.yaml: what the loop promotes by, and the gateway demotes by."""
    calls: int = 3_000
    """Most rows of a family that are sent to be learnt from, those for its canary among them."""
    judged_calls: int | None = None
    """Most rows of a family that are judged at the end; None takes all."""
    canary_calls: int = 240
    """Of a family's rows, kept for the time when its specialist answers a share of them."""
    reports: float = 0.3
    """Share of callers that report how their call went, with the right answer where it was wrong."""
    teacher_error_rate: float = 0.05
    teacher_p50_ms: float = 600.0
    teacher_p95_ms: float = 1_500.0
    teacher_tokens_per_s: float = 80.0
    rate_per_s: float = 4.0
    """Of the calls that specialists may answer; two cores decode for about ten."""
    preset: str = "balanced"
    max_examples: int | None = None
    threads: int | None = None
    seed: int = 7


class Rows(Struct, frozen=True):
    """A family's rows by what they are for."""

    learn: tuple[Row, ...]
    canary: tuple[Row, ...]
    judge: tuple[Row, ...]


def run_bench(options: BenchOptions, say: Say) -> BenchResult:
    """Run all phases in a state folder of its own.

    Raises:
        BadInputError: no family.
        WorkloadError: no such family, or one without rows to learn from or to judge by.
        StorageError: the state folder cannot be made.
        EnvironmentFaultError: a process does not come up, or packages are missing.
    """
    with ExitStack() as children:
        return _Bench(options, say, children).run()


def chosen_rows(workload: Workload, options: BenchOptions) -> dict[str, Rows]:
    """Return each family's rows: those to learn from, for the canary and to judge by.

    Raises BadInputError without a family, WorkloadError for one that is not there, that cannot be read, or that has
    none to learn from or none to judge by.
    """
    if not options.families:
        raise BadInputError(f"Name a family to measure: {', '.join(workload.families)}.", param="families")
    return {family: _rows_of(workload, family, options) for family in options.families}


def _rows_of(workload: Workload, family: str, options: BenchOptions) -> Rows:
    plan = TrafficPlan(workload, "", families=(family,), seed=options.seed)
    found = {row.split for row in workload.rows((family,))}
    taught = _shuffled(plan, ("train",), found)[: options.calls]
    judge = _shuffled(plan, JUDGED_SPLITS, found)[: options.judged_calls]
    if not taught or not judge:
        raise WorkloadError(
            f"{family}: {len(taught)} rows of split train and {len(judge)} of dev or hold; the loop learns from the "
            "first and is judged by the others, so both must be there."
        )
    kept = min(options.canary_calls, len(taught) // 5)
    return Rows(taught[kept:], taught[:kept], judge)


def _shuffled(plan: TrafficPlan, splits: tuple[str, ...], found: set[str]) -> tuple[Row, ...]:
    return tuple(pick_rows(msgspec.structs.replace(plan, splits=splits))) if found & set(splits) else ()


class _Bench:
    """One measurement. `url` is set once the gateway is up."""

    def __init__(self, options: BenchOptions, say: Say, children: ExitStack) -> None:
        self._options = options
        self._say = say
        self._children = children
        self._rows = chosen_rows(options.workload, options)  # first: a folder that is not empty would be refused later
        self._promotion = read_policy(options.promotion)
        self._paths = StatePaths(options.state).create()
        self._url = ""
        self._began_ms = 0
        self._family_of_call: dict[str, str] = {}
        self._reasons: dict[str, str] = {}

    def run(self) -> BenchResult:
        self._start()
        self._began_ms = int(time.time() * 1000)
        self._learn()
        made = self._turn()
        self._canary()
        promotions = self._promotions(made)
        served = self._judge("auto", self._options.rate_per_s, "specialists and frontier")
        frontier = self._judge(self._frontier(), _FRONTIER_RATE_PER_S, "the frontier alone")
        found = figures(served.results, frontier.results, promotions)
        (self._paths.root / RESULT).write_bytes(msgspec.json.format(msgspec.json.encode(found.as_json()), indent=1))
        return found

    def _start(self) -> None:
        options = self._options
        teacher = self._child("teacher", self._teacher_arguments())
        where = ["--registry", str(options.registry), "--state", str(self._paths.root), "--port", "0"]
        where += ["--policies", str(policies_with(options.promotion, self._paths.root / "policies"))]
        gateway = self._child(
            "gateway", ["serve", *where, "--log-level", "error"], JOURNEYMAN_TEACHER_URL=str(teacher["url"])
        )
        self._url = str(gateway["url"])
        self._say(f"gateway at {self._url}, the large model's stand-in at {teacher['url']}")
        wait_until_ready(self._url)

    def _teacher_arguments(self) -> list[str]:
        options = self._options
        pace = ["--latency-p50-ms", f"{options.teacher_p50_ms:g}", "--latency-p95-ms", f"{options.teacher_p95_ms:g}"]
        pace += ["--tokens-per-s", f"{options.teacher_tokens_per_s:g}"]
        errs = ["--error-rate", f"{options.teacher_error_rate:g}", "--seed", str(options.seed)]
        return ["teacher", "--workload", options.data, *pace, *errs]

    def _child(self, name: str, arguments: list[str], **environment: str) -> dict[str, Any]:
        child = Child(name, command_of(arguments), self._paths.root / f"{name}.log", environment)
        self._children.callback(child.stop)
        return child.wait_ready(90)

    def _learn(self) -> None:
        """Send the rows to learn from, all families mixed, and wait until the record holds them."""
        rows = _mixed([self._rows[family].learn for family in self._options.families])
        report = self._send(rows, "auto", _LEARNING_RATE_PER_S, "traffic to learn from")
        for result in report.results:
            self._family_of_call[result.call_id] = result.family
        self._wait_for_record(report)

    def _turn(self) -> Turn:
        options = self._options
        catalog = load_catalog(options.registry, made=MadeSpecialists(self._paths.root).look()).catalog
        given = TurnOptions(
            promotion=self._promotion,
            preset=options.preset,
            max_examples=options.max_examples,
            max_tasks=2 * len(options.families),
            threads=options.threads,
        )
        made = turn(self._paths, catalog, given, self._say)
        self._told(made.looks)
        return made

    def _canary(self) -> None:
        """Send the rows kept for it, a batch at a time, and look after each, until nobody is on the way up."""
        left = {family: self._rows[family].canary for family in self._options.families}
        while self._on_the_way() and any(left.values()):
            self._wait_until_taken_up()
            batches = [rows[:_CANARY_BATCH] for rows in left.values()]
            left = {family: rows[_CANARY_BATCH:] for family, rows in left.items()}
            self._wait_for_record(self._send(_mixed(batches), "auto", self._options.rate_per_s, "traffic for canaries"))
            self._told(look_at_all(self._paths, self._promotion))

    def _on_the_way(self) -> bool:
        return any(now.stage in ON_THE_WAY for now in Registrar(self._paths.root).history().stages.values())

    def _told(self, looks: Sequence[Look]) -> None:
        for look in looks:
            self._reasons[look.specialist] = look.decision.reasons[0]
            moved = f"; moved to {look.moved_to}" if look.moved_to else ""
            self._say(f"{look.specialist} in {look.stage} {look.share:.0%}: {look.decision.reasons[0]}{moved}")

    def _wait_until_taken_up(self) -> None:
        time.sleep(_TAKEN_UP_S)
        wait_until_ready(self._url)

    def _judge(self, model: str, rate_per_s: float, what: str) -> TrafficReport:
        self._wait_until_taken_up()
        rows = _mixed([self._rows[family].judge for family in self._options.families])
        return self._send(rows, model, rate_per_s, f"unseen rows, {what}", reports=False)

    def _send(
        self, rows: Sequence[Row], model: str, rate_per_s: float, what: str, *, reports: bool = True
    ) -> TrafficReport:
        plan = TrafficPlan(
            self._options.workload,
            f"{self._url}/v1",
            model=model,
            rate_per_s=rate_per_s,
            feedback_share=self._options.reports if reports else 0.0,
            corrections=True,
            rows=tuple(rows),
            seed=self._options.seed,
        )
        self._say(f"{what}: {len(rows)} calls, {rate_per_s:g} a second")
        report: TrafficReport = uvloop.run(run_traffic(plan, _each_quarter(self._say, what)))
        if len(report.results) == sum(bool(one.error) for one in report.results):
            raise EnvironmentFaultError(f"{what}: no call was answered: {dict(report.total.errors)}.")
        return report

    def _wait_for_record(self, report: TrafficReport) -> None:
        """Wait until the loader has taken in the last calls, as `curate` and `promote` read its store alone."""
        wanted = [one.call_id for one in report.results[-8:] if one.call_id]
        end_s = time.monotonic() + _RECORD_WAIT_S
        while time.monotonic() < end_s:
            with contextlib.suppress(Exception), contextlib.closing(open_reader(self._paths, 5.0)) as store:
                query = "SELECT count(*) FROM slm_observation_raw WHERE id IN (SELECT unnest(?))"
                row = store.execute(query, [wanted]).fetchone()
                if row is not None and row[0] >= len(wanted):
                    return
            time.sleep(0.5)
        raise EnvironmentFaultError(f"The record did not take the calls in within {_RECORD_WAIT_S:g} s.")

    def _frontier(self) -> str:
        return load_catalog(self._options.registry).catalog.frontier.model_name

    def _promotions(self, made: Turn) -> dict[str, Promotion]:
        """Return how far each family's specialist came; of several the one that came furthest."""
        history = Registrar(self._paths.root).history()
        found = {family: Promotion(why_not="no task of these calls was proposed") for family in self._options.families}
        for one in made.made:
            family = self._family_of(one)
            if family is None:
                continue
            stage = history.stages[one.specialist].stage if one.specialist else ""
            active_ms = min((at for who, at in _activations(history) if who == one.specialist), default=None)
            minutes = None if active_ms is None else (active_ms - self._began_ms) / 60_000
            why = "" if stage == "active" else one.why_not or self._reasons.get(one.specialist, "")
            promotion = Promotion(specialist=one.specialist, stage=stage, minutes=minutes, why_not=why)
            if _rank(promotion) >= _rank(found[family]):
                found[family] = promotion
        return found

    def _family_of(self, made: Made) -> str | None:
        """The family most of whose calls the specialist was trained on."""
        if not made.dataset:
            return None
        rows = DatasetStore(self._paths.root).open(made.dataset).rows("train")
        counted = Counter(self._family_of_call.get(row.call_id) for row in rows)
        return counted.most_common(1)[0][0] if counted else None


def _rank(promotion: Promotion) -> int:
    return ("", "deprecated", "candidate", "shadow", "canary", "active").index(promotion.stage)


def _activations(history: Any) -> list[tuple[str, int]]:
    return [
        (move.specialist, signed.entry.at_ms)
        for signed in history.entries
        for move in signed.entry.moves
        if move.after == "active"
    ]


def _mixed(pools: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several families in one stream, each family spread evenly over it."""
    placed = [(at / len(pool), row) for pool in pools for at, row in enumerate(pool, 1)]
    return [row for _, row in sorted(placed, key=lambda one: (one[0], one[1].id))]


def _each_quarter(say: Say, what: str) -> Callable[[int, int], None]:
    said = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal said
        quarter = done * 4 // total
        if quarter > said:
            said = quarter
            say(f"{what}: {done} of {total}")

    return on_progress
