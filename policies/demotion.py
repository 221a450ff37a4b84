"""When a specialist that serves must step back: malformed answers, a safety incident, drift, slow answers.

The rolling rule counts: more than 5 % malformed among the last 50 calls, that is 3 of them. It is quick, and jumpy: a
specialist with 1 % malformed answers trips it by chance every 1,400 calls or so, one with 2 % every 360. The evidence
rule has a false alarm only once in `false_alarm_calls` calls on average, as long as no more than `tolerated` are
malformed, and is slower on mild damage. It is an e-detector (Shin, Ramdas, Rinaldo 2022, arXiv:2203.03532): bettors
against "at most `tolerated`", one more at every call (Shiryaev and Roberts), whose wealth together stays below the
number of calls on average while that is so. `benchmarks/promotion.py` has both.

Knows no clock and moves nobody; a watch belongs to one specialist and starts empty when it begins to serve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from registry.errors import BadInputError

Proper = Annotated[float, Meta(gt=0, lt=1)]
Off = Literal["off"]
Cause = Literal["formatting", "safety", "latency", "drift", "risk"]
FormattingRule = Literal["rolling", "evidence", "either", "off"]
Bit = Annotated[int, Meta(ge=0, le=1)]

STAKES: Final = (0.03, 0.08, 0.2, 0.45, 0.9)
"""What the bettors stake on "malformed": sharpest against 5, 10, 22, 46 and 90 % malformed where 2 % are tolerated."""


class FormattingDemotion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Malformed answers."""

    rule: FormattingRule = "rolling"
    window: Annotated[int, Meta(ge=5, le=10_000)] = 50
    max_malformed: Proper = 0.05
    """Rolling rule: more than this share of the window. What is missing in a window not yet full counts as fine."""
    tolerated: Proper = 0.02
    """Evidence rule: share of malformed answers that must not raise an alarm."""
    false_alarm_calls: Annotated[int, Meta(ge=100)] = 10_000
    """Evidence rule: mean calls between false alarms, at least."""


class LatencyDemotion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Slow answers: more than `max_late` of the last `window` calls beyond the limit that came with the call."""

    enabled: bool = True
    window: Annotated[int, Meta(ge=5, le=10_000)] = 50
    max_late: Proper = 0.20


class DemotionPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`demotion:` of promotion.yaml. A safety incident always demotes."""

    formatting: FormattingDemotion = field(default_factory=FormattingDemotion)
    latency: LatencyDemotion = field(default_factory=LatencyDemotion)
    min_jaccard: Proper | Off = 0.5
    """Least overlap of the cluster's members with those it was trained on, where they are compared."""
    risk_alarm: bool = True
    """Whether an alarm of the calibrated risk (accepted and wrong) demotes."""
    to: Literal["shadow", "deprecated"] = "shadow"
    """Where it goes. In shadow it is proven again; deprecated waits for a person."""
    to_after_incident: Literal["shadow", "deprecated"] = "shadow"


class LiveCall(Struct, frozen=True, kw_only=True):
    """One call that the specialist was asked to answer; what is None is not known and does not count."""

    call_id: str
    well_formed: bool | None = None
    latency_ms: float | None = None
    latency_limit_ms: float | None = None
    """What it should have kept to: such as the p95 that the plan expected."""
    safety_incident: bool = False


class DriftReading(Struct, frozen=True, kw_only=True):
    """What a comparison of the cluster with its past, or the book of calibrated risks, says now."""

    jaccard: float | None = None
    risk_alarm: bool = False


class Demotion(Struct, frozen=True, kw_only=True):
    """A specialist must step back, and why."""

    cause: Cause
    reason: str
    value: float
    bound: float
    n: int
    """Calls that the value is of; 0 where it is not of calls."""
    to: Literal["shadow", "deprecated"]
    call_id: str = ""


