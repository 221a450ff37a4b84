# ruff: noqa: E402 - what follows needs the engine extra
"""Cached prefixes: found for the same adapter only, kept within their memory."""

import pytest

torch = pytest.importorskip("torch", reason="the engine extra is not installed")
import numpy as np

from specialists.engine.prefixes import PrefixStore, shared_prefix


def tokens(*parts):
    return np.concatenate([np.arange(start, start + size) for start, size in parts])


def saved(count):
    return torch.zeros(1, count, 2, 1, 4)  # 32 bytes a token


def test_the_longest_match_of_the_same_adapter_is_found():
    store = PrefixStore(1 << 20)
    store.add(1, tokens((0, 40)), saved(40))
    store.add(1, tokens((0, 20), (500, 40)), saved(60))
    store.add(2, tokens((0, 100)), saved(100))
    asked = tokens((0, 20), (500, 30), (900, 5))
    assert store.find(1, asked)[0] == 50
    assert store.find(2, asked)[0] == 20
    assert store.find(3, asked) == (0, None)


def test_a_match_too_short_to_pay_is_not_used():
    store = PrefixStore(1 << 20)
    store.add(1, tokens((0, 40)), saved(40))
    assert store.find(1, tokens((0, 15), (70, 9))) == (0, None)


def test_the_least_recently_used_goes_first():
    store = PrefixStore(32 * 120)
    for start in (0, 100, 200):
        store.add(1, tokens((start, 40)), saved(40))
    store.find(1, tokens((0, 40)))
    store.add(1, tokens((300, 40)), saved(40))
    assert store.size_bytes == 32 * 120
    assert [store.find(1, tokens((start, 40)))[0] for start in (0, 100, 200, 300)] == [40, 0, 40, 40]


def test_a_continued_conversation_replaces_its_beginning_and_forgetting_frees_all():
    store = PrefixStore(1 << 20)
    store.add(1, tokens((0, 40)), saved(40))
    assert not store.worth_saving(1, tokens((0, 45)))
    assert store.worth_saving(1, tokens((0, 80)))
    store.add(1, tokens((0, 80)), saved(80))
    assert store.size_bytes == 32 * 80
    store.forget(1)
    assert store.size_bytes == 0


def test_shared_prefix_counts_leading_tokens():
    assert shared_prefix(tokens((0, 9)), tokens((0, 9))) == 9
    assert shared_prefix(tokens((0, 5), (50, 2)), tokens((0, 9))) == 5
    assert shared_prefix(tokens((0, 3)), tokens((7, 3))) == 0
