import pytest

from policies.conduct import ConductBook, Speed

MINUTE = 60_000
NOW = 1_795_262_400_000


def test_a_stranger_is_known_by_its_prior():
    book = ConductBook()
    assert book.trials("a", "c") == 0.0
    assert book.p_believed("a", "c", 0.7) == 0.7
    assert book.formatting("a", NOW) == (0.0, 0)
    assert book.speed("a") is None


def test_belief_moves_from_the_prior_to_what_is_seen():
    book = ConductBook()
    for n in range(20):
        book.observe("a", "c", "verified" if n % 2 else "unsure", NOW)
    assert book.p_believed("a", "c", 0.9) == pytest.approx(0.7, abs=0.01)
    for n in range(2000):
        book.observe("a", "c", "verified" if n % 10 == 0 else "unsure", NOW)
    assert book.p_believed("a", "c", 0.9) == pytest.approx(0.13, abs=0.02)
    assert book.p_believed("a", "other", 0.9) == 0.9, "clusters are apart"


def test_old_evidence_fades():
    book = ConductBook()
    for n in range(1500):
        book.observe("a", "c", "verified" if n < 1000 else "unsure", NOW)
    assert book.p_believed("a", "c", 0.5) < 0.4, "of 1,500 answers two thirds were believed, the latest third was not"
    assert 400 < book.trials("a", "c") < 500


def test_an_outage_says_nothing_about_answers():
    book = ConductBook()
    for _ in range(100):
        book.observe("a", "c", "failed", NOW)
        book.observe("a", "c", "timed_out", NOW)
    assert book.p_believed("a", "c", 0.9) == 0.9
    assert book.formatting("a", NOW) == (0.0, 0)


def test_formatting_is_that_of_the_last_hour():
    book = ConductBook()
    for n in range(10):
        book.observe("a", "c", "malformed" if n < 4 else "verified", NOW)
    assert book.formatting("a", NOW) == (0.4, 10)
    for _ in range(10):
        book.observe("a", "d", "verified", NOW + 30 * MINUTE)
    assert book.formatting("a", NOW + 30 * MINUTE) == (0.2, 20)
    assert book.formatting("a", NOW + 59 * MINUTE) == (0.2, 20)
    assert book.formatting("a", NOW + 60 * MINUTE) == (0.0, 10)
    assert book.formatting("a", NOW + 500 * MINUTE) == (0.0, 0)
    book.observe("a", "c", "malformed", NOW)
    assert book.formatting("a", NOW + 500 * MINUTE) == (1.0, 1), "a clock that steps back loses nothing"


def test_speed_follows_what_is_measured_and_returns_to_the_prior_in_silence():
    book, prior = ConductBook(), Speed(300.0, 50.0)
    book.observe_speed("a", 1000.0, 3000.0, 20, NOW)
    measured = book.speed("a", prior, NOW)
    assert (measured.first_token_ms, measured.tokens_per_s) == pytest.approx((1000.0, 10.0))
    later = book.speed("a", prior, NOW + 5 * MINUTE)
    assert later.first_token_ms == pytest.approx(650.0)
    assert book.speed("a", prior, NOW + 100 * MINUTE).tokens_per_s == pytest.approx(50.0, rel=0.01)
    for _ in range(60):
        book.observe_speed("a", 100.0, 300.0, 20, NOW)
    assert book.speed("a").tokens_per_s == pytest.approx(100.0, rel=0.05)


def test_whole_answers_tell_the_total_time():
    book = ConductBook()
    book.observe_speed("a", None, 2000.0, 20, NOW)
    speed = book.speed("a")
    assert speed.first_token_ms + 20 * 1000.0 / speed.tokens_per_s == pytest.approx(2000.0)
    for nonsense in (0.0, float("nan"), float("inf")):
        book.observe_speed("a", None, nonsense, 5, NOW)
    book.observe_speed("a", None, 10.0, 0, NOW)
    assert book.speed("a") == speed


def test_answer_lengths_are_remembered():
    book = ConductBook()
    assert book.output_tokens("a", "c") is None
    book.observe("a", "c", "verified", NOW, output_tokens=12)
    assert book.output_tokens("a", "c") == 12


def test_memory_is_bounded_and_what_was_used_last_stays():
    book = ConductBook(max_candidates=2, max_beliefs=2)
    for name in ("a", "b", "c"):
        book.observe(name, "x", "malformed", NOW)
    assert book.formatting("a", NOW) == (0.0, 0)
    assert book.formatting("c", NOW) == (1.0, 1)
    assert book.p_believed("a", "x", 0.9) == 0.9
    assert book.p_believed("c", "x", 0.9) < 0.9
