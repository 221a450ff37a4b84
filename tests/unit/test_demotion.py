"""Stepping back: broken specialists are caught soon, healthy ones seldom, and every cause is named."""

import json

import numpy as np
import pytest

from policies.demotion import (
    DemotionPolicy,
    DemotionWatch,
    DriftReading,
    FormattingDemotion,
    LatencyDemotion,
    LiveCall,
    observe_drift,
)
from registry.errors import BadInputError
from registry.strict_yaml import load_strict

POLICY = DemotionPolicy()
EVIDENCE = DemotionPolicy(formatting=FormattingDemotion(rule="evidence"))


def calls_to_demotion(malformed, policy, watch=None):
    """Return how many calls it took; None when it did not happen."""
    watch = watch or DemotionWatch()
    for number, bad in enumerate(malformed, 1):
        demotion = watch.observe(LiveCall(call_id=f"c{number}", well_formed=not bad), policy)
        if demotion is not None:
            assert (demotion.cause, demotion.to, demotion.call_id) == ("formatting", "shadow", f"c{number}")
            return number
    return None


def waits(rate, policy, calls, runs):
    rng = np.random.default_rng(int(1000 * rate))
    return [calls_to_demotion(rng.random(calls) < rate, policy) for _ in range(runs)]


def test_the_third_malformed_answer_of_fifty_demotes_and_the_second_does_not():
    assert calls_to_demotion([1, 0, 1] + [0] * 200, POLICY) is None
    assert calls_to_demotion([1] + [0] * 47 + [1, 1], POLICY) == 50
    assert calls_to_demotion([1] + [0] * 48 + [1, 1] + [0] * 60, POLICY) is None
    assert calls_to_demotion([1, 1, 1], POLICY) == 3


def test_the_reason_says_what_was_seen():
    watch = DemotionWatch()
    found = [watch.observe(LiveCall(call_id=str(n), well_formed=n % 10 > 0), POLICY) for n in range(1, 31)][-1]
    assert found is not None
    assert found.reason == "3 malformed answers in the last 30 calls"
    assert (found.value, found.bound, found.n) == (0.06, 0.05, 50)


def test_a_specialist_broken_on_a_tenth_of_its_calls_is_caught_within_a_hundred():
    caught = [wait is not None for wait in waits(0.10, POLICY, 100, 400)]
    assert sum(caught) / 400 > 0.97


def test_the_evidence_rule_seldom_demotes_a_healthy_specialist_and_catches_a_broken_one():
    rolling, evidence = (waits(0.02, policy, 3_000, 12) for policy in (POLICY, EVIDENCE))
    assert sum(wait is not None for wait in rolling) >= 11
    assert sum(wait is not None for wait in evidence) <= 6  # at most 3,000 / 10,000 each on average
    half = [wait for wait in waits(0.5, EVIDENCE, 100, 100) if wait is not None]
    assert len(half) == 100 and np.median(half) <= 12
    assert calls_to_demotion([1] * 10, EVIDENCE) == 3


def test_a_rule_that_is_off_or_a_call_that_was_not_checked_demotes_nobody():
    off = DemotionPolicy(formatting=FormattingDemotion(rule="off"))
    assert calls_to_demotion([1] * 100, off) is None
    watch = DemotionWatch()
    assert all(watch.observe(LiveCall(call_id=""), POLICY) is None for _ in range(100))
    assert watch == DemotionWatch()


def test_either_rule_is_as_quick_as_the_quicker():
    either = DemotionPolicy(formatting=FormattingDemotion(rule="either"))
    rng = np.random.default_rng(3)
    for rate in (0.05, 0.2):
        malformed = rng.random(2_000) < rate
        found = [calls_to_demotion(malformed, policy) or 9_999 for policy in (either, POLICY, EVIDENCE)]
        assert found[0] == min(found[1:])


def test_a_safety_incident_demotes_at_once_whatever_else_is_off():
    policy = DemotionPolicy(
        formatting=FormattingDemotion(rule="off"),
        latency=LatencyDemotion(enabled=False),
        to_after_incident="deprecated",
    )
    found = DemotionWatch().observe(LiveCall(call_id="c9", well_formed=True, safety_incident=True), policy)
    assert found is not None
    assert (found.cause, found.to, found.reason) == ("safety", "deprecated", "safety incident on call c9")


def test_answers_beyond_their_limit_demote_when_there_are_too_many():
    watch, slow = DemotionWatch(), LiveCall(call_id="s", latency_ms=900, latency_limit_ms=800)
    assert all(watch.observe(slow, POLICY) is None for _ in range(10))
    found = watch.observe(slow, POLICY)
    assert found is not None and found.cause == "latency"
    assert found.reason == "11 answers beyond their latency limit in the last 11 calls"
    healthy = DemotionWatch()
    for call in range(500):
        latency_ms = 900 if call % 20 == 0 else 400
        assert healthy.observe(LiveCall(call_id="h", latency_ms=latency_ms, latency_limit_ms=800), POLICY) is None


def test_drift_demotes_below_the_least_overlap_and_on_the_alarm_of_risk():
    assert observe_drift(DriftReading(jaccard=0.5), POLICY) is None
    assert observe_drift(DriftReading(), POLICY) is None
    moved, risky = (
        observe_drift(reading, POLICY) for reading in (DriftReading(jaccard=0.3), DriftReading(risk_alarm=True))
    )
    assert moved is not None and moved.cause == "drift" and "30%" in moved.reason
    assert risky is not None and risky.cause == "risk"
    lax = DemotionPolicy(min_jaccard="off", risk_alarm=False)
    assert observe_drift(DriftReading(jaccard=0.0, risk_alarm=True), lax) is None


@pytest.mark.parametrize("policy", [POLICY, EVIDENCE], ids=["rolling", "evidence"])
def test_a_watch_survives_json_and_goes_on_as_if_nothing_had_happened(policy):
    malformed = np.random.default_rng(1).random(2_000) < 0.06
    whole = calls_to_demotion(malformed, policy)
    watch = DemotionWatch()
    cut = whole // 2
    assert calls_to_demotion(malformed[:cut], policy, watch) is None
    restored = DemotionWatch.from_exported(json.loads(json.dumps(watch.exported())))
    assert calls_to_demotion(malformed[cut:], policy, restored) == whole - cut


@pytest.mark.parametrize(
    "edit", [{"malformed": [2]}, {"detectors": [1.0]}, {"detectors": [-1.0] * 5}, {"version": 9}, {"x": 1}]
)
def test_a_watch_that_cannot_be_is_refused(edit):
    with pytest.raises(BadInputError, match="watch"):
        DemotionWatch.from_exported(DemotionWatch().exported() | edit)


def test_a_smaller_window_after_a_reload_forgets_the_rest():
    watch = DemotionWatch()
    assert calls_to_demotion([1, 1] + [0] * 40, POLICY, watch) is None
    narrow = load_strict("formatting: {window: 20, max_malformed: 0.1}", DemotionPolicy, "promotion.yaml")
    assert calls_to_demotion([1, 1], narrow, watch) is None
    assert calls_to_demotion([1], narrow, watch) == 1
