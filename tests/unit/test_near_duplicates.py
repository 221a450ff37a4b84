"""Near-duplicates: above 0.8 and nothing else, in bounded work."""

import random

import numpy as np
import pytest

from pipelines.near_duplicates import (
    BANDS,
    DistinctTexts,
    jaccard,
    shared_buckets,
    shingles_of,
    sketches_of,
    words_in,
)


def distinct(texts, scopes=None, threshold=0.8):
    """The rows that stay, first come first kept."""
    scopes = np.array(scopes if scopes is not None else [0] * len(texts), dtype=np.int64)
    known = DistinctTexts(sketches_of(texts), scopes, texts.__getitem__, threshold)
    kept = []
    for row in range(len(texts)):
        if known.duplicate_of(row) is None:
            known.keep(row)
            kept.append(row)
    return kept


def edited(rng, words, share):
    return [f"new{rng.random()}" if rng.random() < share else word for word in words]


def test_words_keep_values_and_forget_case_and_punctuation():
    assert words_in("Order #4711: 12.50 EUR, PLEASE!") == ["order", "4711", "12", "50", "eur", "please"]
    assert words_in("\uff32efund 我要退款") == ["refund", "我", "要", "退", "款"]


def test_case_and_punctuation_make_no_other_text_but_a_value_does():
    assert distinct(["Refund order 17, please.", "refund ORDER 17 please!!", "Refund order 18, please."]) == [0, 2]


def test_texts_without_words_are_compared_as_they_are():
    assert distinct(["???", "!!!", "???", "", " "]) == [0, 1, 3]


def test_just_at_the_threshold_is_no_duplicate():
    shared = [f"w{at}" for at in range(42)]
    at_threshold = [" ".join([*shared, *(f"{name}{at}" for at in range(5))]) for name in "ab"]
    assert jaccard(*map(shingles_of, at_threshold)) == 0.8
    assert distinct(at_threshold) == [0, 1]
    assert distinct(at_threshold, threshold=0.79) == [0]


def test_pairs_above_are_found_and_pairs_below_are_kept():
    """Of 600 pairs with similarities all over the range, the decision follows the true figure."""
    rng = random.Random(5)
    missed = wrong = above = 0
    for _ in range(600):
        words = [f"w{rng.randrange(10**6)}" for _ in range(rng.randrange(20, 120))]
        pair = [" ".join(words), " ".join(edited(rng, words, rng.choice((0.005, 0.02, 0.05, 0.1))))]
        similarity = jaccard(*map(shingles_of, pair))
        is_dropped = len(distinct(pair)) == 1
        above += similarity > 0.8
        missed += similarity > 0.8 and not is_dropped
        wrong += similarity <= 0.8 and is_dropped
    assert above > 150
    assert wrong == 0
    assert missed <= above * 0.01


def test_duplicates_are_found_within_a_scope_only():
    assert distinct(["same text here"] * 4, scopes=[0, 1, 0, 1]) == [0, 1]


def test_lone_texts_share_no_bucket_and_equal_ones_share_all():
    texts = [f"alpha{n} beta{n} gamma{n} delta{n}" for n in range(500)] + ["alpha0 beta0 gamma0 delta0"]
    buckets = shared_buckets(sketches_of(texts), np.zeros(len(texts), dtype=np.int64))
    assert (buckets[0] == buckets[-1]).all() and (buckets[0] > 0).all()
    assert len(set(buckets[0].tolist())) == BANDS
    assert not buckets[1:-1].any()


@pytest.mark.parametrize("count", [3_000])
def test_a_crowd_that_is_nearly_alike_is_bounded_work(count):
    """Boilerplate makes every pair 0.6 alike: all meet in buckets, and none is a duplicate."""
    rng = random.Random(3)
    boilerplate = " ".join(f"fixed{at}" for at in range(60))
    texts = [f"{boilerplate} {' '.join(f'v{rng.randrange(10**6)}' for _ in range(18))}" for _ in range(count)]
    compared = 0

    def text_of(row):
        nonlocal compared
        compared += 1
        return texts[row]

    known = DistinctTexts(sketches_of(texts), np.zeros(count, dtype=np.int64), text_of)
    for row in range(count):
        assert known.duplicate_of(row) is None
        known.keep(row)
    assert compared <= 17 * count
