"""Ids and names."""

from __future__ import annotations

from registry.identifiers import (
    call_id_of,
    digest_of,
    new_call_id,
    new_ulid,
    plan_id_of,
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
