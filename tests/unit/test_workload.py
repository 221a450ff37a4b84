"""Reading workload folders: what is accepted, what is refused and how it is told."""

import json
import os

import pytest

from pipelines.workload import Workload
from registry.errors import EnvironmentFaultError, WorkloadError

APP = {"system": "Route it.", "grader": "json_equal", "tools": None, "response_format": None}


def folder(tmp_path, rows, app=APP, family="intents"):
    (tmp_path / "apps.json").write_text(json.dumps({family: app}))
    lines = [
        row if isinstance(row, str) else json.dumps({"id": f"r{at}", "split": "train"} | row)
        for at, row in enumerate(rows)
    ]
    (tmp_path / f"{family}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_row_becomes_a_complete_request(tmp_path):
    tool = {"type": "function", "function": {"name": "t", "parameters": {"type": "object", "properties": {}}}}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    loaded = Workload.load(
        folder(tmp_path, [{"input": "hi", "expected": {"a": 1}}], APP | {"tools": [tool], "response_format": shape})
    )
    (row,) = loaded.rows()
    assert loaded.request(row, "m") == {
        "model": "m",
        "messages": [{"role": "system", "content": "Route it."}, {"role": "user", "content": "hi"}],
        "tools": [tool],
        "response_format": shape,
    }


def test_declared_functions_become_openai_tools(tmp_path):
    parameters = {
        "type": "dict",
        "properties": {"x": {"type": "float"}, "type": {"type": "tuple", "items": {"type": "any"}}},
        "required": ["x"],
    }
    row = {
        "messages": [{"role": "user", "content": "go"}],
        "functions": [{"name": "math.f", "description": "d", "parameters": parameters}],
        "expected": [{"math.f": {"x": [1.0]}}],
    }
    loaded = Workload.load(folder(tmp_path, [row], APP | {"grader": "bfcl_ast"}))
    (parsed,) = loaded.rows()
    function = loaded.request(parsed)["tools"][0]["function"]
    assert function["name"] == "math_f"
    assert function["parameters"] == {
        "type": "object",
        "required": ["x"],
        "properties": {"x": {"type": "number"}, "type": {"type": "array", "items": {}}},
    }


def test_splits_and_families_are_chosen(tmp_path):
    rows = [
        {"input": "a", "expected": 1},
        {"input": "b", "expected": 1, "split": "dev"},
        {"input": "c", "expected": 1, "split": "hold"},
    ]
    loaded = Workload.load(folder(tmp_path, rows))
    assert [row.text for row in loaded.rows(splits=["dev", "hold"])] == ["b", "c"]
    with pytest.raises(WorkloadError, match="did you mean 'intents'"):
        list(loaded.rows(["intent"]))
    with pytest.raises(WorkloadError, match="no split 'test'"):
        list(loaded.rows(splits=["test"]))


def test_every_bad_line_is_named(tmp_path):
    rows = [
        {"input": "fine", "expected": {"a": 1}},
        "{not json",
        {"input": "no answer"},
        {"input": "x", "expected": 1, "split": "test"},
        {"expected": 1},
        {"input": "x", "expected": 1, "family": "other"},
    ]
    loaded = Workload.load(folder(tmp_path, rows))
    stream = loaded.rows()
    assert next(stream).text == "fine"
    with pytest.raises(WorkloadError) as caught:
        list(stream)
    lines = caught.value.message.splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "5", "6"]
    assert "needs `expected`" in lines[1]
    assert "$.split" in lines[2]


def test_many_bad_lines_are_counted_not_all_shown(tmp_path):
    loaded = Workload.load(folder(tmp_path, ["{"] * 50))
    with pytest.raises(WorkloadError, match="and 30 more"):
        loaded.check()


@pytest.mark.parametrize(
    ("grader", "row", "message"),
    [
        ("tool_call", {"input": "x", "expected": {"tool": "a"}}, "needs `expected`: {name, arguments}"),
        ("number", {"input": "x", "expected": "many"}, "needs a number"),
        ("bfcl_ast", {"input": "x", "expected": [{"f": {"a": 1}}]}, "bfcl_ast needs"),
        ("per_row", {"input": "x", "expected": "1"}, "must name its `grader`"),
        ("per_row", {"input": "x", "expected": "1", "grader": "guess"}, "no grader 'guess'"),
    ],
)
def test_a_row_its_grader_cannot_use_is_refused(tmp_path, grader, row, message):
    with pytest.raises(WorkloadError) as caught:
        Workload.load(folder(tmp_path, [row], APP | {"grader": grader})).check()
    assert message in caught.value.message
    assert "intents.jsonl:1:" in caught.value.message


def test_a_folder_without_apps_or_rows_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="not a folder"):
        Workload.load(tmp_path / "nowhere")
    with pytest.raises(WorkloadError, match=r"apps\.json: missing"):
        Workload.load(tmp_path)
    (tmp_path / "apps.json").write_text(json.dumps({"a": APP}))
    with pytest.raises(WorkloadError, match=r"no FAMILY\.jsonl"):
        Workload.load(tmp_path)
    (tmp_path / "apps.json").write_text(json.dumps({"a": {"system": 3}, "b": APP | {"grader": "jsonequal"}}))
    with pytest.raises(
        WorkloadError, match=r"(?s)a: .*\$\.system.*b: no grader 'jsonequal' \(did you mean 'json_equal'"
    ):
        Workload.load(tmp_path)


def test_ids_that_occur_twice_are_found(tmp_path):
    rows = [{"id": "same", "input": "a", "expected": 1}, {"id": "same", "input": "b", "expected": 1}]
    with pytest.raises(WorkloadError, match="'same' occurs twice"):
        Workload.load(folder(tmp_path, rows)).check()


def test_env_must_be_set_to_be_used(monkeypatch):
    monkeypatch.delenv("JOURNEYMAN_DATA", raising=False)
    with pytest.raises(EnvironmentFaultError, match="JOURNEYMAN_DATA"):
        Workload.parse("env")


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("JOURNEYMAN_DATA"), reason="$JOURNEYMAN_DATA names no workload folder")
def test_the_shared_workload_reads_without_a_finding():
    assert Workload.from_env().check() > 0