class DemotionWatch(Struct, forbid_unknown_fields=True, kw_only=True):
    """The last calls of one serving specialist."""

    version: Literal[1] = 1
    malformed: list[Bit] = field(default_factory=list)
    """1 for malformed, oldest first; at most a window."""
    late: list[Bit] = field(default_factory=list)
    detectors: list[Annotated[float, Meta(ge=0)]] = field(default_factory=lambda: [0.0] * len(STAKES))
    calls: Annotated[int, Meta(ge=0)] = 0
    """Calls whose form was checked."""

    def observe(self, call: LiveCall, policy: DemotionPolicy) -> Demotion | None:
        """Take in a call; return the demotion that it brings. A watch that has alarmed goes on alarming until reset."""
        if call.safety_incident:
            reason = f"safety incident on call {call.call_id}"
            return Demotion(
                cause="safety", reason=reason, value=1, bound=0, n=1, to=policy.to_after_incident, call_id=call.call_id
            )
        return self._formatting(call, policy) or self._latency(call, policy)

    def _formatting(self, call: LiveCall, policy: DemotionPolicy) -> Demotion | None:
        if call.well_formed is None:
            return None
        rules, bad = policy.formatting, not call.well_formed
        self.calls += 1
        _push(self.malformed, bad, rules.window)
        self.detectors = [_bet(wealth, stake, rules, bad) for wealth, stake in zip(self.detectors, STAKES, strict=True)]
        if rules.rule in ("rolling", "either"):
            found = _too_many(self.malformed, rules.max_malformed, rules.window)
            if found:
                reason = f"{found} malformed answers in the last {len(self.malformed)} calls"
                bound, n = rules.max_malformed, rules.window
                return _demoted("formatting", reason, (found / n, bound, n), call, policy)
        if rules.rule in ("evidence", "either"):
            wealth = sum(self.detectors) / len(STAKES)
            if wealth >= rules.false_alarm_calls:
                reason = f"evidence of more than {rules.tolerated:.1%} malformed answers"
                return _demoted("formatting", reason, (wealth, rules.false_alarm_calls, self.calls), call, policy)
        return None

    def _latency(self, call: LiveCall, policy: DemotionPolicy) -> Demotion | None:
        rules = policy.latency
        if not rules.enabled or call.latency_ms is None or call.latency_limit_ms is None:
            return None
        _push(self.late, call.latency_ms > call.latency_limit_ms, rules.window)
        found = _too_many(self.late, rules.max_late, rules.window)
        if not found:
            return None
        reason = f"{found} answers beyond their latency limit in the last {len(self.late)} calls"
        return _demoted("latency", reason, (found / rules.window, rules.max_late, rules.window), call, policy)

    def exported(self) -> dict[str, Any]:
        """Return the watch as plain values, for JSON."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_exported(cls, exported: Mapping[str, Any]) -> DemotionWatch:
        """Return the watch that was exported. Raises BadInputError when it is not one."""
        try:
            watch = msgspec.convert(dict(exported), cls)
        except msgspec.ValidationError as error:
            raise BadInputError(f"Not the state of a demotion watch: {error}. Start it anew.") from None
        if len(watch.detectors) != len(STAKES) or not all(map(math.isfinite, watch.detectors)):
            raise BadInputError(f"A demotion watch has {len(STAKES)} finite detectors. Start it anew.")
        return watch


def observe_drift(reading: DriftReading, policy: DemotionPolicy) -> Demotion | None:
    """Return the demotion that a reading of drift brings."""
    if reading.risk_alarm and policy.risk_alarm:
        reason = "the calibrated risk of believed answers rang its alarm"
        return Demotion(cause="risk", reason=reason, value=1, bound=0, n=0, to=policy.to)
    if reading.jaccard is None or policy.min_jaccard == "off" or reading.jaccard >= policy.min_jaccard:
        return None
    reason = f"the cluster shares {reading.jaccard:.0%} of its members with what the specialist was trained on"
    return Demotion(cause="drift", reason=reason, value=reading.jaccard, bound=policy.min_jaccard, n=0, to=policy.to)


def _push(window: list[int], value: bool, size: int) -> None:
    window.append(int(value))
    del window[:-size]


def _too_many(window: list[int], most: float, size: int) -> int:
    """Return how many are marked if they are more than the share of a full window; else 0."""
    found = sum(window)
    return found if found > most * size + 1e-9 else 0


def _bet(wealth: float, stake: float, rules: FormattingDemotion, bad: bool) -> float:
    """Shiryaev-Roberts: everybody who has bet so far, and one more who starts with 1, plays this call."""
    win = stake * (1.0 - rules.tolerated) / rules.tolerated
    return min((wealth + 1.0) * (1.0 + win if bad else 1.0 - stake), 1e300)


def _demoted(
    cause: Cause, reason: str, figures: tuple[float, float, int], call: LiveCall, policy: DemotionPolicy
) -> Demotion:
    value, bound, n = figures
    return Demotion(cause=cause, reason=reason, value=value, bound=bound, n=n, to=policy.to, call_id=call.call_id)
