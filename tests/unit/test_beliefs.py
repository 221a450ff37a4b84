"""What outcomes teach the live beliefs, and what is kept of it on disk."""

import math
import random
import time
from pathlib import Path

import pytest

from observations.records import AttemptRecord, CallRecord
from policies.confidence_book import JudgedAnswer
from policies.learning import ConfidencePolicy, LearningPolicy
from policies.planner import plan
from policies.terms import PlannerPolicy
from registry.errors import ConfigError
from router_service.belief_store import BeliefStore
from router_service.beliefs import Beliefs
from router_service.vectors import TextVectors
from router_service.wire.chat import FeedbackRequest
from specialists.embedder import hashing_embedder
from tests.unit.planning import candidate, request

SPECIALIST = "triage@0123456789ab"
POLICY = PlannerPolicy(confidence=ConfidencePolicy(min_sample=50), learning=LearningPolicy())


def beliefs():
    return Beliefs(POLICY, TextVectors(hashing_embedder(7)))


def answered(number, confidence, threshold=-5.0):
    attempt = AttemptRecord(
        candidate=SPECIALIST, backend="b", outcome="verified", confidence=confidence, threshold=threshold
    )
    return CallRecord(id=f"call_{number}", at_ms=1, cluster="triage", served_by=SPECIALIST, attempts=(attempt,))


def say(success):
    return FeedbackRequest(id="x", outcome="success" if success else "failure")


def quality(known):
    return known.qualities([SPECIALIST], known.middle_of("triage"), [0.9])[0]


def test_feedback_on_a_forgotten_call_still_counts_for_its_cluster():
    known = beliefs()
    for number in range(100):
        known.judged(answered(number, -0.1), say(number % 2 == 0))
    assert quality(known).mean == pytest.approx(0.57, abs=0.05), "0.9 of 20 calls' weight, then half of 100"
    assert quality(known).evidence == pytest.approx(100, abs=0.1)


def test_judged_answers_tighten_the_threshold_and_never_loosen_it():
    known, rng = beliefs(), random.Random(3)
    for number in range(400):
        sure = -rng.uniform(0.0, 5.0)
        known.judged(answered(number, sure), say(sure > -1.0 or rng.random() < 0.5))
    tightened = known.confidence.threshold(SPECIALIST, -5.0)
    assert -3.0 < tightened < math.inf
    good = beliefs()
    for number in range(400):
        good.judged(answered(number, -rng.uniform(0.0, 5.0)), say(True))
    assert good.confidence.threshold(SPECIALIST, -5.0) >= -5.0, "nothing below what was believed has been judged"


def test_an_answer_whose_confidence_was_not_checked_calibrates_nothing():
    known = beliefs()
    for number in range(400):
        known.judged(answered(number, -0.1, threshold=None), say(True))
    assert known.confidence.calibration(SPECIALIST) is None


def test_what_is_written_is_what_is_read(tmp_path: Path):
    known, store = beliefs(), BeliefStore(tmp_path, "one")
    for number in range(80):
        known.judged(answered(number, -0.1), say(number % 4 != 0))
    store.save(known.learned())
    again = beliefs()
    again.remember(store.own())
    assert quality(again).mean == pytest.approx(quality(known).mean, abs=1e-6)
    assert len(again.confidence.sample(SPECIALIST)) == 80
    assert (tmp_path / "one.beliefs").stat().st_mode & 0o077 == 0


def test_two_routers_together_know_what_one_would_know(tmp_path: Path):
    one, two, both = beliefs(), beliefs(), beliefs()
    for number in range(120):
        for known in (one if number % 2 else two, both):
            known.judged(answered(number, -0.1), say(number % 3 != 0))
    BeliefStore(tmp_path, "two").save(two.learned())
    store = BeliefStore(tmp_path, "one")
    one.hear(store.others())
    assert quality(one).mean == pytest.approx(quality(both).mean, abs=1e-3)
    assert store.others() is None, "nothing new"
    one.hear([])
    assert quality(one).evidence == pytest.approx(60, abs=0.1), "who leaves takes his outcomes along"


def test_another_routers_unreadable_file_is_left_alone(tmp_path: Path):
    (tmp_path / "two.beliefs").write_bytes(b"of a later version")
    assert BeliefStore(tmp_path, "one").others() == []
    assert [path.name for path in tmp_path.iterdir()] == ["two.beliefs"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65])
def test_a_router_name_is_a_file_name(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="JOURNEYMAN_ROUTER_NAME"):
        BeliefStore(tmp_path, name)


def test_a_candidate_missing_for_a_moment_is_not_forgotten(monkeypatch):
    known = beliefs()
    known.judged(answered(1, -0.1), say(True))
    clock = [0.0]
    monkeypatch.setattr("router_service.beliefs.time.monotonic", lambda: clock[0])
    known.listed([SPECIALIST, "frontier"])
    clock[0] = 1_800.0
    known.listed(["frontier"])
    assert quality(known).evidence == pytest.approx(1.0, abs=0.01)
    clock[0] = 6_000.0
    known.listed(["frontier"])
    assert quality(known).evidence == 0.0


def decide(known, number):
    """A call of the cluster is remembered as decided."""
    made = plan(request(), [candidate(SPECIALIST, 0.1, 0.9, is_frontier=True)], POLICY)
    known.decided(f"call_{number}", known.middle_of("triage"), made)


def calibrated():
    """Beliefs in which sure answers are known to be right about as often as they were judged to be."""
    known, rng = beliefs(), random.Random(5)
    for number in range(400):
        answer = JudgedAnswer(
            id=f"c{number}",
            at_ms=int(time.time() * 1000),
            score=-rng.uniform(0.0, 5.0),
            right=rng.random() < 0.97,
            judged_from=-5.0,
        )
        known.compared(SPECIALIST, answer)
    assert known.confidence.p_right(SPECIALIST, -0.1) is not None
    return known


def test_any_number_of_unjudged_answers_counts_no_more_than_the_prior():
    known = calibrated()
    for number in range(1_000):
        decide(known, number)
        known.attempted(f"call_{number}", answered(number, -0.1).attempts[0])
    assert quality(known).evidence == pytest.approx(0.0, abs=1e-6), "nobody has judged anything"
    before = quality(known).mean
    for number in range(2_000, 2_060):
        known.judged(answered(number, -0.1), say(False))
    assert before > 0.9
    assert quality(known).mean < 0.5, "60 judgements against the prior's 20 and silence's 20"
    assert quality(known).evidence == pytest.approx(60, abs=0.1)


def test_what_silence_taught_is_remembered_over_a_restart(tmp_path):
    known = calibrated()
    for number in range(400):
        decide(known, number)
        known.attempted(f"call_{number}", answered(number, -0.1).attempts[0])
    store = BeliefStore(tmp_path, "r")
    store.save(known.learned())
    again = beliefs()
    again.remember(store.own())
    assert quality(again).evidence == pytest.approx(0.0, abs=1e-3)
    heard = beliefs()
    heard.hear([known.learned()])
    assert quality(heard).evidence == pytest.approx(0.0, abs=1e-3)
