"""Replays the record under another planner.yaml: every decision is made again, and what would have come is estimated.

Reading is `recorded_decisions`, deciding `replay_decision`, estimating `offpolicy`, wording `replay_recorded_report`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct, structs

from observations.records import CallRecord
from observations.state import StatePaths
from pipelines.offpolicy import estimate
from pipelines.offpolicy_values import Aftermath, Calibration, DirectModel, Estimates, Floats, LoggedDecisions
from pipelines.recorded_decisions import Recorded, RecordedCall
from pipelines.replay_decision import Choices, Course, Replanned, replan
from pipelines.replay_recorded_report import First, Judged, Part, Quantity, RecordedReport
from pipelines.replay_recorded_verdict import verdict_of
from policies.terms import PlannerPolicy
from registry.errors import BadInputError

OnProgress = Callable[[int, int], None]


class RecordedOptions(Struct, frozen=True):
    """Which recorded calls to judge by."""

    since_ms: int | None = None
    """Unix milliseconds; None: from the first."""
    cluster: str | None = None
    limit: int | None = None
    """At most so many calls, an even sample of all; None: all."""
    seed: int = 0
    """Of that sample."""
    max_weight: float | None = None
    """Cut importance weights to this: narrower intervals, for a bias towards the model. None: never."""


class _Decision(Struct, frozen=True):
    """A decision made again, and what came of the first time."""

    cluster: str
    again: Replanned
    observed: Course
    reward: float | None
    """None: nobody knows whether the answer was right."""
    told: bool
    """Whether the reward is feedback."""


class _Measure(Struct, frozen=True):
    """A quantity, and how it is estimated."""

    quantity: Quantity
    field: str
    """Of `Course`."""
    calibration: Calibration
    highest: float
    applies: Callable[[_Decision], bool]


_MEASURES: Final = (
    _Measure("reward", "reward", "shift", 1.0, lambda one: one.reward is not None),
    _Measure("judged", "reward", "shift", 1.0, lambda one: one.told),
    _Measure("cost_usd", "cost_usd", "scale", np.inf, lambda _: True),
    _Measure("escalated", "escalated", "none", 1.0, lambda _: True),
    _Measure("latency_ms", "latency_ms", "scale", np.inf, lambda _: True),
)


def replay_recorded(
    paths: StatePaths,
    policy: PlannerPolicy,
    options: RecordedOptions | None = None,
    on_progress: OnProgress | None = None,
) -> RecordedReport:
    """Judge the policy by the recorded calls of a state directory. `on_progress` is told (done, total) calls.

    Raises BadInputError when there is no such directory or an option makes no sense, StorageError when its store cannot
    be read.
    """
    options = options or RecordedOptions()
    if options.max_weight is not None and not options.max_weight >= 1.0:
        said = f"max_weight is {options.max_weight}; it is a number from 1 (the weight of a choice both make) upwards."
        raise BadInputError(said, param="max_weight")
    recorded = Recorded.choose(paths, options.since_ms, options.cluster, options.limit, options.seed)
    catalogs = recorded.catalogs()
    decisions: list[_Decision] = []
    skipped: Counter[str] = Counter()
    for done, one in enumerate(recorded, start=1):
        contenders = catalogs.contenders(_digest(one.call), one.call.frontier)
        again = replan(one.call, contenders, policy)
        if isinstance(again, str):
            skipped[again] += 1
        else:
            decisions.append(_decision(one, again))
        if on_progress is not None:
            on_progress(done, len(recorded))
    return _report(decisions, len(recorded), skipped, options)


def _digest(call: CallRecord) -> str:
    return call.plan.catalog_digest if call.plan else ""


def _decision(one: RecordedCall, again: Replanned) -> _Decision:
    call = one.call
    reward = one.feedback if one.feedback is not None else _verdict(call)
    observed = Course(reward or 0.0, call.cost_usd, float(call.escalated), call.latency_ms)
    return _Decision(call.cluster, again, observed, reward, one.feedback is not None)


def _verdict(call: CallRecord) -> float | None:
    """What the checks say when nobody else does: an answer that was given unverified may be right or wrong."""
    return {"verified": 1.0, "failed": 0.0}.get(call.outcome)


def _report(
    decisions: Sequence[_Decision], read: int, skipped: Counter[str], options: RecordedOptions
) -> RecordedReport:
    limit = np.inf if options.max_weight is None else options.max_weight
    total = _part(decisions, limit) if decisions else None
    by_cluster: dict[str, list[_Decision]] = {}
    for one in decisions:
        by_cluster.setdefault(one.cluster, []).append(one)
    ranked = sorted(by_cluster.items(), key=lambda item: -len(item[1]))
    alone = len(ranked) == 1
    report = RecordedReport(
        read=read,
        skipped=dict(skipped.most_common()),
        refusals=dict(Counter(one.again.refused for one in decisions if one.again.refused is not None)),
        changed=float(np.mean([not one.again.same for one in decisions])) if decisions else 0.0,
        rewards=_sources(decisions),
        first=_first(decisions),
        total=total,
        clusters={name: total if alone and total else _part(ones, limit) for name, ones in ranked},
    )
    return structs.replace(report, verdict=verdict_of(report))


def _sources(decisions: Sequence[_Decision]) -> Judged:
    told = sum(one.told for one in decisions)
    known = sum(one.reward is not None for one in decisions)
    return Judged(feedback=told, verifier=known - told, unknown=len(decisions) - known)


def _first(decisions: Sequence[_Decision]) -> dict[str, First]:
    """How often each candidate goes first, under either policy."""
    sums: dict[str, list[float]] = {}
    for one in decisions:
        for name, before, after in zip(
            one.again.names, one.again.logged.propensities, one.again.target.propensities, strict=True
        ):
            pair = sums.setdefault(name, [0.0, 0.0])
            pair[0] += before
            pair[1] += after
    count = max(1, len(decisions))
    ranked = sorted(sums.items(), key=lambda item: -max(item[1]))
    return {name: First(logged=before / count, target=after / count) for name, (before, after) in ranked}


def _part(decisions: Sequence[_Decision], limit: float) -> Part:
    quantities: dict[Quantity, Estimates] = {}
    for measure in _MEASURES:
        chosen = [one for one in decisions if measure.applies(one)]
        if chosen:
            quantities[measure.quantity] = _estimate(chosen, measure, limit)
    return Part(decisions=len(decisions), quantities=quantities)


def _estimate(decisions: Sequence[_Decision], measure: _Measure, limit: float) -> Estimates:
    again = [one.again for one in decisions]
    width = max(len(one.names) for one in again)
    logged = LoggedDecisions(
        taken=np.array([one.taken for one in again], dtype=np.intp),
        propensities=_table([one.logged.propensities for one in again], width),
        outcomes=np.array([getattr(one.observed, measure.field) for one in decisions]),
        lowest=0.0,
        highest=measure.highest,
    )
    model = DirectModel(
        target=_forecasts([one.target for one in again], measure, width),
        logging=_forecasts([one.logged for one in again], measure, width),
        calibration=measure.calibration,
    )
    aftermath = Aftermath(
        refused=np.array([one.refused is not None for one in again]),
        followed=np.array([one.followed for one in again]),
        spent=np.array([getattr(one.spent, measure.field) for one in again]),
        rest=np.array([getattr(one.rest, measure.field) for one in again]),
    )
    target = _table([one.target.propensities for one in again], width)
    return estimate(logged, target, model, aftermath, limit)


def _forecasts(choices: Sequence[Choices], measure: _Measure, width: int) -> Floats:
    return _table([[getattr(course, measure.field) for course in one.forecasts] for one in choices], width)


def _table(rows: Sequence[Sequence[float]], width: int) -> Floats:
    """The rows side by side, filled up with zeros."""
    table = np.zeros((len(rows), width))
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
