"""A task keeps its id from run to run, whatever of it stays: its calls, its signatures or its looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from pipelines.cluster_identity import (
    Calls,
    Known,
    Sketch,
    content_id,
    identify,
    operators_name_of,
    pack_members,
    read_members,
)


def members(*spans: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.arange(*span, dtype=np.uint64) for span in spans]) if spans else np.empty(0, np.uint64)


def sketch(*spans: tuple[int, int], signatures: str = "", terms: str = "", name: str = "") -> Sketch:
    return Sketch(members(*spans), frozenset(signatures.split()), frozenset(terms.split()), name)


def identified(found, known, before=((0, 1_000),), now=((0, 1_000),)):
    return identify(found, known, Calls(members(*before), members(*now)))


def test_the_first_run_names_by_content_and_the_next_keeps_the_names_in_any_order():
    first = [sketch((0, 100)), sketch((100, 300))]
    ids = identified(first, []).ids
    assert ids == tuple(map(content_id, first))
    assert all(one.startswith("t-") and len(one) == 12 for one in ids)
    known = [Known(name, one) for name, one in zip(ids, first, strict=True)]
    again = identified([sketch((100, 290)), sketch((0, 100), (290, 300))], known)
    assert again.ids == ids[::-1]
    assert again.new == () and again.gone == ()


def test_when_the_window_moved_on_signatures_decide():
    found = [sketch((500, 600), signatures="b"), sketch((600, 700), signatures="a c")]
    known = [Known("t-a", sketch((0, 50), signatures="a")), Known("t-b", sketch((50, 99), signatures="b"))]
    result = identified(found, known, before=((0, 99),), now=((500, 700),))
    assert result.ids == ("t-b", "t-a")
    assert {one.basis for one in result.drifts} == {"signatures"}


def test_when_nothing_else_is_left_looks_decide():
    found = [sketch((500, 600), terms="intent flight hotel visa")]
    known = [
        Known("t-kitchen", sketch((0, 50), terms="intent soup curry bread")),
        Known("t-travel", sketch((50, 99), terms="intent flight hotel train")),
    ]
    assert identified(found, known, before=((0, 99),), now=((500, 600),)).ids == ("t-travel",)


def test_a_task_that_split_leaves_its_id_to_the_greater_part():
    whole = Known("t-whole", sketch((0, 100)))
    result = identified([sketch((0, 30)), sketch((30, 100))], [whole])
    assert result.ids[1] == "t-whole" and result.ids[0] != "t-whole"
    assert result.new == (result.ids[0],)
    assert result.drifts[0].drift == pytest.approx(0.3) and not result.drifts[0].alert


def test_drift_is_judged_on_calls_that_both_runs_saw():
    known = [Known("t-a", sketch((0, 100)))]
    rolled = identified([sketch((50, 300))], known, before=((0, 100),), now=((50, 300),))
    assert rolled.drifts[0].drift == 0.0
    moved = identified([sketch((40, 300))], known, before=((0, 200),), now=((0, 300),))
    assert moved.drifts[0].drift == pytest.approx(1 - 60 / 200) and moved.drifts[0].alert


def test_what_is_gone_is_named():
    known = [Known("t-a", sketch((0, 100))), Known("t-b", sketch((100, 200)))]
    assert identified([sketch((0, 100))], known).gone == ("t-b",)


def test_the_operators_name_is_the_id_and_only_one_task_gets_it():
    found = [sketch((0, 40), name="refunds"), sketch((40, 200), name="refunds")]
    ids = identified(found, []).ids
    assert ids[1] == "refunds" and ids[0].startswith("t-")


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ({("refunds", "pattern"): 51, ("unknown", "none"): 49}, "refunds"),
        ({("refunds", "pattern"): 50, ("unknown", "none"): 50}, ""),
        ({("unknown", "none"): 100}, ""),
        ({("t-0123456789", "signature"): 100}, ""),
        ({("refunds", "learned"): 100}, ""),
    ],
)
def test_an_operators_name_needs_most_calls_and_the_operators_word(names, name):
    assert operators_name_of(names, 100) == name


def test_members_are_read_back_and_a_damaged_file_counts_as_none(tmp_path: Path):
    path = tmp_path / "members.npz"
    kept = {"t-a": members((0, 5)), "noise": members(), "t-b": members((9, 12))}
    path.write_bytes(pack_members(kept))
    read = read_members(path)
    assert {name: one.tolist() for name, one in read.items()} == {name: one.tolist() for name, one in kept.items()}
    path.write_bytes(path.read_bytes()[:40])
    assert read_members(path) == {}
    assert read_members(tmp_path / "none") == {}
