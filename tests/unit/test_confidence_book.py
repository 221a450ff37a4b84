import json
import math

import numpy as np
import pytest
from msgspec import structs

from policies.confidence_book import ACCEPT_NOTHING, ConfidenceBook, JudgedAnswer
from policies.learning import ConfidencePolicy
from registry.errors import BadInputError, StorageError

POLICY = ConfidencePolicy(min_sample=50)
REGISTRY = -7.0
SHIFT = 1.8124  # AUROC 0.9


def judged(n, score=-1.0, right=True, **more):
    return JudgedAnswer(id=f"call-{n}", at_ms=n, score=score, right=right, **more)


def feed(book, answers, specialist="s"):
    return [made for made in (book.observe(specialist, answer) for answer in answers) if made is not None]


def stream(rng, n, error, start=0, **more):
    """Answers whose true risk is known: wrong ones score N(0, 1), right ones N(SHIFT, 1)."""
    right = rng.random(n) >= error
    scores = rng.standard_normal(n) + SHIFT * right
    pairs = zip(scores.tolist(), right.tolist(), strict=True)
    return [judged(start + k, score, ok, **more) for k, (score, ok) in enumerate(pairs)]


def true_risk(threshold, error):
    return error * 0.5 * math.erfc(threshold / math.sqrt(2)) if threshold is not None else error


def test_the_registry_decides_until_enough_was_judged():
    book = ConfidenceBook(POLICY)
    assert book.threshold("s", REGISTRY) == REGISTRY
    assert book.threshold("s", None) is None, "the registry sets none: nothing is checked"
    feed(book, [judged(n) for n in range(54)])
    assert book.threshold("s", REGISTRY) == REGISTRY
    assert book.calibration("s") is None
    made = feed(book, [judged(54)])
    assert [m.sample for m in made] == [55], "the first count at which an answer without fault proves 5 % at delta_1"
    assert made[0].delta == pytest.approx(0.1 * 6 / math.pi**2)
    assert book.threshold("s", REGISTRY) == -1.0
    assert book.threshold("other", REGISTRY) == REGISTRY


def test_min_sample_can_ask_for_more():
    book = ConfidenceBook(ConfidencePolicy(min_sample=300))
    assert [made.sample for made in feed(book, [judged(n) for n in range(400)])] == [300]


def test_where_nothing_can_be_justified_nothing_is_believed():
    book = ConfidenceBook(POLICY)
    feed(book, [judged(n, right=n % 2 == 0) for n in range(60)])
    assert book.threshold("s", REGISTRY) == ACCEPT_NOTHING
    assert book.coverage("s").share == 0.0
    assert book.risk("s").share == 0.0


def test_the_level_is_spent_over_all_calibrations():
    book = ConfidenceBook(POLICY)
    spent = [made.delta for made in feed(book, [judged(n) for n in range(9_000)])]
    assert len(spent) == 7, "55, 220, 880, 2,880, ...: seldom"
    assert sum(spent) < POLICY.delta
    assert spent == [pytest.approx(0.1 * 6 / math.pi**2 / k**2) for k in range(1, 8)]


def test_every_threshold_ever_in_force_keeps_the_bound_at_once():
    rng, error, runs = np.random.default_rng(1), 0.3, 80
    broken = 0
    coverage = []
    for _ in range(runs):
        book = ConfidenceBook(POLICY)
        made = feed(book, stream(rng, 1_500, error))
        broken += any(m.threshold is not None and true_risk(m.threshold, error) > 0.05 for m in made)
        coverage.append(book.coverage("s").share)
    assert broken / runs <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / runs)
    assert np.mean(coverage) > 0.48, "61 % could be accepted by one who knew the truth"


def told(answer, threshold, share, how):
    """What the gateway tells the book of an answer: a share of the believed is judged, the escalated are or are not."""
    believed = answer.score >= threshold
    chosen = structs.replace(answer, chance=share if believed else 1.0, least_chance=share)
    unjudged = structs.replace(chosen, right=answer.right if believed else None, judged_from=threshold)
    return {"compared": chosen, "unjudged": unjudged, "pooled": answer}[how]


def ever_broken(rng, how, error, share=0.1):
    """Whether any threshold in force broke the bound: 300 answers of a shadow, then 6,000 live ones."""
    book = ConfidenceBook(POLICY)
    feed(book, stream(rng, 300, error))
    broken = False
    for answer in stream(rng, 6_000, error, start=300):
        threshold = book.threshold("s", REGISTRY)
        broken |= threshold != ACCEPT_NOTHING and true_risk(threshold, error) > 0.05
        if answer.score < threshold or rng.random() < share:
            book.observe("s", told(answer, threshold, share, how))
    return broken


