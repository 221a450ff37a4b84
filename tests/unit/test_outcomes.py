"""Outcome files: both forms are read, and whatever is wrong is named by file, line, field and mend."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines.outcomes import OutcomeRow, as_arrays, check_same_arms, read_outcomes
from registry.errors import WorkloadError

GOOD = {"prompt": "p", "source": "s", "arms": {"a": {"reward": 1, "cost_usd": 0.1}, "b": {"reward": 0, "cost_usd": 0}}}
MARKED = {"prompt": "q", "subject": "law", "correct": {"a": True, "b": False}}
DATA = os.environ.get("JOURNEYMAN_DATA")


def written(folder: Path, *lines: object) -> Path:
    path = folder / "outcomes.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def arms(**one: object) -> dict[str, object]:
    return {"prompt": "p", "arms": {**GOOD["arms"], **one}}  # type: ignore[dict-item]


def test_rows_with_their_own_costs(tmp_path: Path) -> None:
    rows = read_outcomes(written(tmp_path, GOOD, "", GOOD))
    assert rows == [OutcomeRow("p", {"a": 1.0, "b": 0.0}, {"a": 0.1, "b": 0.0}, "s")] * 2


def test_marked_rows_with_flat_costs(tmp_path: Path) -> None:
    assert read_outcomes(written(tmp_path, MARKED), {"b": 2.0, "a": 1.0}) == [
        OutcomeRow("q", {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 2.0}, "law")
    ]


def test_arms_keep_the_first_rows_order(tmp_path: Path) -> None:
    turned = {"prompt": "p", "arms": dict(reversed(GOOD["arms"].items()))}  # type: ignore[attr-defined]
    matrix = as_arrays(read_outcomes(written(tmp_path, GOOD, turned)))
    assert matrix.arms == ("a", "b")
    assert matrix.rewards.tolist() == [[1, 0], [1, 0]]
    assert matrix.take([1]).costs_usd.tolist() == [[0.1, 0]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "p"', "one complete JSON object"),
        ("[]", "object"),
        ({"arms": GOOD["arms"]}, "`prompt`"),
        ({"prompt": "", "arms": GOOD["arms"]}, "$.prompt"),
        ({"prompt": 3, "arms": GOOD["arms"]}, "$.prompt"),
        ({"prompt": "p"}, "either `arms`"),
        ({**GOOD, **MARKED}, "either `arms`"),
        (MARKED, "a file has one form"),
        (arms(a={"reward": 1}), "`cost_usd`"),
        (arms(a={"reward": 1, "cost_usd": -0.1}), "from 0 to 1,000,000"),
        (arms(a={"reward": 1, "cost_usd": 1e200}), "from 0 to 1,000,000"),
        (arms(a={"reward": 1.2, "cost_usd": 1}), "from 0 to 1"),
        (arms(a={"reward": -0.1, "cost_usd": 1}), "from 0 to 1"),
        (arms(a={"reward": True, "cost_usd": 1}), "from 0 to 1"),
        (arms(a={"reward": None, "cost_usd": 1}), "from 0 to 1"),
        (json.dumps(arms(a={"reward": float("nan"), "cost_usd": 1})), "JSON"),
        (json.dumps(arms(a={"reward": 1, "cost_usd": float("inf")})), "JSON"),
        (json.dumps(GOOD).replace("0.1", "1e999"), "out of range"),
        ({"prompt": "p", "arms": {"a": {"reward": 1, "cost_usd": 1}}}, "missing 'b'"),
        (arms(c={"reward": 1, "cost_usd": 1}), "unknown 'c'"),
    ],
)
def test_a_bad_line_is_named_with_its_mend(tmp_path: Path, line: object, said: str) -> None:
    path = written(tmp_path, GOOD, line, GOOD)
    with pytest.raises(WorkloadError) as caught:
        read_outcomes(path)
    assert f"{path}:2: " in caught.value.message
    assert said in caught.value.message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(WorkloadError, match=r"x\.jsonl:2: "):
        read_outcomes(path)


def test_every_bad_line_is_named_but_not_a_flood(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError) as caught:
        read_outcomes(written(tmp_path, GOOD, *["[]"] * 30))
    assert caught.value.message.count("\n") == 20
    assert "and 10 more" in caught.value.message


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "gone.jsonl", "No such file"),
        (tmp_path, "a folder"),
        (written(tmp_path), "no row"),
    ):
        with pytest.raises(WorkloadError, match=said):
            read_outcomes(path)


def test_one_model_is_nothing_to_route(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="fewer than two"):
        read_outcomes(written(tmp_path, {"prompt": "p", "arms": {"a": {"reward": 1, "cost_usd": 1}}}))


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        (None, "--costs a=USD,b=USD"),
        ({"a": 1.0}, "missing 'b'"),
        ({"a": 1.0, "b": 1.0, "gpt": 1.0}, "unknown 'gpt'"),
    ],
)
def test_costs_that_do_not_fit_list_the_models(tmp_path: Path, costs: dict[str, float] | None, said: str) -> None:
    with pytest.raises(WorkloadError, match=said):
        read_outcomes(written(tmp_path, MARKED), costs)


def test_costs_beside_costs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="leave --costs out"):
        read_outcomes(written(tmp_path, GOOD), {"a": 1.0, "b": 1.0})


def test_two_files_need_the_same_arms(tmp_path: Path) -> None:
    ours = [OutcomeRow("p", {"a": 1, "b": 1}, {"a": 1, "b": 1})]
    other = [OutcomeRow("p", {"a": 1, "c": 1}, {"a": 1, "c": 1})]
    check_same_arms(tmp_path / "x", ours, tmp_path / "y", ours)
    with pytest.raises(WorkloadError, match="missing 'b', unknown 'c'"):
        check_same_arms(tmp_path / "x", ours, tmp_path / "y", other)


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="JOURNEYMAN_DATA names no folder of workloads")
def test_the_public_files_are_read_whole() -> None:
    folder = Path(DATA or "")
    three = as_arrays(read_outcomes(folder / "outcomes_three_models_val.jsonl"))
    assert three.rewards.shape == (1785, 3)
    assert three.costs_usd.mean(axis=0) == pytest.approx([2.93e-5, 5.03e-4, 1.50e-2], rel=0.01)
    two = as_arrays(read_outcomes(folder / "outcomes_two_models_mmlu.jsonl", {"mixtral-8x7b": 0.1, "gpt-4-1106": 1.0}))
    assert two.rewards.mean(axis=0) == pytest.approx([0.683, 0.788], abs=0.001)
