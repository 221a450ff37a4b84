"""Beliefs under bad luck: kills, clocks, twins, restarts, candidates that are gone, calls that were refused."""

import math
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from observations.records import AttemptRecord, CallRecord
from policies.bandit import Bandit, Context
from policies.bandit_state import BanditState
from policies.learning import LearningPolicy, SpendPolicy
from policies.pacer import HIGHEST_LAM
from policies.planner import plan
from policies.terms import PlannerPolicy
from registry.errors import ConfigError, StorageError
from registry.strict_yaml import load_strict
from router_service.belief_store import BeliefStore
from router_service.beliefs import REMEMBERED, Beliefs
from router_service.pace import Menu, Pace
from router_service.vectors import TextVectors
from router_service.wire.chat import FeedbackRequest
from specialists.embedder import hashing_embedder
from tests.unit.planning import candidate, request

VECTORS = TextVectors(hashing_embedder(5))
YES, NO = FeedbackRequest(id="x", outcome="success"), FeedbackRequest(id="x", outcome="failure")


def beliefs(**policy):
    return Beliefs(PlannerPolicy(**policy), VECTORS)


def call(number, served_by="m", cost_usd=0.001):
    attempts = (AttemptRecord(candidate=served_by, backend="b", outcome="verified"),) if served_by else ()
    return CallRecord(
        id=f"call_{number}", at_ms=1, cluster="c", served_by=served_by, attempts=attempts, cost_usd=cost_usd
    )


def believed(known, name="m", prior=0.9):
    return known.qualities([name], known.middle_of("c"), [prior])[0]


def test_threads_that_save_at_once_take_turns(tmp_path: Path):
    known, store, troubles = beliefs(), BeliefStore(tmp_path, "one"), []
    for number in range(50):
        known.judged(call(number), YES)
    learned = known.learned()

    def save():
        try:
            for _ in range(10):
                store.save(learned)
        except StorageError as error:
            troubles.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not troubles
    assert BeliefStore(tmp_path, "one").own().judged == learned.judged


def test_two_processes_of_one_name_do_not_overwrite_each_other(tmp_path: Path):
    first, second = BeliefStore(tmp_path, "router"), BeliefStore(tmp_path, "router")
    first.save(beliefs().learned())
    with pytest.raises(StorageError, match="JOURNEYMAN_ROUTER_NAME"):
        second.save(beliefs().learned())
    first.close()
    second.save(beliefs().learned())


def test_a_file_whose_thresholds_cannot_be_read_is_moved_aside_whole(tmp_path: Path):
    store = BeliefStore(tmp_path, "one")
    store.save(msgspec.structs.replace(beliefs().learned(), confidence={"version": 99, "specialists": {}}))
    assert store.own() is None
    assert [path for path in tmp_path.iterdir() if "unreadable" in path.name]


def test_feedback_that_has_taught_teaches_no_more_after_a_restart(tmp_path: Path):
    known, store = beliefs(), BeliefStore(tmp_path, "one")
    known.judged(call(1), NO)
    store.save(known.learned())
    again = beliefs()
    again.remember(store.own())
    before = believed(again)
    again.judged(call(1), NO)
    assert believed(again).evidence == pytest.approx(before.evidence, abs=1e-3)


def test_what_is_known_of_candidates_that_left_before_the_start_is_forgotten_too(monkeypatch):
    known, clock = beliefs(), [0.0]
    monkeypatch.setattr("router_service.beliefs.time.monotonic", lambda: clock[0])
    known.judged(call(1, served_by="gone"), YES)
    again = beliefs()
    again.remember(known.learned())
    again.judged(call(2, served_by="long gone"), YES)
    for clock[0] in (10.0, 4_000.0):
        again.listed(["m"])
    assert again.learned().bandit.arms == ()


def test_learning_switched_off_means_the_registrys_word_whatever_was_learned_before():
    known = beliefs()
    for number in range(50):
        known.judged(call(number), NO)
    off = beliefs(learning=LearningPolicy(enabled=False))
    off.remember(known.learned())
    assert believed(off, prior=0.8).mean == 0.8, "a score of just the SLA meets it"
    assert believed(off, prior=None).mean == 0.5
    assert off.learned().bandit.arms == ("m",), "and switching it on again brings everything back"


def test_calls_that_were_refused_save_no_money_for_the_others():
    known = beliefs(spend=SpendPolicy(usd_per_call=0.001))
    made = plan(request(), [candidate("m", is_frontier=True)], PlannerPolicy())
    for number in range(100):
        known.decided(f"call_{number}", known.context("text", "c"), made)
        known.ended(call(number, served_by="", cost_usd=0.0))
    assert known.pace.balance_usd == 0.0


def test_a_call_that_ended_is_paid_once():
    known = beliefs(spend=SpendPolicy(usd_per_call=0.001))
    made = plan(request(), [candidate("m", is_frontier=True)], PlannerPolicy())
    known.decided("call_1", known.context("text", "c"), made)
    for _ in range(3):
        known.ended(call(1, cost_usd=0.003))
    assert known.pace.balance_usd == pytest.approx(-0.002)