@pytest.mark.parametrize(("how", "least", "most"), [("compared", 0, 0.2), ("unjudged", 0, 0.2), ("pooled", 0.4, 1)])
def test_a_selected_sample_is_corrected_for_its_selection(how, least, most):
    """`pooled` takes the same judgements for an even sample, and so must break the bound of 10 %."""
    rng = np.random.default_rng(2)
    assert least <= np.mean([ever_broken(rng, how, 0.3) for _ in range(30)]) <= most


def test_escalated_answers_alone_say_nothing():
    book = ConfidenceBook(POLICY)
    feed(book, [judged(n, -9.0, least_chance=0.0) for n in range(500)])
    assert book.risk("s") is None
    assert book.calibration("s") is None


def test_answers_judged_only_when_believed_never_loosen_the_threshold():
    book = ConfidenceBook(POLICY)
    feed(book, [judged(n, -1.0) for n in range(880)])
    assert book.threshold("s", None) == -1.0
    feed(book, [judged(1_000 + n, -0.5, judged_from=-0.8) for n in range(5_000)])
    assert book.calibration("s").sample == 2_000, "the window holds these alone now"
    assert book.threshold("s", None) == -0.8
    feed(book, [judged(9_000 + n, -0.5, right=n % 3 > 0, judged_from=-0.8) for n in range(300)])
    assert book.threshold("s", None) > -0.5, "and they can tighten it"


def test_an_even_share_of_each_kind_is_kept():
    book = ConfidenceBook(POLICY)
    feed(book, [judged(n, -9.0, least_chance=0.1) for n in range(10_000)])
    assert 850 <= book.risk("s", 0.0).sample <= 1_150


def test_an_answer_counts_once():
    book = ConfidenceBook(POLICY)
    feed(book, [judged(0) for _ in range(100)])
    feed(book, [judged(0, right=False)])
    assert book.risk("s").sample == 1
    assert book.risk("s").share == 0.0


def test_a_jump_of_the_errors_tightens_the_threshold_long_before_the_next_calibration():
    rng = np.random.default_rng(3)
    book = ConfidenceBook(POLICY)
    feed(book, stream(rng, 3_000, 0.05))
    assert true_risk(book.threshold("s", None), 0.25) > 0.15
    made = feed(book, stream(rng, 200, 0.25, start=3_000))
    assert made, "200 answers, not 2,000"
    assert true_risk(book.threshold("s", None), 0.25) <= 0.05
    feed(book, stream(rng, 4_000, 0.25, start=4_000))
    assert book.coverage("s").share > 0.5, "and it recovers: 67 % could be accepted"
    assert true_risk(book.threshold("s", None), 0.25) <= 0.05


def test_a_slow_drift_tightens_between_calibrations_and_never_loosens():
    rng = np.random.default_rng(4)
    book = ConfidenceBook(POLICY)
    feed(book, stream(rng, 2_880, 0.1))
    assert book.calibration("s").delta < POLICY.delta, "a calibration of its own part of delta"
    before = book.threshold("s", None)
    made = feed(book, stream(rng, 1_750, 0.2, start=2_880))
    assert made
    assert all(m.delta == POLICY.delta for m in made), "none was due: these only tighten"
    assert all(m.threshold is None or m.threshold > before for m in made)


def test_rates_for_the_metrics():
    book = ConfidenceBook(POLICY)
    assert book.coverage("s") is None
    assert book.risk("s") is None
    feed(book, [judged(n, -1.0 if n % 4 else -5.0, right=n % 10 > 0) for n in range(40)])
    before = book.coverage("s", fallback=-2.0)
    assert (before.share, before.sample) == (0.75, 40)
    assert book.risk("s", fallback=-2.0).share == 2 / 40
    assert book.risk("s").share == 4 / 40, "without any threshold all are accepted"
    assert book.risk("s").share < book.risk("s").upper < 0.25


