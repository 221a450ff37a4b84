"""Ids and names."""

from __future__ import annotations

import pytest

from registry.identifiers import (
    call_id_of,
    digest_of,
    is_name,
    new_call_id,
    new_ulid,
    plan_id_of,
    specialist_id,
    split_specialist_id,
)


def test_ids_sort_by_time_and_differ() -> None:
    assert new_ulid(1_000) < new_ulid(1_001) < new_ulid(2_000_000_000_000)
    assert len({new_ulid(5) for _ in range(1000)}) == 1000
    assert len(new_ulid()) == 26


def test_the_time_is_the_first_ten_characters() -> None:
    assert new_ulid(0).startswith("0000000000")
    assert new_ulid(32).startswith("0000000010")


def test_a_call_and_its_plan_share_one_id() -> None:
    call = new_call_id()
    assert plan_id_of(call) == "plan_" + call.removeprefix("chatcmpl-")
    assert call_id_of(plan_id_of(call)) == call
    assert call_id_of(call) == call


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [1, {"c": 2, "d": 3}]}) == digest_of({"b": [1, {"d": 3, "c": 2}], "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert len(digest_of(None)) == 64


@pytest.mark.parametrize("name", ["auto", "Qwen/Qwen2.5-7B", "echo:slow", "a", "x" * 128])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "x" * 129, "é", "../a"])
def test_not_names(name: str) -> None:
    assert not is_name(name)


def test_a_specialist_s_id_has_twelve_digits_of_its_digest() -> None:
    name = specialist_id("intents", "sha256:" + "ab" * 32)
    assert name == "intents@abababababab"
    assert split_specialist_id(name) == ("intents", "abababababab")


@pytest.mark.parametrize(
    "text", ["intents", "intents@", "intents@ABABABABABAB", "intents@ababababab", "in tents@abababababab"]
)
def test_what_is_not_a_specialist_s_id(text: str) -> None:
    assert split_specialist_id(text) is None