def test_memory_for_later_feedback_is_bounded():
    known = beliefs()
    made = plan(request(), [candidate("m", is_frontier=True)], PlannerPolicy())
    context = known.context("text", "c")
    for number in range(REMEMBERED + 100):
        known.decided(f"call_{number}", context, made)
        known.judged(call(number), YES)
    assert len(known._decided) == len(known._judged) == REMEMBERED


HOUR, YEAR = 490_000.0, 8_766.0
X = Context(VECTORS.of("a text"), "c")


def taught(times, at_h=HOUR, reward=1.0):
    bandit = Bandit(LearningPolicy(), "f", VECTORS.dimension)
    for _ in range(times):
        bandit.learn("m", X, reward, at_h)
    return bandit


def of(bandit, at_h=HOUR):
    return bandit.beliefs(["m"], X, [0.5], at_h)[0]


@pytest.mark.parametrize("years", [0.01, 1.0, 3.0, 30.0, 300.0])
def test_an_outcome_from_a_clock_that_was_ahead_is_one_outcome(years):
    """A clock that was wrong for a moment must not make that moment's outcome worth more than all others for ever."""
    bandit = taught(50)
    bandit.learn("m", X, 0.0, HOUR + years * YEAR)
    for _ in range(200):
        bandit.learn("m", X, 1.0, HOUR)
    assert 200 <= of(bandit).evidence <= 251.5
    assert of(bandit).mean > 0.85
    again = Bandit(LearningPolicy(), "f", VECTORS.dimension)
    again.restore(BanditState.from_bytes(bandit.state(HOUR).to_bytes()))
    assert of(again).evidence == pytest.approx(of(bandit).evidence)
    assert of(again, HOUR + 168.0).evidence == pytest.approx(of(bandit).evidence / 2), "and it fades from then on"


def test_a_clock_that_was_ahead_when_beliefs_were_kept_stops_no_learning():
    again = Bandit(LearningPolicy(), "f", VECTORS.dimension)
    again.restore(taught(50, HOUR + YEAR).state(HOUR + YEAR))
    for _ in range(100):
        again.learn("m", X, 0.0, HOUR)
    assert of(again).evidence == pytest.approx(150.0) and of(again).mean < 0.5


@pytest.mark.parametrize("years", [0.05, 1.0, 100.0])
def test_a_router_whose_clock_is_ahead_is_not_believed_more_than_others(years):
    bandit, other = taught(50), taught(1, HOUR + years * YEAR, reward=0.0)
    bandit.absorb([other.state(HOUR + years * YEAR)], HOUR)
    assert of(bandit).evidence == pytest.approx(51.0)
    bandit.learn("m", X, 1.0, HOUR)
    assert of(bandit).evidence == pytest.approx(52.0)


def test_a_router_that_stopped_long_ago_has_faded():
    bandit, other = taught(50), taught(100, HOUR - 168.0, reward=0.0)
    bandit.absorb([other.state(HOUR - 168.0)], HOUR)
    assert of(bandit).evidence == pytest.approx(100.0)
    bandit.absorb([taught(100, HOUR - 100 * YEAR).state(HOUR - 100 * YEAR)], HOUR)
    assert of(bandit).evidence == pytest.approx(50.0)


@pytest.mark.parametrize("amount", ["1.0e-320", "1.0e+300", "0", "-1", ".inf"])
@pytest.mark.parametrize("name", ["usd_per_call", "usd_per_hour"])
def test_a_ceiling_that_is_no_money_is_refused_at_the_start(name, amount):
    with pytest.raises(ConfigError, match=name):
        load_strict(f"spend: {{{name}: {amount}}}\n", PlannerPolicy, "planner.yaml")


@pytest.mark.parametrize("amount", [1e-12, 1e12])
@pytest.mark.parametrize("name", ["usd_per_call", "usd_per_hour"])
@pytest.mark.parametrize("costs", [[0.0, 0.0], [0.0, 0.01], [1e-9, 5e3], [], [0.0]])
def test_the_widest_ceilings_have_a_price_that_is_a_number(name, amount, costs):
    pace = Pace(SpendPolicy(**{name: amount}))
    for _ in range(200):
        pace.paid(Menu(np.linspace(0.5, 0.9, len(costs)), np.array(costs)), max(costs, default=0.01))
        assert 0.0 <= pace.lam <= 1.1 * HIGHEST_LAM and math.isfinite(pace.balance_usd)


def test_an_hourly_ceiling_holds_in_the_hour_after_a_night(monkeypatch):
    """A thousand calls an hour, a night of silence, and again: what was not spent at night is not there to be spent."""
    clock, rng = [0.0], np.random.default_rng(0)
    monkeypatch.setattr("router_service.pace.time.monotonic", lambda: clock[0])
    pace = Pace(SpendPolicy(usd_per_hour=1.0))

    def hour():
        spent_usd = 0.0
        for _ in range(1000):
            clock[0] += 3.6
            costs, values = np.array([0.001, 0.1]) / 10, np.array([0.5, 0.9]) + rng.normal(scale=0.05, size=2)
            cost = float(costs[np.argmax(values - max(pace.lam, 1e-3) * costs)])
            pace.paid(Menu(values, costs), cost)
            spent_usd += cost
        return spent_usd

    assert hour() < 1.35 and 0.9 < hour() < 1.1
    clock[0] += 8 * 3600.0
    assert hour() < 1.35 and 0.9 < hour() < 1.1