def test_the_state_goes_through_json_and_comes_back():
    rng = np.random.default_rng(5)
    first, second = ConfidenceBook(POLICY), ConfidenceBook(POLICY)
    odd = [judged(9_000, None, right=False), judged(9_001, -9.0, None, judged_from=-2.0)]
    answers = [*stream(rng, 1_500, 0.3), *odd]
    feed(first, answers)
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert second.state() == first.state()
    assert second.calibration("s") == first.calibration("s")
    later = stream(rng, 2_500, 0.3, start=10_000)
    assert feed(second, later) == feed(first, later) != []
    assert feed(second, answers[:10]) == [], "it knows them"


def test_a_state_of_another_bound_is_calibrated_anew():
    book = ConfidenceBook(ConfidencePolicy(max_accepted_wrong=0.3, min_sample=50))
    feed(book, stream(np.random.default_rng(6), 1_000, 0.3))
    strict = ConfidenceBook(ConfidencePolicy(max_accepted_wrong=0.02, min_sample=50))
    strict.restore(book.state())
    assert strict.calibration("s").alpha == 0.02
    assert strict.threshold("s", None) > book.threshold("s", None)
    small = ConfidenceBook(POLICY)
    feed(small, [judged(n) for n in range(60)])
    strict.restore(small.state())
    assert strict.threshold("s", REGISTRY) == REGISTRY, "60 answers justify no threshold at 2 %"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "version"),
        ({"version": 2, "specialists": {}}, "version 2"),
        ({"version": 1, "specialists": {"s": {"answers": [["a", 0, "high", True, None]]}}}, r"answers\[0\]\[2\]"),
        ({"version": 1, "specialists": {"s": {"answers": [["a", 0, -2.0, True, -1.0]]}}}, "`s`"),
    ],
)
def test_a_broken_state_is_refused_and_changes_nothing(state, said):
    book = ConfidenceBook(POLICY)
    feed(book, [judged(n) for n in range(60)])
    before = book.state()
    for take in (book.restore, book.absorb):
        with pytest.raises(StorageError, match=said):
            take(state)
    assert book.state() == before


def test_two_books_become_one():
    rng = np.random.default_rng(7)
    answers = stream(rng, 400, 0.3)
    left, right, whole = ConfidenceBook(POLICY), ConfidenceBook(POLICY), ConfidenceBook(POLICY)
    feed(left, answers[::2])
    feed(right, answers[1::2])
    feed(whole, answers)
    assert left.absorb(right.state()) == ["s"], "220 were due, and 400 are here"
    assert sorted(left.sample("s").scores) == sorted(whole.sample("s").scores)
    assert left.calibration("s").sample == 400
    before = left.state()
    assert left.absorb(right.state()) == []
    assert left.state() == before, "the same again changes nothing"


def test_the_book_is_bounded():
    book = ConfidenceBook(ConfidencePolicy(window=100, min_sample=50), max_specialists=3)
    for name in "abcd":
        feed(book, [judged(n) for n in range(250)], name)
    assert sorted(book.state()["specialists"]) == ["b", "c", "d"]
    assert len(book.sample("d")) == 100
    assert book.sample("d").scores.tolist() == [-1.0] * 100
    book.keep_only(["c"])
    assert list(book.state()["specialists"]) == ["c"]
    assert book.threshold("b", REGISTRY) == REGISTRY


def test_late_news_takes_its_place_in_time():
    book = ConfidenceBook(ConfidencePolicy(window=50, min_sample=500))
    feed(book, [judged(n) for n in range(100, 150)])
    feed(book, [judged(99, right=False)])
    assert book.risk("s").share == 0.0, "older than the whole window"
    feed(book, [judged(200), judged(150, right=False)])
    assert book.risk("s").share == 1 / 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"chance": 0.0},
        {"chance": 0.1, "least_chance": 0.2},
        {"chance": 1.5},
        {"chance": math.nan},
        {"least_chance": -0.1},
        {"score": math.inf},
        {"score": -2.0, "judged_from": -1.0},
        {"score": None, "judged_from": -1.0},
        {"score": -1.0, "right": None},
        {"score": -1.0, "right": None, "judged_from": -2.0},
    ],
)
def test_answers_that_contradict_themselves_are_refused(wrong):
    with pytest.raises(BadInputError, match="`s`"):
        ConfidenceBook(POLICY).observe("s", structs.replace(judged(0), **wrong))


def test_p_right_follows_the_score():
    book = ConfidenceBook(POLICY)
    assert book.p_right("s", 0.0) is None
    feed(book, stream(np.random.default_rng(8), 900, 0.3))
    assert book.p_right("s", -2.0) < 0.3
    assert book.p_right("s", 3.5) > 0.95
